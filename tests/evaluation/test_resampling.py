"""Two-way resampling against closed forms, and against a random-effects model whose truth is known."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from bitroute.evaluation.resampling import GapRecovered, Resamples, gap_recovered, resample, two_way_p
from bitroute.evaluation.statistics import bootstrap_mean

PIPELINES = (0, 1, 2)


def of_columns(*columns: Sequence[float] | np.ndarray, resamples: int = 10_000) -> Resamples:
    """One column [tasks] or [seeds, tasks] a policy."""
    arrays = [np.atleast_2d(np.asarray(column, dtype=np.float64))[:, :, None] for column in columns]
    return resample(arrays, [tuple(range(len(a))) for a in arrays], resamples=resamples)


def model(seed: int, tasks: int, seeds: int, sd: tuple[float, float, float]) -> np.ndarray:
    """[seeds, tasks] around 0: effects of tasks, of seeds, and of both together, with these standard deviations."""
    rng = np.random.default_rng(seed)
    by_task, by_seed, by_both = sd
    return (
        by_task * rng.normal(size=(1, tasks))
        + by_seed * rng.normal(size=(seeds, 1))
        + by_both * rng.normal(size=(seeds, tasks))
    )


def test_with_one_seed_it_is_the_paired_bootstrap() -> None:
    values = np.random.default_rng(4).random(80)
    found = of_columns(values)
    assert found.estimate(lambda means: means[..., 0, 0], [0]) == bootstrap_mean(values)
    assert np.array_equal(found.both, found.tasks)
    assert np.ptp(found.seeds) == 0


def test_one_way_variances_are_the_closed_forms() -> None:
    values = model(5, tasks=40, seeds=4, sd=(1.0, 1.0, 0.5))
    found = of_columns(values, resamples=60_000)
    assert found.point[0, 0] == pytest.approx(values.mean())
    assert found.tasks.var() == pytest.approx(values.mean(axis=0).var() / 40, rel=0.03)
    assert found.seeds.var() == pytest.approx(values.mean(axis=1).var(ddof=1) / 4, rel=0.03)  # unbiased: 3 of 4 are drawn


def test_policies_with_the_same_seeds_are_resampled_together() -> None:
    values = model(6, tasks=30, seeds=3, sd=(1.0, 1.0, 1.0))
    found = of_columns(values, values + 1, np.zeros(30))
    assert np.allclose(found.both[:, 1] - found.both[:, 0], 1)
    difference = found.estimate(lambda means: means[..., 1, 0] - means[..., 0, 0], [0, 1])
    assert (difference.low, difference.high) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize(
    ("sd", "seeds"),
    [((1.0, 0.0, 0.001), 3), ((1.0, 0.2, 1.0), 3), ((1.0, 1.0, 1.0), 3), ((0.0, 0.0, 1.0), 3), ((1.0, 1.0, 1.0), 6)],
    ids=["tasks", "all", "seeds", "both", "six seeds"],
)
def test_intervals_and_tests_hold_what_they_promise_on_a_known_model(sd: tuple[float, float, float], seeds: int) -> None:
    repetitions, covered, found = 300, 0, 0
    for repetition in range(repetitions):
        values = model(repetition, tasks=60, seeds=seeds, sd=sd)
        estimate = of_columns(values, resamples=400).estimate(lambda means: means[..., 0, 0], [0])
        covered += estimate.low <= 0 <= estimate.high
        found += two_way_p({tuple(range(seeds)): values}) < 0.05
    assert covered / repetitions >= 0.91
    assert found / repetitions <= 0.09


def test_seeds_that_share_their_tasks_luck_need_more_than_tasks_alone() -> None:
    """Intervals over tasks alone, where seeds differ as much as tasks do, hold the truth in every second table at best."""
    covered = 0
    for repetition in range(200):
        values = model(repetition, tasks=60, seeds=3, sd=(1.0, 1.0, 1.0))
        estimate = bootstrap_mean(values.mean(axis=0), resamples=400)
        covered += estimate.low <= 0 <= estimate.high
    assert covered / 200 < 0.6


def test_the_test_of_one_seed_is_the_normal_approximation() -> None:
    differences = np.array([[1.0, 0.0, 0.0, 1.0, -1.0, 1.0, 0.0, 1.0]])
    z = 0.375 / (differences.std(ddof=1) / math.sqrt(8))
    assert two_way_p({(0,): differences}) == pytest.approx(math.erfc(z / math.sqrt(2)))
    assert two_way_p({(0,): np.zeros((1, 4))}) == 1.0
    assert two_way_p({(0,): np.ones((1, 4))}) == 0.0


def test_the_test_adds_parts_whose_seeds_are_others() -> None:
    policy, rival = model(7, 50, 3, (1.0, 0.0, 0.001)) + 1.0, model(7, 50, 1, (1.0, 0.0, 0.001))
    difference = (policy.mean(axis=0) - rival[0])[None]
    alone = two_way_p({(0,): difference})
    assert two_way_p({PIPELINES: policy, (0,): -rival}) == pytest.approx(alone, abs=1e-6)
    shifted = policy + np.array([[-1.0], [0.0], [1.0]])  # the seeds now differ by a point of 1.0, whose error is 0.58
    assert two_way_p({PIPELINES: shifted, (0,): -rival}) > 0.05


def test_the_interval_and_the_test_agree_on_many_seeds() -> None:
    values = model(8, tasks=200, seeds=12, sd=(1.0, 0.3, 0.5)) + 0.2
    estimate = of_columns(values).estimate(lambda means: means[..., 0, 0], [0])
    error = (estimate.high - estimate.low) / (2 * norm.ppf(0.975))
    p = two_way_p({tuple(range(12)): values})
    assert p == pytest.approx(math.erfc(estimate.value / error / math.sqrt(2)), abs=0.03)


def outcomes(text: str) -> list[float]:
    return [float(c) for c in text]


def recovered(policy: str, low: str, high: str) -> GapRecovered | None:
    return gap_recovered(of_columns(*map(outcomes, (policy, low, high))), 0, policy=0, low=1, high=2)


def test_gap_recovered_is_not_clipped() -> None:
    high, low = "1111111100", "1111000000"
    for policy, value in (("1111110000", 0.5), ("1111111111", 1.5), ("1100000000", -0.5), ("1111111100", 1.0)):
        gap = recovered(policy, low, high)
        assert gap is not None
        assert gap.estimate.value == pytest.approx(value)
    # the policy that is high itself recovers 1 in every resample that has a gap
    assert (gap.estimate.low, gap.estimate.high) == (pytest.approx(1), pytest.approx(1))


def test_gap_recovered_tells_how_often_the_gap_was_not_there() -> None:
    high, low = "1110", "1101"  # one task for each: the gap's sign is a coin's
    assert recovered(high, low, high) is None
    high, low = "1111", "1101"  # the gap is zero unless the third task is drawn: (3/4)^4 = 0.316
    gap = recovered("1111", low, high)
    assert gap is not None
    assert gap.inverted == pytest.approx(0.75**4, abs=0.02)
    assert (gap.estimate.low, gap.estimate.high) == (1, 1)  # resamples without a gap have no ratio and are left out


def test_the_gap_covers_the_truth_over_seeds_too() -> None:
    """Low 0.5, high 0.8, and pipelines whose own successes are 0.65 with a deviation of 0.05: the mean of all recovers half."""
    covered = 0
    for repetition in range(200):
        rng = np.random.default_rng([9, repetition])
        luck = rng.random(150)
        skill = rng.normal(0.65, 0.05, size=(3, 1))
        policy = np.where(rng.random((3, 150)) < 0.3, rng.random((3, 150)), luck) < skill
        gap = gap_recovered(of_columns(policy, luck < 0.5, luck < 0.8, resamples=400), 0, policy=0, low=1, high=2)
        assert gap is not None
        covered += gap.estimate.low <= 0.5 <= gap.estimate.high
    assert covered / 200 >= 0.91
