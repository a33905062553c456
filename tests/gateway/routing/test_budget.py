"""Meters, quantiles and thresholds: what is spent comes near K, and an alarm says where it does not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from bitroute.gateway.routing.budget import INERTIA, SETTLED, Control, Meter, Scores, gaps
from bitroute.routers.calibrated import Calibrated

ROWS = (Calibrated(0.2, 3.0, 0.2), Calibrated(0.4, 1.0, 0.4))


def filled(values: list[float], size: int = 4096) -> Scores:
    scores = Scores(size)
    for value in values:
        scores.add(value)
    return scores


def test_a_meter_holds_the_mean_of_its_window() -> None:
    meter = Meter(4)
    assert meter.mean is None and not meter.settled
    for share in (1.0, 0.0, 0.0, 1.0, 1.0, 1.0):
        meter.add(share)
    assert len(meter) == 4 and meter.mean == 0.75 and meter.settled


@pytest.mark.parametrize(
    ("share", "cut"),
    [(-0.5, (-math.inf, 0)), (0, (-math.inf, 0)), (0.2, (1, 0)), (0.25, (2, 0.75)), (0.7, (4, 0.5)), (1, (5, 0)), (2, (5, 0))],
)
def test_a_cut_leaves_the_share_below(share: float, cut: tuple[float, float]) -> None:
    assert filled([5, 3, 1, 4, 2]).cut(share) == pytest.approx(cut)


def test_a_cut_divides_equal_scores() -> None:
    assert filled([0, 1, 1, 1, 1, 2, 2, 3]).cut(0.5) == (1, 0.25)
    assert filled([7] * 10).cut(0.7) == (7, pytest.approx(0.3))


def test_scores_forget_the_oldest() -> None:
    chance = random.Random(0)
    values = [chance.gauss(0, 1) for _ in range(500)]
    scores = filled(values, size=64)
    assert len(scores) == 64
    assert [scores.cut(i / 64)[0] for i in range(1, 65)] == sorted(values[-64:])
    assert scores.rank(sorted(values[-64:])[31]) == 0.5


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Scores().add(math.nan)


def test_thresholds_begin_at_the_routers_own_and_become_the_quantile() -> None:
    control = Control(0.3, (0.5,), window=10)
    scores = filled([float(i) for i in range(SETTLED - 1)])
    assert control.thresholds(scores) == (0.5,)
    scores.add(SETTLED - 1.0)
    (threshold,) = control.thresholds(scores)
    assert sum(i > threshold for i in range(SETTLED)) == round(0.3 * SETTLED)


def test_a_calibrated_threshold_holds_whatever_the_scores() -> None:
    assert Control(0.3, (0.5,), ROWS, window=10).thresholds(filled([0.0] * SETTLED)) == (2.0,)
    outside = Control(0.5, (0.5,), ROWS, window=10)
    assert outside.calibrated is None and outside.thresholds(Scores()) == (0.5,)


def test_nothing_and_everything_need_no_scores() -> None:
    assert Control(0.0, (0.5, 0.7), ROWS, window=10).thresholds(Scores()) == (math.inf, math.inf)
    assert Control(1.0, (0.5,), window=10).thresholds(filled([0.0] * SETTLED)) == (-math.inf,)


def test_on_a_longer_ladder_the_mean_rung_is_the_budget() -> None:
    own = (-1.0, 0.0, 0.5)
    control, scores = Control(0.3, own, window=10), Scores(3 * 4096)
    assert gaps(own) == (0.0, 1.0, 1.5)
    chance = random.Random(1)
    values = [chance.gauss(0, 2) for _ in range(2000)]
    for value in values:
        for gap in gaps(own):
            scores.add(value - gap)
    thresholds = control.thresholds(scores)
    assert [t - thresholds[0] for t in thresholds] == pytest.approx([0.0, 1.0, 1.5])
    rungs = [sum(value > t for t in thresholds) / 3 for value in values]
    assert sum(rungs) / len(rungs) == pytest.approx(0.3, abs=0.001)


def test_a_rule_without_thresholds_has_none() -> None:
    assert Control(0.3, window=10).thresholds(Scores()) == ()


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_equal_scores_spend_the_budget_too(levels: int) -> None:
    chance = random.Random(3)
    assert drive(Control(0.3, (0.0,), window=10), lambda: chance.randrange(levels), 8000) == pytest.approx(0.3, abs=0.02)


def drive(control: Control, draw: Callable[[], float], steps: int) -> float:
    """Steps with drawn scores under the control; the share spent over the second half."""
    scores, spent = Scores(), []
    for _ in range(steps):
        score = draw()
        (threshold,) = control.thresholds(scores)
        scores.add(score)
        spent.append(float(score > threshold))
        control.observe(spent[-1])
    return sum(spent[steps // 2 :]) / (steps - steps // 2)


def test_feedback_corrects_a_calibration_that_no_longer_holds() -> None:
    chance = random.Random(2)
    draw = lambda: chance.gauss(2.5, 1.0)  # noqa: E731  (the calibrated 2.0 for K = 0.3 now spends 0.69)
    assert drive(Control(0.3, (0.0,), ROWS, window=2000), draw, 4000) == pytest.approx(0.69, abs=0.03)
    steps = int(8 * INERTIA)
    assert drive(Control(0.3, (0.0,), ROWS, window=2000, feedback=True), draw, steps) == pytest.approx(0.3, abs=0.03)


def test_feedback_is_slow_and_stays_within_the_quantiles() -> None:
    control, scores = Control(0.3, (0.0,), window=10, feedback=True), filled([float(i) for i in range(1000)])
    (before,) = control.thresholds(scores)
    for _ in range(10):
        control.observe(1.0)
    (after,) = control.thresholds(scores)
    assert 0 < after - before <= 10
    for _ in range(20 * int(INERTIA)):
        control.observe(0.0)
    assert control.thresholds(scores) == (-math.inf,)
    for _ in range(int(INERTIA)):
        control.observe(1.0)
    assert control.thresholds(scores)[0] > before - 10  # it does not take another twenty times as long to come back


def test_the_alarm_waits_for_half_a_window() -> None:
    control = Control(0.3, (0.0,), window=100, alarm=0.05)
    for step in range(49):
        control.observe(1.0)
        assert not control.alarm, step
    control.observe(1.0)
    assert control.alarm
    for step in range(100):
        control.observe(float(step % 10 < 3))
    assert not control.alarm


def test_the_alarm_does_not_come_and_go_at_the_very_limit() -> None:
    control, heard = Control(0.3, (0.0,), window=100, alarm=0.05), 0
    for step in range(2000):
        before = control.alarm
        control.observe(float(step % 100 < 35 or (step % 200) == 99))  # 0.35 and 0.36 of a window, in turns
        heard += control.alarm != before
    assert heard == 1 and control.alarm
