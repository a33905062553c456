"""Keeping a router within a budget K: which threshold spends it, what was spent, and the alarm when the two differ.

Where calibration by playing found thresholds for the router, they hold. Otherwise the threshold is the running (1 - K) quantile
of the scores that this policy lately gave (of equal ones a part), beginning at the router's own threshold until `SETTLED`
scores were seen; a threshold moves the trajectories that the next scores come from, so this follows K without ever being sure
of it. K = 0 and K = 1 need no scores: all low and all high.

With feedback an integral controller moves the threshold, in quantiles of the recent scores, against the difference between what
was spent and K. One step moves it by difference / `INERTIA`: what it corrects is the drift of hours, not the episode at hand.

It knows numbers alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from typing import Final

from bitroute.routers.calibrated import Calibrated, threshold_for

SETTLED: Final = 50  # scores before their quantile is trusted
INERTIA: Final = 2000.0  # steps: the controller's time constant
CALM: Final = 0.8  # of the limit: below it an alarm ends
SCORES: Final = 4096  # scores that are kept


class Meter:
    """The mean of the last `window` shares."""

    def __init__(self, window: int) -> None:
        self._shares: deque[float] = deque(maxlen=window)
        self._total = 0.0

    def __len__(self) -> int:
        return len(self._shares)

    def add(self, share: float) -> None:
        """One step's: 1 at the highest variant, 0 at the lowest."""
        if len(self._shares) == self._shares.maxlen:
            self._total -= self._shares[0]
        self._shares.append(share)
        self._total += share

    @property
    def settled(self) -> bool:
        """Whether half of the window is filled: fewer steps differ from K by chance."""
        return 2 * len(self._shares) >= (self._shares.maxlen or 0)

    @property
    def mean(self) -> float | None:
        """None before the first step."""
        return self._total / len(self._shares) if self._shares else None


class Scores:
    """The last `size` scores, in order of value."""

    def __init__(self, size: int = SCORES) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._size = size

    def __len__(self) -> int:
        return len(self._recent)

    def add(self, score: float) -> None:
        """Raises ValueError for a score that is not a number: it has no order."""
        if math.isnan(score):
            raise ValueError("a score is not a number")
        if len(self._recent) == self._size:
            del self._sorted[bisect_right(self._sorted, self._recent.popleft()) - 1]
        self._recent.append(score)
        insort(self._sorted, score)

    def cut(self, share: float) -> tuple[float, float]:
        """The quantile at `share` (taken into 0..1), and which part of the scores equal to it lies above the cut.

        Scores are often equal: those of short messages, or all of them where nothing is known. At 0 the quantile is minus
        infinity.
        """
        place = round(min(1.0, share) * len(self._sorted), 9)
        if place <= 0:
            return -math.inf, 0.0
        value = self._sorted[math.ceil(place) - 1]
        below, upto = bisect_left(self._sorted, value), bisect_right(self._sorted, value)
        return value, (upto - place) / (upto - below)

    def rank(self, threshold: float) -> float:
        """The share of scores that do not exceed `threshold`."""
        return bisect_right(self._sorted, threshold) / max(1, len(self._sorted))


class Control:
    """The thresholds of one router for one budget, and what was spent under them.

    `own` are the router's thresholds, one per rung above the lowest (none for a rule without thresholds); on a longer ladder
    they keep their distances (`gaps`), and K is the mean rung. `calibration` may be empty, or end before K.
    """

    def __init__(
        self,
        budget: float,
        own: Sequence[float] = (),
        calibration: Sequence[Calibrated] = (),
        *,
        window: int,
        alarm: float = 1.0,
        feedback: bool = False,
    ) -> None:
        """`window` steps are compared with the budget; a difference of more than `alarm` is one."""
        self.budget, self.meter = budget, Meter(window)
        self.calibrated = _calibrated(budget, calibration)
        self._own = own[0] if own else 0.0
        self._gaps = gaps(own) if self.calibrated is None else (0.0,) * len(own)  # calibration finds one number for all rungs
        self._feedback, self._shift = feedback and 0.0 < budget < 1.0, 0.0
        self._limit, self._carry = alarm, 0.0
        self.alarm = False  # whether what was spent has left the budget, as far as the steps seen can tell
        self.latest: tuple[float, ...] = tuple(own)  # thresholds

    def thresholds(self, scores: Scores) -> tuple[float, ...]:
        """Those of the next step: one per rung above the lowest, ascending.

        `scores` holds the router's recent ones, less each of `gaps`.
        """
        base = self._base(scores)
        self.latest = tuple(base + gap for gap in self._gaps)
        return self.latest

    def observe(self, share: float) -> None:
        """One step spent `share`: 1 at the highest variant, 0 at the lowest."""
        self.meter.add(share)
        if (mean := self.meter.mean) is not None and self.meter.settled:
            # It ends well within the limit: at the very limit it would come and go with every step.
            self.alarm = abs(mean - self.budget) > (CALM * self._limit if self.alarm else self._limit)
        if self._feedback:
            lowest, highest = (self.budget - 1.0, self.budget) if self.calibrated is None else (-1.0, 1.0)
            self._shift = min(highest, max(lowest, self._shift + (share - self.budget) / INERTIA))

    def _base(self, scores: Scores) -> float:
        if self.budget in (0.0, 1.0):
            return math.inf if self.budget == 0.0 else -math.inf
        if len(scores) < SETTLED:
            return self._own if self.calibrated is None else self.calibrated
        if self.calibrated is None:
            return self._cut(scores, 1.0 - self.budget + self._shift)
        return self.calibrated if self._shift == 0.0 else self._cut(scores, scores.rank(self.calibrated) + self._shift)

    def _cut(self, scores: Scores, share: float) -> float:
        """The quantile, or just below it at evenly spread steps: so the right part of equal scores exceeds it."""
        value, part = scores.cut(share)
        self._carry += part
        if self._carry < 1.0:
            return value
        self._carry -= 1.0
        return math.nextafter(value, -math.inf)


def gaps(thresholds: Sequence[float]) -> tuple[float, ...]:
    """How far each threshold lies above the lowest rung's."""
    return tuple(t - thresholds[0] if t > thresholds[0] else 0.0 for t in thresholds)


def _calibrated(budget: float, rows: Sequence[Calibrated]) -> float | None:
    """The threshold for `budget`, None outside of what was calibrated."""
    if not rows or not rows[0].budget <= budget <= rows[-1].budget:
        return None
    return threshold_for(rows, budget)
