"""Finding the threshold that spends a budget, against responses that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bitroute.episode import Decision, Episode, Signals, Step, Usage
from bitroute.errors import ConfigError
from bitroute.training.calibration import calibrate, recentre, spent

RANDOM = np.random.default_rng(0)
SCORES = {
    "normal": RANDOM.normal(size=4000),
    "skewed": RANDOM.lognormal(-4, 3, size=4000),  # as divergences are: nine decades
    "shifted": RANDOM.normal(100, 0.01, size=4000),
}
BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.9, 1.0)


def response(scores: np.ndarray, played: list[float]) -> Callable[[float], float]:
    """What comes of a threshold when the played trajectories hold half as many low scores again than the logged ones did."""
    met = np.append(scores, np.sort(scores)[:2000])

    def realised(threshold: float) -> float:
        played.append(threshold)
        return float((met > threshold).mean())

    return realised


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_budget_is_met_within_the_tolerance_and_never_exceeded(name: str, budget: float) -> None:
    played: list[float] = []
    result = calibrate(budget, response(SCORES[name], played), SCORES[name], tolerance=0.01, trials=8)
    assert budget - 0.01 <= result.share <= budget
    assert len(played) == len(result.trials) <= 8
    assert (result.threshold, result.share) in result.trials
    assert [threshold for threshold, _ in result.trials] == played


def test_a_response_unlike_the_logged_scores_is_bisected() -> None:
    """All played scores lie in a sliver of the logged ones' range."""
    played = 2.0 + 0.3 * np.random.default_rng(1).random(3000)
    result = calibrate(0.3, lambda t: float((played > t).mean()), np.random.default_rng(0).normal(size=4000), trials=12)
    assert 0.29 <= result.share <= 0.3


def test_a_first_guess_that_fits_is_not_played_twice() -> None:
    scores = np.arange(1000) / 1000
    result = calibrate(0.3, lambda t: float((scores > t).mean()), scores)
    assert len(result.trials) == 1
    assert result.threshold == pytest.approx(0.7, abs=0.002)


def test_where_the_share_jumps_over_the_budget_it_stays_below() -> None:
    scores = np.repeat([0.0, 1.0, 2.0], [600, 300, 100])  # shares to be had: 1, 0.4, 0.1, 0
    played: list[float] = []

    def realised(threshold: float) -> float:
        played.append(threshold)
        return float((scores > threshold).mean())

    result = calibrate(0.3, realised, scores)
    assert result.share == pytest.approx(0.1)
    assert len(set(played)) == len(played) <= 8


def test_when_every_trial_spends_too_much_the_last_is_above_all_scores() -> None:
    scores = np.linspace(0, 1, 100)
    result = calibrate(0.1, lambda t: 0.8 if t < 1.5 else 0.05, scores, trials=4)
    assert result.share == 0.05
    assert len(result.trials) <= 4


def test_when_too_much_cannot_be_avoided_the_least_is_kept() -> None:
    result = calibrate(0.1, lambda t: 0.5, np.linspace(0, 1, 100), trials=5)
    assert result.share == 0.5
    assert result.threshold == max(t for t, _ in result.trials)


def test_equal_scores_can_be_calibrated() -> None:
    result = calibrate(0.3, lambda t: float(t < 5.0), [5.0] * 50)
    assert result.share == 0.0


@pytest.mark.parametrize("budget", [-0.1, 1.2, float("nan")])
def test_a_budget_outside_0_to_1_is_refused(budget: float) -> None:
    with pytest.raises(ConfigError, match=r"budget .*: K is a share, 0\.\.1"):
        calibrate(budget, lambda t: 0.0, [1.0])


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [float("inf")]])
def test_scores_that_tell_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(ConfigError, match="logged scores"):
        calibrate(0.3, lambda t: 0.0, scores)


def test_at_least_one_trial() -> None:
    with pytest.raises(ConfigError, match="trials 0"):
        calibrate(0.3, lambda t: 0.0, [1.0], trials=0)


def episode(variants: str) -> Episode:
    names = {"l": "low", "m": "middle", "h": "high"}
    steps = [Step("", "", Decision(names[v]), Signals((), (), (), ()), Usage(names[v])) for v in variants]
    return Episode("t", "", "", "", 0, tuple(steps), success=True)


def test_what_an_episode_spends() -> None:
    assert spent(episode("hlll"), ("low", "high")) == 0.25
    assert spent(episode("hmml"), ("low", "middle", "high")) == 0.5
    assert spent(episode("hhh"), ("low", "middle", "high")) == 1.0
    assert spent(episode(""), ("low", "high")) == 0.0


def test_the_threshold_around_which_decisions_are_drawn_spends_the_budget() -> None:
    scores = [-3.0, 0.0, 1.0, 8.0]
    for budget in (0.1, 0.5, 0.9):
        threshold = recentre(scores, budget)
        assert sum(1 / (1 + 2.718281828459045 ** (threshold - s)) for s in scores) / 4 == pytest.approx(budget, abs=1e-6)
