"""Signs of trouble, weighed by hand: the router for those who have not trained one yet.

Nobody fitted these weights to anything: they are guesses about agents in general (plans are made early, and after a failure or
in a loop something must change), good for a first look at routed traffic and for nothing a trained router does better. It reads
what `signals` reads, and needs no log-probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bitroute.routers.features import FEATURES
from bitroute.routers.signals import SignalsModel, SignalsRouter

WEIGHTS: Final[Mapping[str, float]] = {
    "log step": -0.25,  # plans are made early
    "last action failed": 1.5,
    "message seen before": 1.0,  # going in circles
    "last action repeated": 1.0,
    "share of repeated actions": 1.0,
    "share of new words": 0.5,  # something new to understand
    "goal word in message": 0.5,  # what is looked for came in sight
    "share at high": -0.5,  # spread over the episode what the budget allows
    "last entropy": 0.5,  # where known
}
BIAS: Final = -0.5  # a threshold of 0 lets some steps pass, and not most


class Heuristic(SignalsRouter):
    """The hand-set score over `features.FEATURES`; larger means more need for high precision."""

    name = "heuristic"

    def __init__(self, variants: Sequence[str], thresholds: float | Sequence[float] = 0.0) -> None:
        super().__init__(
            SignalsModel(
                features=FEATURES,
                mean=(0.0,) * len(FEATURES),
                scale=(1.0,) * len(FEATURES),
                weights=tuple(WEIGHTS.get(name, 0.0) for name in FEATURES),
                bias=BIAS,
                variants=tuple(variants),
                model="",
                failures=(),
            ),
            thresholds,
        )
