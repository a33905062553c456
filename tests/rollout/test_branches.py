"""One-step counterfactual branches on the toy, where the worth of every step is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bitroute.engines.engine import CacheMode
from bitroute.episode import Sensitivity, View
from bitroute.errors import ConfigError
from bitroute.rollout.branches import Branch, branches, summarise_branches
from bitroute.rollout.player import Player, play
from bitroute.routers.router import Router
from bitroute.routers.rules import Always, Random
from bitroute.routers.threshold import Scored, ThresholdRouter
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, ToyTask, toy_task

PAIR = ("low", "high")
SOME = Sensitivity(0.1, 0.1, 0.1, 0.1, "press red", agrees=True)


def found(router: Router, tasks: Sequence[ToyTask], rate: float = 1.0, batch: int = 16, **options: object) -> list[Branch]:
    engine = FakeEngine(**options)  # type: ignore[arg-type]
    result = list(branches(Player(ToyEnvironment, ToyAgent(), engine, router), [(t, 0) for t in tasks], rate, batch))
    assert engine.alive == 0
    return sorted(result, key=lambda b: (b.task_id, b.step))


class Counter(ThresholdRouter):
    """Scores a step with its number."""

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        return [float(len(v.actions)) for v in views]


@pytest.mark.parametrize("mode", list(CacheMode))
def test_under_all_high_one_low_step_costs_the_episode_exactly_where_it_is_hard(mode: CacheMode) -> None:
    tasks = [toy_task(i) for i in range(12)]
    result = found(Always(PAIR, "high"), tasks, cache_mode=mode)
    hard = {(t.id, i): h for t in tasks for i, h in enumerate(t.hard)}
    assert {(b.task_id, b.step): b.high and not b.low for b in result} == hard
    assert all(b.high for b in result)
    summary = summarise_branches(result)
    assert summary.states == 72 and summary.failed == 0 and summary.hurt == 0
    assert summary.helped == sum(hard.values())
    assert summary.gain == pytest.approx(sum(hard.values()) / 72)
    assert summary.auc_divergence == 1.0  # KL tells where precision decides
    assert math.isnan(summary.auc_score)  # a fixed rule has no score


def test_under_all_low_one_high_step_saves_only_an_episode_with_one_hard_step() -> None:
    tasks = [ToyTask(f"t{n}", "", "", ("hard red",) * n + ("easy blue",) * (3 - n)) for n in range(4)]
    gains = {(b.task_id, b.step): b.high - b.low for b in found(Always(PAIR, "low"), tasks)}
    assert {k for k, gain in gains.items() if gain} == {("t1", 0)}
    assert len(gains) == 12


def test_the_score_is_the_routers_and_its_auc_is_worked_out() -> None:
    tasks = [ToyTask("t", "", "", ("hard red", "easy red", "hard blue", "easy red"))]
    result = found(Counter(PAIR, -1.0), tasks)  # always high
    assert [b.score for b in result] == [0.0, 1.0, 2.0, 3.0]
    # Differing: scores 0 and 2, alike: 1 and 3. Of the four comparisons 2 > 1 alone is won.
    assert summarise_branches(result).auc_score == pytest.approx(1 / 4)


def test_the_branch_that_takes_the_policys_own_decision_ends_as_the_episode_does() -> None:
    tasks = [toy_task(i, hard=0.4) for i in range(30)]
    router = Random(PAIR, 0.7)
    played = {
        e.task_id: e for e in play(Player(ToyEnvironment, ToyAgent(), FakeEngine(), router), [(t, 0) for t in tasks], "p")
    }
    result = found(router, tasks)
    assert len(result) == 180
    for branch in result:
        episode = played[branch.task_id]
        own = episode.steps[branch.step].decision.variant
        assert (branch.high if own == "high" else branch.low) == episode.success
    assert any(b.high != b.low for b in result)


def test_states_are_a_pure_function_of_the_jobs() -> None:
    tasks = [toy_task(i) for i in range(40)]
    some = found(Random(PAIR, 0.5), tasks, rate=0.3)
    assert some == found(Random(PAIR, 0.5), tasks, rate=0.3, batch=3)
    assert some == sorted(
        found(Random(PAIR, 0.5), tasks[:15], rate=0.3) + found(Random(PAIR, 0.5), tasks[15:], rate=0.3),
        key=lambda b: (b.task_id, b.step),
    )
    assert len(some) / 240 == pytest.approx(0.3, abs=0.08)
    every = {(b.task_id, b.step): b for b in found(Random(PAIR, 0.5), tasks)}
    assert all(every[b.task_id, b.step] == b for b in some)


def test_a_branch_that_breaks_is_counted_and_left_out() -> None:
    tasks = [
        ToyTask("breaks", "", "", ("easy red", "easy red", "easy red"), breaks="2"),
        ToyTask("fine", "", "", ("hard red",)),
        ToyTask("never", "", "", ("easy red",), breaks="reset"),
    ]
    result = found(Always(PAIR, "high"), tasks)
    assert [(b.task_id, b.failure is None) for b in result] == [("breaks", False)] * 3 + [("fine", True)]
    summary = summarise_branches(result)
    assert (summary.states, summary.failed, summary.helped) == (1, 3, 1)


def test_the_error_of_the_gain_knows_that_states_of_an_episode_belong_together() -> None:
    def state(task: int, step: int, high: bool) -> Branch:
        return Branch(f"t{task}", "", 0, step, high, False, SOME, None)

    alone = summarise_branches([state(i, 0, i < 5) for i in range(10)])
    assert (alone.gain, alone.gain_error) == (0.5, pytest.approx(math.sqrt(0.25 / 9)))
    together = summarise_branches([state(i, step, i < 5) for i in range(10) for step in range(4)])
    assert (together.gain, together.gain_error) == (0.5, pytest.approx(math.sqrt(0.25 / 9)))


def test_nothing_found_is_no_number() -> None:
    summary = summarise_branches([])
    assert summary.states == 0 and math.isnan(summary.gain) and math.isnan(summary.auc_divergence)
    one = summarise_branches([Branch("t", "", 0, 0, True, False, replace(SOME, kl_sum=2.0), 1.0)])
    assert one.gain == 1.0 and math.isnan(one.gain_error) and math.isnan(one.auc_score)


@pytest.mark.parametrize(("rate", "batch", "message"), [(1.5, 4, "rate 1.5"), (-0.1, 4, "rate -0.1"), (0.5, 0, "batch 0")])
def test_wrong_arguments_are_refused(rate: float, batch: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        found(Always(PAIR, "low"), [], rate=rate, batch=batch)
