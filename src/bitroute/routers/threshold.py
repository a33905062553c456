"""Routers that score the coming step and compare the score with thresholds: one per rung of the ladder above the lowest.

A score is any number that grows with the need for precision. Deterministic use takes the highest rung whose threshold the score
exceeds. Sampled use (GRPO, exploration) draws from the ordered logit model, P(at least rung i) = sigmoid(score - threshold i):
for two variants a plain Bernoulli draw. Moving the thresholds by one number moves the budget, so one trained router serves
every K.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from bitroute.episode import Decision, View
from bitroute.errors import ConfigError, DataError
from bitroute.routers.router import Router, draw

_DIGITS: Final = 12  # of a fingerprint that errors show, more only where two begin alike
_LEAST: Final = 256  # bytes of a state whose memory is nothing, or does not tell


@dataclass(slots=True)
class Scored:
    """An episode's state: its seed and whatever the scorer remembers."""

    seed: int
    memory: Any = None

    @property
    def nbytes(self) -> int:
        """About what the scorer's memory takes."""
        return int(getattr(self.memory, "nbytes", _LEAST))


class ThresholdRouter(Router):
    """Base class: a subclass says how to score (`scores`) and what to remember (`remember`)."""

    name = "threshold"

    def __init__(self, variants: Sequence[str], thresholds: float | Sequence[float] = 0.0, *, sample: bool = False) -> None:
        """Raises ConfigError for less than two variants and for thresholds that are not one number for all rungs, or an
        ascending one per rung above the lowest.
        """
        if len(variants) < 2:
            raise ConfigError("a router needs at least two variants to choose from")
        self.variants = tuple(variants)
        self._thresholds = _ascending(thresholds, self.variants)
        self._sample = sample

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One per rung above the lowest, ascending."""
        return self._thresholds

    @property
    def draws(self) -> bool:
        """Whether it samples."""
        return self._sample

    def with_options(self, *, threshold: float | Sequence[float] | None = None, sample: bool | None = None) -> Self:
        """A copy that shares everything but its thresholds and whether it samples."""
        other = copy.copy(self)
        if threshold is not None:
            other._thresholds = _ascending(threshold, self.variants)
        if sample is not None:
            other._sample = sample
        return other

    def begin(self, seed: int) -> Scored:
        """A fresh state."""
        return Scored(seed, self.remember())

    def branch(self, state: Scored, seed: int) -> Scored:
        """By default a fresh state."""
        return self.begin(seed)

    def remember(self) -> Any:
        """What the scorer keeps for one episode; nothing by default. Something large tells its size in bytes as `nbytes`."""
        return None

    @abstractmethod
    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """One score per view."""

    def decide(self, views: Sequence[View], states: Sequence[Scored]) -> list[Decision]:
        """Scores against thresholds, or draws from the ordered logit model when it samples."""
        scores = self.scores(views, states)
        return [
            settle(self, score, self._thresholds, state.seed, len(view.actions))
            for view, score, state in zip(views, scores, states, strict=True)
        ]


def settle(router: Router, score: float, thresholds: Sequence[float], seed: int, step: int) -> Decision:
    """What a router's `score` means against `thresholds` (ascending, one per rung above the lowest) at `step` of the episode
    with `seed`: whoever moves thresholds from step to step need not score again.
    """
    if router.draws:
        at_least = [1.0, *(sigmoid(score - t) for t in thresholds), 0.0]
        chance = draw(seed, step)
        rung = sum(chance < p for p in at_least) - 1
        propensity = at_least[rung] - at_least[rung + 1]
    else:
        rung, propensity = bisect_left(thresholds, score), 1.0  # of ascending ones, those that the score exceeds
    return Decision(router.variants[rung], score, router.name, propensity)


def _ascending(thresholds: float | Sequence[float], variants: Sequence[str]) -> tuple[float, ...]:
    rungs = len(variants) - 1
    values = (float(thresholds),) * rungs if isinstance(thresholds, int | float) else tuple(map(float, thresholds))
    if len(values) != rungs or any(math.isnan(v) for v in values) or list(values) != sorted(values):
        raise ConfigError(f"thresholds {values}: want {rungs} ascending numbers for {len(variants)} variants")
    return values


def refuse_others(path: Path, *, trained_for: str, model: str, ladder: Sequence[str], variants: Sequence[str]) -> None:
    """Raise DataError when a router in `path` was trained for another language model or another ladder than the given."""
    if trained_for != model:
        shown = max(
            _DIGITS, next((at for at, (a, b) in enumerate(zip(trained_for, model, strict=False), 1) if a != b), len(model) + 1)
        )
        raise DataError(f"{path}: was trained for model {trained_for[:shown]}, this is {model[:shown]}; train it again")
    if tuple(ladder) != tuple(variants):
        raise DataError(f"{path}: was trained for the variants {', '.join(ladder)}, not {', '.join(variants)}")


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
