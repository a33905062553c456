"""Views of histories: the same as the rest of the package builds where it builds one, something sensible everywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitroute.episode import Message, Signals, View
from bitroute.gateway.sessions.episode_state import AnsweredStep, answered_step
from bitroute.gateway.sessions.views import remembered_view, view_of
from support.histories import turn

SIGNALS = Signals((-0.5, -0.25), (-0.5, 0.0), (1.0, 0.5), (0.75, 0.125))
SUMMED = Signals((-0.75,), (-0.5,), (1.5,), (0.125,))


def view(*texts: str, steps: dict[int, AnsweredStep] | None = None) -> View:
    return view_of([turn(text) for text in texts], steps or {}, "high")


def served(turns: int, variant: str, signals: Signals | None = None) -> AnsweredStep:
    return answered_step(0, turns, b"request", b"answer", variant, signals)


@given(st.lists(st.sampled_from(["s:one", "u:two", "a:three", "a:"]), max_size=8), st.sampled_from(["s:", "u:four"]))
def test_it_is_the_packages_own_view_wherever_there_is_one(texts: list[str], last: str) -> None:
    turns = [turn(text) for text in (*texts, last)]
    steps = {i: served(i, f"v{i}") for i in range(len(turns))}
    variants = [f"v{i}" for i, t in enumerate(turns) if t.role == "assistant"]
    messages = [Message(t.role, t.text) for t in turns]
    found = view_of(turns, steps, "high")
    try:
        assert found == View.from_messages(messages, variants)
    except ValueError:
        assert len(found.messages) == len(found.actions) + 1 == len(found.variants) + 1 == len(found.signals) + 1


@pytest.mark.parametrize(
    ("texts", "messages", "actions"),
    [
        (["a:hi", "u:x"], ["", "x"], ["hi"]),
        (["s:p", "a:hi", "u:x"], ["p", "x"], ["hi"]),
        (["u:x", "a:1", "a:2", "u:y"], ["x", "y"], ["1\n2"]),
        (["u:x", "a:begun"], ["x"], []),
        (["u:x", "a:1", "u:y", "a:be", "a:gun"], ["x", "y"], ["1"]),
        (["a:only"], [""], []),
        ([], [""], []),
        (["u:x", "a:1", "s:p", "u:y"], ["x", "p\ny"], ["1"]),
    ],
)
def test_histories_in_any_order(texts: list[str], messages: list[str], actions: list[str]) -> None:
    found = view(*texts)
    assert (list(found.messages), list(found.actions)) == (messages, actions)
    assert found.variants == ("high",) * len(actions)
    assert found.signals == (None,) * len(actions)


def test_a_long_history_of_one_side_is_read_once() -> None:
    texts = ["u:" + "x" * 20] * 200_000  # copied at every message it would take minutes
    (message,) = view(*texts).messages
    assert len(message) == 21 * 200_000 - 1


def test_past_variants_and_signals_are_those_served_and_unknown_ones_count_as_high() -> None:
    steps = {1: served(1, "low", SIGNALS), 5: served(5, "mid")}
    found = view("u:1", "a:1", "u:2", "a:2", "u:3", "a:3", "u:4", steps=steps)
    assert found.variants == ("low", "high", "mid")
    assert found.signals == (SUMMED, None, None)


def test_of_joined_actions_the_last_known_one_counts() -> None:
    texts = ("u:1", "a:1", "a:2", "a:3", "u:2")
    assert view(*texts, steps={1: served(1, "low"), 2: served(2, "mid")}).variants == ("mid",)
    assert view(*texts, steps={1: served(1, "low")}).variants == ("low",)


def test_one_fresh_message_a_step() -> None:
    steps = [
        answered_step(0, 2, b"", b"", "low", SIGNALS, message="be brief\nfind a cup", action="look"),
        answered_step(1, 1, b"", b"", "high", message=None, action=None),
    ]
    turns = [turn("s:be brief"), turn("u:nothing here")]
    assert remembered_view(steps, turns, 1) == View(
        ("be brief\nfind a cup", "", "nothing here"), ("look", ""), ("low", "high"), (SUMMED, None)
    )
    assert remembered_view(steps, turns, 0).messages[-1] == "be brief\nnothing here"
