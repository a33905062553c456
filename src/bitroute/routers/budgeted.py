"""A hard budget for one episode: at most so many steps at high precision, whatever the router inside says.

The mean over episodes that a threshold spends (K) says nothing of a single one: an agent in trouble may take high precision to
the end. Here the router is shown what is left (`View.budget_left`), and what goes beyond is served by the highest variant that
the rest still pays for. It knows the router's contract, and reads what was spent from the view: no memory, so that an episode
can be branched or taken up again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Self

from bitroute.episode import Decision, View
from bitroute.errors import ConfigError
from bitroute.routers.router import Reads, Router
from bitroute.routers.threshold import sigmoid

EXHAUSTED: Final = "budget"  # reason of a decision that the budget took
_ROUNDING: Final = 1e-9


def high_steps(taken: Sequence[str], variants: Sequence[str]) -> float:
    """What the variants `taken` spend, in steps at the highest of the ladder `variants`: the lowest costs nothing, between them
    it goes evenly.
    """
    return sum(variants.index(variant) for variant in taken) / (len(variants) - 1)


def budget_left(taken: Sequence[str], variants: Sequence[str], limit: float) -> float:
    """The part of `limit` (in steps at the highest variant) that is left, 0..1."""
    return max(0.0, 1.0 - high_steps(taken, variants) / limit) if limit > 0 else 0.0


class Budgeted(Router):
    """`router`, with `limit` steps at the highest variant an episode.

    Its thresholds are not shown: whoever moves them from step to step decides by himself and would go past the limit.
    `with_options` sets those of the router inside.
    """

    reads = Reads.TEXT  # past variants must be shown, whatever the router inside does without

    def __init__(self, router: Router, limit: float) -> None:
        if limit < 0:
            raise ConfigError(f"limit {limit:g} is negative")
        self.router, self.limit = router, limit
        self.name, self.variants = f"{router.name}, at most {limit:g}", router.variants
        self.probes, self.cost, self.failures = router.probes, router.cost, router.failures

    @property
    def draws(self) -> bool:
        """As the router inside."""
        return self.router.draws

    def with_options(self, *, threshold: float | Sequence[float] | None = None, sample: bool | None = None) -> Self:
        """The same limit around the router with these options."""
        return self._around(self.router.with_options(threshold=threshold, sample=sample))

    def to(self, device: str) -> Self:
        """The router inside moves."""
        return self._around(self.router.to(device))

    def _around(self, router: Router) -> Self:
        return self if router is self.router else type(self)(router, self.limit)

    def begin(self, seed: int) -> Any:
        """The state of the router inside."""
        return self.router.begin(seed)

    def branch(self, state: Any, seed: int) -> Any:
        """As the router inside."""
        return self.router.branch(state, seed)

    def decide(self, views: Sequence[View], states: Sequence[Any]) -> list[Decision]:
        """The router's decisions, as far as the budget goes."""
        told = [replace(view, budget_left=budget_left(view.variants, self.variants, self.limit)) for view in views]
        decisions = self.router.decide(told, states)
        return [self._within(decision, view) for decision, view in zip(decisions, views, strict=True)]

    def _within(self, decision: Decision, view: View) -> Decision:
        """The decision, or the highest variant that the rest pays for."""
        top = len(self.variants) - 1
        affordable = int(top * (self.limit - high_steps(view.variants, self.variants)) + _ROUNDING)
        if affordable >= top:
            return decision
        rung = min(self.variants.index(decision.variant), max(0, affordable))
        if affordable <= 0:
            return Decision(self.variants[0], decision.score, EXHAUSTED)
        if rung < affordable:
            return decision
        propensity = decision.propensity
        thresholds = self.router.thresholds
        if self.router.draws and thresholds is not None and decision.score is not None:
            propensity = sigmoid(decision.score - thresholds[rung - 1])  # of this rung or any above it
        return Decision(self.variants[rung], decision.score, decision.reason, propensity)
