"""Features of the episode so far: values at known views, alike wherever they are computed, cheap step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from bitroute.episode import Episode, Message, Signals, View
from bitroute.rollout.player import Player, play
from bitroute.routers import features as features_module
from bitroute.routers.features import FEATURES, REVEALED, FeatureState, features
from bitroute.routers.rules import Random
from bitroute.routers.views import views_of
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task

PAIR = ("low", "high")


def named(view: View, failures: Sequence[str] = ()) -> dict[str, float]:
    return dict(zip(FEATURES, features(view, "high", failures=failures).tolist(), strict=True))


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(PAIR, 0.5), label=True)
    return list(play(player, [(toy_task(i), 0) for i in range(12)], "random"))


def test_the_features_of_an_opening() -> None:
    found = named(View(("You see a desk 1.\n\nYour task is to: find a pen.\nGoal: desk put pen",)))
    assert found["step"] == found["log step"] == found["share of repeated actions"] == found["message seen before"] == 0.0
    assert found["words in message"] == pytest.approx(5 / 50)  # the task's own words are not counted
    assert found["share of new words"] == 1.0
    assert found["goal word in message"] == 0.0  # "pen" is in the task, but not in the room
    assert found["share of goal words in message"] == pytest.approx(1 / 4)
    assert found["last margin"] == 1.0  # nothing known counts as certain


def test_the_features_of_a_later_step() -> None:
    unsure = Signals((-0.7, -0.3), (-0.6, -0.2), (0.5, 0.3), (0.1, 0.6))
    view = View(
        ("a room\nGoal: put pen", "Nothing happens.\nGoal: put pen", "You see a pen 1.\nGoal: put pen"),
        ("open box 1", "open box 1"),
        ("low", "high"),
        (None, unsure),
    )
    found = named(view)
    assert found["step"] == 0.2 and found["log step"] == pytest.approx(np.log(3))
    assert found["goal word in message"] == 1.0
    assert found["last action repeated"] == 1.0 and found["share of repeated actions"] == 0.5
    assert found["last at high"] == 1.0 and found["share at high"] == 0.5
    assert found["last entropy"] == pytest.approx(0.8) == found["mean entropy"]
    assert found["last margin"] == 0.1 and found["last log-probability"] == pytest.approx(-0.8)
    assert found["last action failed"] == 0.0
    failed = View(view.messages[:2], view.actions[:1], ("low",), (None,))
    assert named(failed, ("nothing happens",))["last action failed"] == 1.0 and named(failed)["last action failed"] == 0.0


def test_a_repeated_observation_is_seen() -> None:
    view = View(("a room\nGoal: pen", "a box\nGoal: pen", "a room\nGoal: pen"), ("x", "y"))
    assert named(view)["message seen before"] == 1.0
    assert named(view)["share of new words"] == 0.0


def test_a_message_of_one_line_has_no_goal() -> None:
    found = named(View(("hello there",)))
    assert found["words in message"] == pytest.approx(2 / 50)
    assert found["share of goal words in message"] == 0.0


@pytest.mark.parametrize(
    ("opening", "reminded"),
    [
        ("A room.\nYour task: put the pen away.\nGoal: put pen", True),
        ("Goal: put pen", True),  # an opening of one line may be the goal itself
        ("A room.\nGoal: put cup, put pen", True),  # a part of it is done
        ("A room.\nGoal: put cup", False),  # what is recalled was never said
        ("A room.\nAim: put pen", False),
        ("A room.\nMy Goal: put pen", False),  # the whole line must be the same
        ("Goal: put pen\nA room.", False),
    ],
)
def test_a_last_line_is_the_goal_where_the_opening_ends_with_it(opening: str, reminded: bool) -> None:
    found = named(View((opening, "You see a pen 1.\nGoal: put pen"), ("look",)))
    assert found["goal word in message"] == float(reminded)
    assert found["words in message"] == pytest.approx((5 if reminded else 8) / 50)


def test_progress_is_the_part_of_the_goal_that_is_gone_and_how_long_nothing_of_it_went() -> None:
    seen = (
        "A room.\nGoal: desk pen, bed cup",
        "Pen.\nGoal: bed cup, desk pen",
        "Done.\nGoal: bed cup",
        "A bed.\nGoal: bed cup",
    )
    found = [named(View(seen[:count], ("x",) * (count - 1))) for count in range(1, 5)]
    assert [f["share of goal left"] for f in found] == [1.0, 1.0, 0.6, 0.6]
    assert [f["steps since goal changed"] for f in found] == pytest.approx([0.0, math.log(2), 0.0, math.log(2)])


@pytest.mark.parametrize(
    "told",
    [
        ("hello", "there", "you"),
        ("Sort these files.\nBe careful.", "a b\nc", "done"),  # no message recalls what the opening ends with
        ("Goal: put pen", "A room.\nGoal: put pen", "A bed.\nGoal: put pen"),
        ("A room.\nGoal: put pen", "output", "A room.\nGoal: put pen"),
    ],
)
def test_without_progress_all_of_the_goal_is_left(told: tuple[str, ...]) -> None:
    found = named(View(told, ("x", "y")))
    assert found["share of goal left"] == 1.0 and found["steps since goal changed"] == pytest.approx(math.log(3))


def test_an_error_under_the_label_of_an_opening_that_ends_with_an_error_is_no_goal() -> None:
    found = named(View(("Fix my build:\nmake\nerror: undefined reference", "gcc main.c\nerror: permission denied"), ("make",)))
    assert found["last action failed"] == 1.0


def test_the_last_line_of_an_ordinary_message_is_text() -> None:
    found = named(View(("Sort these files.", "3 files read\nerror: no such directory"), ("ls",)))
    assert found["last action failed"] == 1.0 and found["words in message"] == pytest.approx(7 / 50)
    assert found["share of goal words in message"] == 0.0


def test_of_a_long_message_the_end_is_read() -> None:
    short = "error " * 10 + "\nGoal: desk"
    long = "word " * (features_module.READ // 5) + short
    found = named(View((long, "x\ny", long), ("a", "b")))
    assert found["share of goal words in message"] == 0.0  # the goal is "Goal: desk", no word of which stands elsewhere
    assert found["words in message"] <= features_module.READ / 4 / 50
    assert found["last action failed"] == 1.0 and found["message seen before"] == 1.0


def test_features_are_alike_from_an_environment_and_from_messages(episodes: list[Episode]) -> None:
    for episode in episodes[:10]:
        for step, view in enumerate(views_of(episode)):
            history = [Message("user", view.messages[0])]
            for action, message in zip(view.actions, view.messages[1:], strict=True):
                history += [Message("assistant", action), Message("user", message)]
            variants = [s.decision.variant for s in episode.steps[:step]]
            rebuilt = View.from_messages(history, variants, [s.signals for s in episode.steps[:step]])
            assert np.array_equal(features(view, "high"), features(rebuilt, "high"))


def test_a_trail_changes_the_cost_of_features_and_not_their_values(episodes: list[Episode]) -> None:
    trail = FeatureState()
    views = [view for episode in episodes[:6] for view in (*views_of(episode), *views_of(episode)[1::2])]  # on, and back again
    for view in views:
        assert np.array_equal(features(view, "high", trail), features(view, "high"))
    assert 0 < trail.nbytes < 20_000


def test_a_trail_reads_each_earlier_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    words = features_module._words
    monkeypatch.setattr(features_module, "_words", lambda text: (read.append(text), words(text))[1])
    trail, messages = FeatureState(), ("one a", "two b", "three c", "four d")
    for count in (1, 2, 3, 3, 4):
        trail.earlier(messages[:count])
    assert read == ["one a", "one a", "two b", "three c"]  # the opening as the goal, too
    assert trail.earlier(messages) == {"one", "a", "two", "b", "three", "c"}


def test_a_step_reads_its_newest_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    words = features_module._words
    monkeypatch.setattr(features_module, "_words", lambda text: (read.append(text), words(text))[1])
    state, messages = FeatureState(), ("one a\nGoal: b", "two b\nGoal: b", "three c\nGoal: b")
    views = [View(messages[: t + 1], ("x",) * t, ("low",) * t, (None,) * t) for t in range(3)]
    kept = [features(view, "high", state) for view in views]
    assert not [text for text in read if text in messages]
    assert all(np.array_equal(row, features(view, "high")) for row, view in zip(kept, views, strict=True))


def test_an_agent_in_a_circle_shows() -> None:
    view = View(
        ("a", "b", "a", "c", "a", "b", "a"), ("x", "y", "x", "y", "x", "x"), ("low", "high", *("low",) * 4), (None,) * 6
    )
    found = named(view)
    assert found["times message was seen"] == pytest.approx(np.log1p(3))
    assert found["recency of message"] == 1 / 2
    assert found["steps since a new message"] == 3 / 5
    assert found["share of seen messages"] == pytest.approx(4 / 7)
    assert found["times last action was taken"] == pytest.approx(np.log1p(3))
    assert found["steps since high"] == pytest.approx(np.log1p(4)) and found["high steps"] == 1 / 5
    fresh = named(View(("a", "b"), ("x",), ("low",), (None,)))
    circling = ("times message was seen", "recency of message", "steps since a new message", "share of seen messages")
    assert [fresh[name] for name in circling] == [0.0] * 4
    assert fresh["steps since high"] == pytest.approx(np.log1p(1))  # since the beginning, where there was none


def test_past_margins_and_the_budget_that_is_left() -> None:
    margins = [Signals((-0.1,), (-0.1,), (0.2,), (margin,)) for margin in (0.1, 0.9, 0.6, 0.3)]
    view = View(tuple("abcdef"), tuple("uvwxy"), ("low",) * 5, (*margins[:2], None, *margins[2:]), budget_left=0.25)
    found = named(view)
    assert found["mean margin of three"] == pytest.approx(0.6) and found["smallest margin"] == 0.1
    assert found["budget left"] == 0.25
    untold = named(View(("a", "b"), ("x",), ("low",), (None,)))
    assert {untold[name] for name in REVEALED} == {0.0, 1.0}  # certain, as far as one knows
    assert untold["budget left"] == 1.0
