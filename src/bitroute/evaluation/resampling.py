"""Uncertainty over tasks and pipelines together: what other tasks, and other seeds of the whole pipeline, would have given.

It knows arrays of columns over seeds and tasks, and nothing of policies. Tasks are resampled for all policies at once, which
keeps every comparison paired, and so are the seeds of policies that have the same ones: equal seeds share labels and tasks.

The model is two-way: a column is mean + task + seed + both, as in Owen 2007 (the pigeonhole bootstrap). Resampling both ways
at once counts what belongs to one task under one seed three times over, so variances are put together as Cameron, Gelbach and
Miller 2011 do for two-way clusters: tasks alone, plus seeds alone, minus what the two share. Of S seeds S - 1 are drawn, which
makes the variance unbiased, and few seeds widen an interval as Student's t does (Satterthwaite 1946). With one seed all of
this is the paired bootstrap over tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from bitroute.evaluation.statistics import CONFIDENCE, Estimate, Floats, bootstrap_means, percentile_interval

Seeds = tuple[int, ...]
Statistic = Callable[[Floats], Floats]  # means [..., policies, columns] -> [...]


@dataclass(frozen=True, slots=True)
class GapRecovered:
    """(policy - low) / (high - low), unclipped: 1 is the high variant's success, 0 the low one's, either may be passed.

    `inverted` is the share of resamples in which low did at least as well as high. Their ratios count as they come (a zero
    denominator has none and is left out): when the share is not small, the interval says little, and says so by its width.
    """

    estimate: Estimate
    inverted: float


@dataclass(frozen=True, slots=True)
class Resamples:
    """Means of columns: as measured [policies, columns], and resampled [resamples, policies, columns].

    `both` draws tasks and seeds anew, `tasks` keeps the seeds, `seeds` keeps the tasks. `counts` says how many seeds each has.
    """

    point: Floats
    both: Floats
    tasks: Floats
    seeds: Floats
    counts: tuple[int, ...]

    def estimate(self, statistic: Statistic, policies: Sequence[int]) -> Estimate:
        """A statistic of the means of `policies`, with its interval."""
        counts = [self.counts[i] for i in policies]
        value = float(statistic(self.point))
        return two_way_interval(
            value,
            statistic(self.both),
            statistic(self.tasks),
            statistic(self.seeds),
            min((c for c in counts if c > 1), default=1),
        )


def gap_recovered(resamples: Resamples, column: int, *, policy: int, low: int, high: int) -> GapRecovered | None:
    """The gap recovered by a policy in a column of successes; None when low and high do equally well."""

    def gap(means: Floats) -> Floats:
        # Rounding: means of equal outcomes can differ in the last bit, and a gap of 1e-17 is none.
        found: Floats = np.round(means[..., high, column] - means[..., low, column], 12)
        return found

    if gap(resamples.point) == 0:
        return None
    estimate = resamples.estimate(
        lambda means: ratio(means[..., policy, column] - means[..., low, column], gap(means)), [policy, low, high]
    )
    return GapRecovered(estimate, float(np.mean(gap(resamples.both) <= 0)))


def ratio(numerator: Floats, denominator: Floats, otherwise: float = float("nan")) -> Floats:
    """A ratio, `otherwise` where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator != 0)


def resample(columns: Sequence[Floats], seeds: Sequence[Seeds], *, resamples: int, seed: int = 0) -> Resamples:
    """Resample the columns [seeds, tasks, columns] of each policy, whose seeds are `seeds`; all have the same tasks.

    The tasks drawn are those of `bootstrap_means` with the same `seed`.
    """
    sizes = [len(own) for own in seeds]
    tasks, width = columns[0].shape[1:]
    flat = np.concatenate(columns).transpose(1, 0, 2).reshape(tasks, -1)
    drawn = bootstrap_means(flat, resamples=resamples, seed=seed).reshape(resamples, -1, width)
    measured = flat.mean(axis=0).reshape(-1, width)
    weights = _seed_weights(seeds, resamples, seed)
    both, by_tasks, by_seeds = (np.empty((resamples, len(sizes), width)) for _ in range(3))
    point = np.empty((len(sizes), width))
    ends = np.cumsum(sizes)
    for i, (end, size) in enumerate(zip(ends, sizes, strict=True)):
        part = slice(end - size, end)
        point[i] = measured[part].mean(axis=0)
        by_tasks[:, i] = drawn[:, part].mean(axis=1)
        if size == 1:
            both[:, i], by_seeds[:, i] = by_tasks[:, i], point[i]
        else:
            both[:, i] = np.einsum("rs,rsc->rc", weights[seeds[i]], drawn[:, part])
            by_seeds[:, i] = weights[seeds[i]] @ measured[part]
    return Resamples(point, both, by_tasks, by_seeds, tuple(sizes))


