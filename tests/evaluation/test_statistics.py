import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from bitroute.evaluation.statistics import (
    Discordance,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_means,
    holm,
    mcnemar,
    percentile_interval,
    ratio_estimate,
    spread,
    wilson,
)


def outcomes(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text])


def test_bootstrap_of_a_mean_agrees_with_normal_theory() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, size=800)
    estimate = bootstrap_mean(values)
    half = 1.959964 * values.std() / math.sqrt(800)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_resampled_means_have_the_right_moments() -> None:
    columns = np.random.default_rng(6).normal(size=(50, 2))
    columns[:, 1] = 0.5 * columns[:, 0] + columns[:, 1]
    samples = bootstrap_means(columns, resamples=40_000)
    assert samples.mean(axis=0) == pytest.approx(columns.mean(axis=0), abs=0.005)
    assert np.cov(samples.T) * 50 == pytest.approx(np.cov(columns.T, ddof=0), rel=0.05)


def test_resamples_are_whole_draws_and_depend_on_the_seed_alone() -> None:
    columns = np.eye(7)  # the resampled mean of indicator columns is the share of draws of each task
    samples = bootstrap_means(columns, resamples=1000, seed=1)
    assert np.allclose(samples * 7, np.round(samples * 7))
    assert np.allclose(samples.sum(axis=1), 1)
    assert np.array_equal(samples, bootstrap_means(columns, resamples=1000, seed=1))
    assert not np.array_equal(samples, bootstrap_means(columns, resamples=1000, seed=2))
    # a further column changes nothing for the others: that is what makes comparisons paired
    assert np.array_equal(samples, bootstrap_means(np.hstack([columns, columns]), resamples=1000, seed=1)[:, :7])


def test_chunks_cover_all_resamples() -> None:
    samples = bootstrap_means(np.ones((300_000, 1)), resamples=7)
    assert np.allclose(samples, 1)
    assert samples.shape == (7, 1)


def test_no_tasks_is_an_error() -> None:
    with pytest.raises(ValueError, match="no tasks"):
        bootstrap_means(np.empty((0, 2)))


def test_pairing_removes_what_tasks_share() -> None:
    rng = np.random.default_rng(7)
    difficulty = rng.normal(0, 10, size=200)
    first, second = difficulty + 1 + rng.normal(0, 0.1, 200), difficulty
    estimate = bootstrap_difference(first, second)
    assert estimate.value == pytest.approx(1.0, abs=0.02)
    assert estimate.high - estimate.low < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11])
def test_intervals_cover_the_truth_about_95_percent_of_the_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    repetitions, hits = 400, {"success": 0, "difference": 0}
    for repetition in range(repetitions):
        luck = rng.random(150)
        noise = rng.random((2, 150))
        # success probabilities: low 0.5, policy 0.65, with half of each task's luck shared between them
        low, policy = (triangle(luck + noise[i]) < p for i, p in enumerate((0.5, 0.65)))
        success = bootstrap_mean(policy, resamples=1000, seed=repetition)
        difference = bootstrap_difference(policy, low, resamples=1000, seed=repetition)
        hits["success"] += success.low <= 0.65 <= success.high
        hits["difference"] += difference.low <= 0.15 <= difference.high
    for name, count in hits.items():
        assert 0.92 <= count / repetitions <= 0.98, (name, count)


def triangle(total: np.ndarray) -> np.ndarray:
    """The distribution function of the sum of two uniform numbers: turns that sum into a uniform number again."""
    return np.where(total < 1, total**2 / 2, 1 - (2 - total) ** 2 / 2)


def test_percentile_interval_is_the_central_part() -> None:
    assert percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.arange(101.0), 0.5) == pytest.approx((25, 75))
    assert percentile_interval(np.array([np.nan, 1.0, 2.0]), 1.0) == (1, 2)
    assert all(math.isnan(x) for x in percentile_interval(np.array([np.nan])))


def test_resamples_with_a_negative_gap_count_as_they_come() -> None:
    estimate = ratio_estimate(1.0, 2.0, np.array([1.0, 1.0, 1.0, 1.0]), np.array([2.0, -2.0, 0.0, 4.0]))
    assert estimate is not None
    assert (estimate.value, estimate.low) == (0.5, pytest.approx(-0.4625))  # 2.5 % of the way from -0.5 to 0.25, twice
    assert ratio_estimate(1.0, 0.0, np.ones(3), np.ones(3)) is None


def test_wilson_against_published_figures() -> None:
    # Newcombe 1998, table I, method 3 (Wilson without continuity correction)
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        estimate = wilson(successes, trials)
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((successes / trials, low, high), abs=5e-5)
    assert wilson(29, 29).high == 1.0
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)


@pytest.mark.parametrize("trials", [1, 2, 29, 300, 12345])
def test_wilson_is_the_formula_of_his_paper(trials: int) -> None:
    z = 1.959963984540054
    for successes in range(0, trials + 1, max(1, trials // 20)):
        p = successes / trials
        centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
        half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials**2))
        estimate = wilson(successes, trials)
        expected = (p, max(0.0, centre - half), min(1.0, centre + half))
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(expected, abs=1e-14)


def test_mcnemar_is_the_binomial_tail() -> None:
    first, second = outcomes("1" * 12 + "0" * 3 + "1" * 20 + "0" * 5), outcomes("0" * 12 + "1" * 3 + "1" * 20 + "0" * 5)
    tail = sum(math.comb(15, k) for k in range(4)) / 2**15
    assert mcnemar(first, second) == Discordance(12, 3, pytest.approx(2 * tail))
    assert mcnemar(second, first) == Discordance(3, 12, pytest.approx(2 * tail))
    assert mcnemar(first, first) == Discordance(0, 0, 1.0)


def test_mcnemar_approaches_the_chi_square_form() -> None:
    first, second = outcomes("1" * 330 + "0" * 270), outcomes("0" * 330 + "1" * 270)
    corrected = chi2.sf((330 - 270 - 1) ** 2 / 600, 1)
    assert mcnemar(first, second).p == pytest.approx(corrected, rel=0.02)


def test_holm_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    bonferroni = [min(1.0, len(p_values) * p) for p in p_values]
    for p, low, high in zip(p_values, adjusted, bonferroni, strict=True):
        assert p <= low <= max(high, p)
    assert min(adjusted, default=0) == min(bonferroni, default=0)


def test_spread_over_seeds() -> None:
    assert spread([0.5, 0.6, 0.7]) == pytest.approx(0.1)
    assert spread([0.5]) is None
