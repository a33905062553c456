"""The statistics of paired comparisons over tasks: intervals, tests, corrections. Purely arrays here: no episode, no policy.

Everything rests on one picture: a matrix [tasks, columns] whose rows are tasks and whose columns are what several policies
scored on them. Resampling rows keeps the pairing, so differences and ratios of columns get their intervals from the same
resamples (Efron and Tibshirani 1993, chapters 8 and 13: bootstrap of paired data, percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate with its interval (95 % unless said otherwise)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Discordance:
    """A paired test: tasks where the first did better, where the second did, and the two-sided p-value."""

    wins: int
    losses: int
    p: float


def bootstrap_means(columns: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means of columns [tasks, columns] over resampled tasks: [resamples, columns]. Equal seeds give equal resamples.

    Raises ValueError when there is no task.
    """
    tasks = columns.shape[0]
    if tasks == 0:
        raise ValueError("cannot resample: there are no tasks")
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    # A resample is how often each task was drawn: one matrix product serves all columns, in chunks of about 8 MB of counts.
    chunk = max(1, 1_000_000 // tasks)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, tasks, size=(size, tasks)) + np.arange(size)[:, None] * tasks
        counts = np.bincount(drawn.ravel(), minlength=size * tasks).reshape(size, tasks)
        means[start : start + size] = counts.astype(np.float64) @ columns
    means /= tasks
    return means


def percentile_interval(samples: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central `confidence` part of resampled values; (nan, nan) when there are none. NaN values are left out."""
    kept = samples[~np.isnan(samples)]
    if kept.size == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_mean(values: Sequence[float] | Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of one column with its percentile interval."""
    column = np.asarray(values, dtype=np.float64)
    samples = bootstrap_means(column[:, None], resamples=resamples, seed=seed)[:, 0]
    return Estimate(float(column.mean()), *percentile_interval(samples))


def bootstrap_difference(first: Floats, second: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of `first` minus that of `second` on the same tasks, with its paired interval."""
    return bootstrap_mean(np.asarray(first, np.float64) - np.asarray(second, np.float64), resamples=resamples, seed=seed)


def ratio_estimate(numerator: float, denominator: float, numerators: Floats, denominators: Floats) -> Estimate | None:
    """A ratio with the percentile interval of its resamples; resamples with a zero denominator are left out.

    None when the denominator of the point estimate is zero.
    """
    if denominator == 0:
        return None
    ratios = np.divide(numerators, denominators, out=np.full_like(numerators, np.nan), where=denominators != 0)
    return Estimate(numerator / denominator, *percentile_interval(ratios))


def wilson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Estimate:
    """The Wilson score interval of a proportion (Wilson 1927). Raises ValueError without trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"a proportion needs 0 <= successes <= trials and a trial, got {successes} of {trials}")
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high))


def newcombe(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent proportions from their Wilson intervals (Newcombe 1998, method 10)."""
    value = first.value - second.value
    below = float(np.hypot(first.value - first.low, second.high - second.value))
    above = float(np.hypot(first.high - first.value, second.value - second.low))
    return Estimate(value, value - below, value + above)


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Discordance:
    """McNemar's exact two-sided test of two policies' successes on the same tasks (McNemar 1947; binomial, not chi-square)."""
    wins, losses = int(np.sum(first & ~second)), int(np.sum(~first & second))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Discordance(wins, losses, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given: below alpha means significant in the family."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation over seeds (n - 1 in the denominator); None for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