def _seed_weights(seeds: Sequence[Seeds], resamples: int, seed: int) -> dict[Seeds, Floats]:
    """The part that each seed has in each resample [resamples, seeds], for every tuple of several seeds."""
    weights = {}
    for own in sorted({own for own in seeds if len(own) > 1}):
        size = len(own)
        drawn = np.random.default_rng([seed, *own]).integers(0, size, size=(resamples, size - 1))
        counts = np.bincount((drawn + np.arange(resamples)[:, None] * size).ravel(), minlength=resamples * size)
        weights[own] = counts.reshape(resamples, size) / (size - 1)
    return weights


def two_way_interval(value: float, both: Floats, tasks: Floats, seeds: Floats, count: int) -> Estimate:
    """The percentile interval of `both`, brought to the two-way variance and, for few seeds, to Student's t.

    `tasks` and `seeds` are resampled one way, `count` is the number of seeds. NaN values (a ratio without a denominator) are
    left out.
    """
    low, high = percentile_interval(both)
    if count == 1:
        return Estimate(value, low, high)
    mixed, by_tasks, by_seeds = (_variance(samples) for samples in (both, tasks, seeds))
    variance, freedom = _two_way(by_tasks, by_seeds, mixed - by_tasks - by_seeds, count)
    if mixed == 0:
        return Estimate(value, low, high)
    tail = (1 + CONFIDENCE) / 2
    stretch = float(np.sqrt(variance / mixed) * t.ppf(tail, freedom) / norm.ppf(tail))
    return Estimate(value, value + stretch * (low - value), value + stretch * (high - value))


def _variance(samples: Floats) -> float:
    kept = samples[~np.isnan(samples)]
    return float(kept.var()) if kept.size else 0.0


def _two_way(by_tasks: float, by_seeds: float, shared: float, count: int) -> tuple[float, float]:
    """Variance and degrees of freedom. Each way alone is a lower bound, which a noisy difference must not fall below."""
    variance = max(by_tasks + by_seeds - max(shared, 0.0), by_tasks, by_seeds)
    return variance, (count - 1) * (variance / by_seeds) ** 2 if by_seeds > 0 else float("inf")


def two_way_p(parts: Mapping[Seeds, Floats]) -> float:
    """The two-sided p-value that a mean of paired differences is zero, over tasks and seeds.

    A difference is a sum over policies; `parts` [seeds, tasks] holds the sum of those that have the same seeds, by these. With
    one seed each it is the normal approximation of a paired test over tasks.
    """
    joined = np.sum([part.mean(axis=0) for part in parts.values()], axis=0)
    tasks = len(joined)
    if tasks < 2:
        return 1.0
    by_seeds = shared = freedom = 0.0
    for part in parts.values():
        size = len(part)
        if size > 1:
            own = float(part.mean(axis=1).var(ddof=1)) / size
            inner = part - part.mean(axis=0) - part.mean(axis=1)[:, None] + part.mean()
            shared += float((inner**2).sum()) / ((size - 1) * (tasks - 1)) / (size * tasks)
            by_seeds += own
            freedom += own**2 / (size - 1)
    by_tasks = float(joined.var(ddof=1)) / tasks
    variance, _ = _two_way(by_tasks, by_seeds, shared, 2)
    mean = float(joined.mean())
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    statistic = abs(mean) / np.sqrt(variance)
    return float(2 * (t.sf(statistic, variance**2 / freedom) if freedom > 0 else norm.sf(statistic)))
