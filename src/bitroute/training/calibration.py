"""Finds the threshold that spends a budget K, by playing: another threshold makes another trajectory, so logged scores do
not tell.

Knows a way to play with a threshold and the share of high steps that came of it; no router and no environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitroute.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Calibration:
    """The frozen threshold, the share it spent, and every trial on the way (threshold, share)."""

    threshold: float
    share: float
    trials: tuple[tuple[float, float], ...]


def calibrate(
    budget: float, realised: Callable[[float], float], scores: Sequence[float], *, tolerance: float = 0.01, trials: int = 8
) -> Calibration:
    """Bisect the threshold until the realised share lies in (budget - tolerance, budget].

    `realised(threshold)` plays and returns the share of high steps, which falls as the threshold rises; `scores` are logged
    scores, for the first guess and the bracket. Of all trials the one with the largest share not above `budget` is kept; when
    none is, the one that spends least. Raises ConfigError for a budget outside 0..1 or without scores.
    """
    if not 0.0 <= budget <= 1.0:
        raise ConfigError(f"budget {budget}: K is a share, 0..1")
    if not len(scores):
        raise ConfigError("calibration needs logged scores for its first guess")
    span = float(np.ptp(scores)) or 1.0
    below, above = float(np.min(scores)) - span, float(np.max(scores)) + span
    guess = float(np.quantile(scores, 1 - budget))
    seen: list[tuple[float, float]] = []
    for _ in range(trials):
        share = realised(guess)
        seen.append((guess, share))
        if budget - tolerance < share <= budget:
            break
        if share > budget:
            below = guess
        else:
            above = guess
        guess = (below + above) / 2 if len(seen) > 1 else _second(guess, share, budget, scores, below, above)
    within = [t for t in seen if t[1] <= budget]
    best = max(within, key=lambda t: t[1]) if within else min(seen, key=lambda t: t[1])
    return Calibration(best[0], best[1], tuple(seen))


def _second(guess: float, share: float, budget: float, scores: Sequence[float], below: float, above: float) -> float:
    """The second guess corrects the first by as much as it was off, on the scale of the logged scores."""
    off = share - budget
    corrected = float(np.quantile(scores, min(1.0, max(0.0, 1 - budget + off))))
    return corrected if below < corrected < above else (below + above) / 2 if corrected == guess else corrected
