"""Finds the threshold that spends a budget K, by playing: another threshold makes another trajectory, so logged scores do
not tell.

Knows a way to play with a threshold and the share of high steps that came of it; no router and no environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

from bitroute.episode import Episode
from bitroute.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Calibration:
    """The frozen threshold, the share it spent, and every trial on the way (threshold, share)."""

    threshold: float
    share: float
    trials: tuple[tuple[float, float], ...]


def spent(episode: Episode, variants: Sequence[str]) -> float:
    """What an episode spends of an all-high one of equal length, 0..1: its mean rung on the ladder `variants`, cheapest first.

    For two variants this is the share of steps at high precision, whose mean over episodes is the budget K. Zero steps spend 0.
    """
    rungs = [variants.index(step.decision.variant) for step in episode.steps]
    return sum(rungs) / max(1, len(rungs)) / (len(variants) - 1)


def realised_share(episodes: Sequence[Episode], variants: Sequence[str]) -> float:
    """K: the mean of what episodes spend; those without steps (they broke at once) do not count."""
    return float(np.mean([spent(e, variants) for e in episodes if e.steps]))


def recentre(scores: npt.ArrayLike, budget: float, weights: npt.ArrayLike | None = None) -> float:
    """The threshold around which sampled decisions spend `budget`: mean sigmoid(score - threshold) = budget, with `weights` of
    the scores if given.
    """
    values = np.asarray(scores, dtype=np.float64)
    spread = 30.0

    def surplus(threshold: float) -> float:
        return float(np.average(expit(values - threshold), weights=None if weights is None else np.asarray(weights))) - budget

    return float(brentq(surplus, values.min() - spread, values.max() + spread))


def calibrate(
    budget: float, realised: Callable[[float], float], scores: Sequence[float], *, tolerance: float = 0.01, trials: int = 8
) -> Calibration:
    """Search the threshold whose realised share lies in (budget - tolerance, budget].

    `realised(threshold)` plays and returns the share of high steps, which falls as the threshold rises; `scores` are logged
    scores. The search runs over their quantiles, not over thresholds: scores are skewed, and a quantile is about a share. It
    interpolates first, then bisects. Of all trials the one with the largest share not above `budget` is kept; while there is
    none, the last trial is spent on a threshold above all scores. Raises ConfigError for a budget outside 0..1 and without
    finite scores or trials.
    """
    if not 0.0 <= budget <= 1.0:
        raise ConfigError(f"budget {budget}: K is a share, 0..1")
    if trials < 1:
        raise ConfigError(f"trials {trials}: calibration plays at least once")
    logged = np.sort(np.asarray(scores, dtype=np.float64))
    if not len(logged) or not np.isfinite(logged).all():
        raise ConfigError("calibration needs logged scores, all finite, to search among")
    margin = float(np.ptp(logged)) or 1.0  # other trajectories may score beyond the logged ones
    ladder = np.concatenate(([logged[0] - margin], logged, [logged[-1] + margin]))
    left, right = (0.0, 1.0), (1.0, 0.0)  # (quantile, share) on both sides of the budget
    seen: dict[float, float] = {}
    guess = 1.0 - budget
    for _ in range(4 * trials):  # equal scores make equal thresholds, which are not played again
        threshold = float(np.quantile(ladder, guess))
        if threshold not in seen:
            if seen and len(seen) == trials - 1 and min(seen.values()) > budget:
                threshold = float(ladder[-1])
            seen[threshold] = realised(threshold)
            if budget - tolerance < seen[threshold] <= budget or len(seen) == trials:
                break
        if seen[threshold] > budget:
            left = (guess, seen[threshold])
        else:
            right = (guess, seen[threshold])
        guess = _between(left, right, budget - tolerance / 2) if len(seen) < 4 else (left[0] + right[0]) / 2
    within = {threshold: share for threshold, share in seen.items() if share <= budget} or {max(seen): seen[max(seen)]}
    best = max(within, key=lambda threshold: within[threshold])
    return Calibration(best, within[best], tuple(seen.items()))


def _between(left: tuple[float, float], right: tuple[float, float], share: float) -> float:
    """The quantile at which a line through both points has `share`, kept off the ends so that the bracket always shrinks."""
    slope = (left[1] - share) / max(left[1] - right[1], 1e-9)
    return left[0] + (right[0] - left[0]) * min(0.9, max(0.1, slope))
