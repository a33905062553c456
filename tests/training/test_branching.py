"""The worth of single steps on the toy, where it is known; and which states are sampled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitroute.episode import Episode
from bitroute.rollout.player import Forced, Player, play, play_numbered
from bitroute.routers.rules import Always
from bitroute.training.branching import BranchPoint, choose_points, measured, replays
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, ToyTask

PAIR = ("low", "high")
TASKS = [ToyTask(f"t{n}", "", "", ("easy blue",) * (4 - n) + ("hard red",) * n) for n in range(4)]


@pytest.fixture(scope="module")
def origins() -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Always(PAIR, "low"))
    return sorted(play(player, [(task, 0) for task in TASKS], "low"), key=lambda e: e.task_id)


def played(points: list[BranchPoint]) -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Always(PAIR, "low"))
    jobs = [(TASKS[r.index], r.seed, Forced(r.step, r.variant)) for r in replays(points, 0, 0, "high")]
    found = dict(play_numbered(player, jobs, "branch"))
    return [found[number] for number in range(len(points))]


def test_one_high_step_is_worth_an_episode_with_one_hard_step_and_nothing_elsewhere(origins: list[Episode]) -> None:
    points = choose_points(origins, 100, seed=0)
    assert [(p.origin, p.step) for p in points] == [(o, s) for o in range(4) for s in range(4)]  # all there are
    effects = measured(points, origins, played(points))
    assert {(e.point.origin, e.point.step) for e in effects if e.gain} == {(1, 3)}
    assert {e.gain for e in effects} == {0, 1}


def test_states_stand_for_those_that_were_not_sampled(origins: list[Episode]) -> None:
    points = choose_points(origins, 8, seed=0)
    lost = [p for p in points if not origins[p.origin].success]
    assert (len(points), len(lost)) == (8, 6)
    assert sum(p.weight for p in lost) == pytest.approx(12) and sum(p.weight for p in points) == pytest.approx(16)
    assert points == choose_points(origins, 8, seed=0) != choose_points(origins, 8, seed=1)
    alone = choose_points(origins[:1], 3, seed=0)  # nothing was lost
    assert len(alone) == 3 and {p.weight for p in alone} == {4 / 3}


def test_what_left_the_path_or_broke_is_left_out(origins: list[Episode]) -> None:
    points = [BranchPoint(1, 3, 1.0)]
    (whole,) = played(points)
    assert [e.gain for e in measured(points, origins, [whole])] == [1]
    strayed = replace(whole, steps=(replace(whole.steps[0], action="press green"), *whole.steps[1:]))
    for broken in (strayed, replace(whole, failure="environment: x"), replace(whole, steps=whole.steps[:3]), origins[1]):
        assert measured(points, origins, [broken]) == []
