"""A hard budget: enforced whatever the router inside says, shown to it, alike from any state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitroute.episode import View
from bitroute.errors import DataError
from bitroute.rollout.player import Player, play
from bitroute.routers.budgeted import EXHAUSTED, Budgeted, budget_left, high_steps
from bitroute.routers.registry import build_router, find_source, signature
from bitroute.routers.router import Reads
from bitroute.routers.rules import Always, Random
from bitroute.routers.threshold import Scored, ThresholdRouter, sigmoid
from support.engine import LADDER_OF_THREE, FakeEngine
from support.routing import save_signals
from support.toy import ToyAgent, ToyEnvironment, toy_task

PAIR, TRIO = ("low", "high"), ("low", "middle", "high")


class Left(ThresholdRouter):
    """Scores a step with the budget that is left."""

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        return [-1.0 if v.budget_left is None else v.budget_left for v in views]


@pytest.mark.parametrize("limit", [0, 1, 2.9, 4])
def test_no_episode_has_more_high_steps_than_the_limit(limit: float) -> None:
    router = Budgeted(Always(PAIR, "high"), limit)
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), router)
    for episode in play(player, [(toy_task(i), 0) for i in range(8)], "hard"):
        spent = [s.decision.variant == "high" for s in episode.steps]
        assert sum(spent) == int(limit) and spent == sorted(spent, reverse=True)
        assert [s.decision.reason for s in episode.steps[int(limit) :]] == [EXHAUSTED] * (len(spent) - int(limit))


@given(taken=st.lists(st.sampled_from(TRIO), max_size=12), limit=st.floats(0, 6), says=st.sampled_from(TRIO))
def test_on_a_longer_ladder_the_highest_rung_that_the_rest_pays_for_is_served(
    taken: list[str], limit: float, says: str
) -> None:
    view = View(("a",) * (len(taken) + 1), ("x",) * len(taken), tuple(taken))
    (decision,) = Budgeted(Always(TRIO, says), limit).decide([view], [0])
    spent, cost = high_steps(taken, TRIO), high_steps([decision.variant], TRIO)
    assert cost == 0 or spent + cost <= limit + 1e-6
    assert TRIO.index(decision.variant) <= TRIO.index(says)
    if decision.variant != says:  # one rung more would be too much
        assert spent + cost + 0.5 > limit - 1e-6


def test_the_router_inside_sees_what_is_left() -> None:
    router = Budgeted(Left(PAIR, 0.6), 4)
    views = [View(("a",) * (n + 1), ("x",) * n, ("high",) * n) for n in range(5)]
    decisions = router.decide(views, [router.begin(0) for _ in views])
    assert [d.score for d in decisions] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [d.variant for d in decisions] == ["high", "high", "low", "low", "low"]
    assert budget_left(("high",), PAIR, 0) == 0.0


def test_a_drawn_rung_that_is_cut_down_has_the_chance_of_all_above() -> None:
    inner = Left(TRIO, (0.0, 0.1), sample=True)
    router = Budgeted(inner, 1)
    view = View(("a", "b"), ("x",), ("middle",))
    found = {(d := router.decide([view], [router.begin(seed)])[0]).variant: d.propensity for seed in range(64)}
    assert found == {"low": pytest.approx(1 - sigmoid(0.5)), "middle": pytest.approx(sigmoid(0.5))}
    assert router.draws and Budgeted(Random(PAIR, 0.5), 1).draws


def test_its_thresholds_are_set_inside_and_not_shown() -> None:
    router = Budgeted(Left(PAIR), 2)
    assert router.thresholds is None  # the gateway would go past the limit by them
    raised = router.with_options(threshold=3.0)
    assert raised.router.thresholds == (3.0,) and raised.limit == 2
    assert Budgeted(Always(PAIR, "high"), 1).reads is Reads.TEXT


def test_it_is_written_around_any_other_router(tmp_path: Path) -> None:
    path = save_signals(tmp_path / "signals.json", PAIR, {}, bias=1.0, model="model")
    spec = f"at-most:2:{path}"
    router = build_router(spec, PAIR, "model")
    assert router.name == "signals, at most 2"
    assert find_source(spec).files() == find_source(str(path)).files() and signature(spec) == signature(str(path))
    assert build_router("at-most:1:at-most:2:random:0.5", TRIO, "m").name == "random(0.5), at most 2, at most 1"
    with pytest.raises(DataError, match=r"signals\.json: was trained for model"):
        build_router(spec, PAIR, "another")


def test_the_ladder_in_play_is_the_engines() -> None:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(LADDER_OF_THREE), Budgeted(Always(TRIO, "middle"), 1))
    for episode in play(player, [(toy_task(i), 0) for i in range(3)], "hard"):
        assert [s.decision.variant for s in episode.steps][:3] == ["middle", "middle", "low"]
