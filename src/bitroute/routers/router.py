"""What a router is: it reads a view of the episode so far and picks the variant of the next step.

Fixed rules, heuristics, oracles and trained routers all stand behind this one contract. A router knows no environment and no
engine: what it wants measured it declares in `probes`, the rollout measures it and charges the cost.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from bitroute.episode import Decision, View


class Probe(StrEnum):
    """A measurement on the coming step, made before the decision and charged as cost."""

    LOW_GENERATION = "low-generation"  # View.probe: the signals of the action that the lowest variant would take
    SENSITIVITY = "sensitivity"  # View.sensitivity: KL(high || low) of the coming action; needs both variants, so an oracle's


class Router(Protocol):
    """A policy over the ladder `variants` (cheapest first). `decide` is batched: one view per running episode."""

    name: str
    variants: tuple[str, ...]
    probes: frozenset[Probe]

    def begin(self, seed: int) -> Any:
        """The state of a new episode (its seed, a cache ...)."""
        ...

    def decide(self, views: Sequence[View], states: Sequence[Any]) -> list[Decision]:
        """One decision per view; states are updated in place and belong to the view at the same index.

        The decision is a function of view and seed: a fresh state decides as one that has seen the whole episode. So an
        episode can be branched, or taken up again after a restart.
        """
        ...


def draw(seed: int, step: int) -> float:
    """The random number in 0..1 that belongs to `step` of the episode with `seed`."""
    return random.Random(f"{seed}|{step}").random()
