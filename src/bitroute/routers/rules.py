"""Rules that look at nothing but the step's number: the baselines that cost no thought."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from bitroute.episode import Decision, View
from bitroute.errors import CapabilityError, ConfigError
from bitroute.routers.router import Probe, draw


def share(value: float) -> float:
    """`value`, or ConfigError when it is no share."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"share {value} is outside 0..1")
    return value


class Always:
    """Every step at `variant`: the all-high and all-low references, or any rung between."""

    probes: frozenset[Probe] = frozenset()

    def __init__(self, variants: Sequence[str], variant: str) -> None:
        if variant not in variants:
            raise CapabilityError(f"unknown variant {variant!r}; there are {', '.join(variants)}")
        self.variants, self.variant, self.name = tuple(variants), variant, f"always({variant})"

    def begin(self, seed: int) -> None:
        """No state."""

    def decide(self, views: Sequence[View], states: Sequence[None]) -> list[Decision]:
        """The same for all."""
        return [Decision(self.variant, reason="always") for _ in views]


class Random:
    """High with probability `p`, independently at each step; seeded by the episode."""

    probes: frozenset[Probe] = frozenset()

    def __init__(self, variants: Sequence[str], p: float) -> None:
        self.variants, self.p, self.name = tuple(variants), share(p), f"random({p:g})"

    def begin(self, seed: int) -> int:
        """The episode's seed."""
        return seed

    def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
        """One draw a step."""
        high = [draw(seed, len(view.actions)) < self.p for view, seed in zip(views, states, strict=True)]
        return [Decision(self.variants[-1 if h else 0], reason="random", propensity=self.p if h else 1 - self.p) for h in high]


class Periodic:
    """A share `p` of the steps at high, spread evenly: step t is high when the running total p * t passes a whole number."""

    probes: frozenset[Probe] = frozenset()

    def __init__(self, variants: Sequence[str], p: float) -> None:
        self.variants, self.p, self.name = tuple(variants), Fraction(share(p)).limit_denominator(1000), f"periodic({p:g})"

    def begin(self, seed: int) -> Fraction:
        """A phase, so that episodes do not all spend on the same steps."""
        return Fraction(random.Random(seed).randrange(1000), 1000)

    def decide(self, views: Sequence[View], states: Sequence[Fraction]) -> list[Decision]:
        """By the number of steps played so far."""
        decisions = []
        for view, phase in zip(views, states, strict=True):
            step = len(view.actions)
            high = (phase + self.p * (step + 1)) // 1 > (phase + self.p * step) // 1
            decisions.append(Decision(self.variants[-1 if high else 0], reason="periodic"))
        return decisions


class FirstK:
    """The first `k` steps of an episode at high, the rest at low."""

    probes: frozenset[Probe] = frozenset()

    def __init__(self, variants: Sequence[str], k: int) -> None:
        if k < 0:
            raise ConfigError(f"k {k} is negative")
        self.variants, self.k, self.name = tuple(variants), k, f"first-k({k})"

    def begin(self, seed: int) -> None:
        """No state."""

    def decide(self, views: Sequence[View], states: Sequence[None]) -> list[Decision]:
        """By the number of steps played so far."""
        return [Decision(self.variants[-1 if len(v.actions) < self.k else 0], reason="first-k") for v in views]
