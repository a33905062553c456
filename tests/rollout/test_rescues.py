"""How many steps at high precision a lost episode needs, on the toy, where that is known."""

from __future__ import annotations

import pytest

from bitroute.engines.engine import CacheMode
from bitroute.errors import ConfigError
from bitroute.rollout.player import Player
from bitroute.rollout.rescues import Attempt, Rescue, attempts, rescues
from bitroute.routers.rules import Always
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, ToyTask

EASY, HARD = "easy red", "hard blue"
ONE = ToyTask("one", "", "", (EASY, HARD, EASY, EASY))
TWO = ToyTask("two", "", "", (HARD, EASY, HARD, EASY))
THREE = ToyTask("three", "", "", (HARD, HARD, EASY, HARD))
NONE = ToyTask("none", "", "", (EASY,) * 4)


def player(mode: CacheMode = CacheMode.OWN) -> Player:
    return Player(ToyEnvironment, ToyAgent(), FakeEngine(cache_mode=mode), Always(("low", "high"), "low"))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_task_is_rescued_by_as_many_steps_as_are_hard(batch: int) -> None:
    playing = player()
    found = {rescue.task_id: rescue for rescue in rescues(playing, [ONE, TWO, THREE, NONE], batch=batch)}
    assert found == {
        "one": Rescue("one", 4, (1,)),
        "two": Rescue("two", 4, (), ((0, 2),), tried=1),
        "three": Rescue("three", 4, (), (), tried=3),
    }
    assert playing.engine.alive == 0  # type: ignore[attr-defined]


def test_steps_at_which_both_act_alike_are_tried_only_where_the_cache_would_differ() -> None:
    own = list(attempts(player(), [ONE]))
    assert sorted(own, key=lambda a: a.highs) == [Attempt("one", (), 4, False), Attempt("one", (1,), 4, True)]
    shared = {a.highs: a.success for a in attempts(player(CacheMode.SHARED), [ONE], highs=2)}
    assert {highs for highs in shared if len(highs) == 1} == {(0,), (1,), (2,), (3,)}
    assert len([highs for highs in shared if len(highs) == 2]) == 6
    assert [highs for highs, won in shared.items() if won and len(highs) == 1] == [(1,)]


def test_a_share_of_the_pairs_is_drawn_from_task_and_steps_alone() -> None:
    long = ToyTask("long", "", "", (HARD,) * 12)
    tried = [{a.highs for a in attempts(player(), [long, *more], highs=2, rate=0.4)} for more in ((), (ONE,))]
    assert tried[0] == {highs for highs in tried[1] if highs in tried[0]}
    pairs = [highs for highs in tried[0] if len(highs) == 2]
    assert 0.2 * 66 < len(pairs) < 0.6 * 66
    assert list(rescues(player(), [TWO], rate=0.0)) == [Rescue("two", 4, ())]


def test_what_breaks_is_no_lost_task() -> None:
    broken = ToyTask("broken", "", "", (EASY, HARD, EASY), breaks="2")
    assert list(rescues(player(), [broken])) == []


@pytest.mark.parametrize(
    ("options", "problem"), [({"rate": 1.5}, "rate 1.5"), ({"highs": 0}, "highs 0"), ({"batch": 0}, "batch 0")]
)
def test_what_makes_no_sense_is_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        list(attempts(player(), [ONE], **options))  # type: ignore[arg-type]
