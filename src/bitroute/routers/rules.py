"""Rules that need no training: those that look at nothing but the step's number, and one that sees repetition. They know no
model and no environment: the baselines that cost no thought.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction

from bitroute.episode import Decision, View
from bitroute.errors import CapabilityError, ConfigError
from bitroute.routers.router import Reads, Router, draw


def checked_share(value: float) -> float:
    """`value`, or ConfigError when it is no share."""
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"share {value} is outside 0..1")
    return value


class Always(Router):
    """Every step at `variant`: the all-high and all-low references, or any rung between."""

    reads = Reads.NOTHING

    def __init__(self, variants: Sequence[str], variant: str) -> None:
        if variant not in variants:
            raise CapabilityError(f"unknown variant {variant!r}; there are {', '.join(variants)}")
        self.variants, self.variant, self.name = tuple(variants), variant, f"always({variant})"

    def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
        """The same for all."""
        return [Decision(self.variant, reason="always") for _ in views]


class Random(Router):
    """High with probability `p`, independently at each step; seeded by the episode."""

    reads = Reads.NOTHING

    def __init__(self, variants: Sequence[str], p: float) -> None:
        self.variants, self.p, self.name = tuple(variants), checked_share(p), f"random({p:g})"

    @property
    def draws(self) -> bool:
        """Always."""
        return True

    def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
        """One draw a step."""
        high = [draw(seed, len(view.actions)) < self.p for view, seed in zip(views, states, strict=True)]
        return [Decision(self.variants[-1 if h else 0], reason="random", propensity=self.p if h else 1 - self.p) for h in high]


class Periodic(Router):
    """A share `p` of the steps at high, spread evenly: step t is high when the running total p * t passes a whole number."""

    reads = Reads.NOTHING

    def __init__(self, variants: Sequence[str], p: float) -> None:
        self.variants, self.p, self.name = (
            tuple(variants),
            Fraction(checked_share(p)).limit_denominator(1000),
            f"periodic({p:g})",
        )

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


class FirstK(Router):
    """The first `k` steps of an episode at high, the rest at low.

    Where `k` is no whole number, one more step is at high in that part of the episodes, drawn by the episode's seed: so any
    budget can be met.
    """

    reads = Reads.NOTHING

    def __init__(self, variants: Sequence[str], k: float) -> None:
        if not 0 <= k < math.inf:
            raise ConfigError(f"k {k:g} is negative" if k < 0 else f"k {k:g} is no number of steps")
        self.variants, self.k, self.name = tuple(variants), k, f"first-k({k:g})"
        self._whole, self._part = int(k), k - int(k)

    @property
    def draws(self) -> bool:
        """Where one step more or less is a matter of luck."""
        return self._part > 0

    def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
        """By the number of steps played so far."""
        decisions = []
        for view, seed in zip(views, states, strict=True):
            step = len(view.actions)
            chance = 1.0 if step < self._whole else self._part if step == self._whole else 0.0
            high = draw(seed, step) < chance
            decisions.append(
                Decision(self.variants[-1 if high else 0], reason="first-k", propensity=chance if high else 1 - chance)
            )
        return decisions


class Repetition(Router):
    """High when the newest message was seen before in the episode, and for `dwell` steps after: an agent in a circle."""

    def __init__(self, variants: Sequence[str], dwell: int = 0) -> None:
        if dwell < 0:
            raise ConfigError(f"dwell {dwell} is negative")
        self.variants, self.dwell = tuple(variants), dwell
        self.name = f"repetition({dwell})" if dwell else "repetition"

    def decide(self, views: Sequence[View], states: Sequence[int]) -> list[Decision]:
        """By the texts of the messages alone."""
        return [Decision(self.variants[-1 if self._repeated(v.messages) else 0], reason="repetition") for v in views]

    def _repeated(self, messages: Sequence[str]) -> bool:
        """Whether one of the newest `dwell` + 1 messages was seen before it."""
        first = max(0, len(messages) - self.dwell - 1)
        seen = set(messages[:first])
        for message in messages[first:]:
            if message in seen:
                return True
            seen.add(message)
        return False
