"""Where requests stand: histories that grow, branch, are edited and tried again; fresh messages; outcomes; lost memories."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import fakeredis
import pytest

from bitroute.episode import Signals, View
from bitroute.gateway.core.values import Call, Caller, Outcome, RoutingDecision, StepContext
from bitroute.gateway.sessions import sessions as sessions_module
from bitroute.gateway.sessions.episode_state import EpisodeState, RestoredSession, answered_step, chain, episode_seed
from bitroute.gateway.sessions.redis_store import RedisStore
from bitroute.gateway.sessions.session_state import LIMIT, SHARED_LIMIT, SessionState
from bitroute.gateway.sessions.sessions import Restore, Sessions
from bitroute.gateway.sessions.store import MemoryStore, StoreError
from support.histories import call, caller, outcome, routing, run, standing, turn

T = TypeVar("T")
HINT = caller("opening:1", explicit=False)


class Client:
    """Asks as somebody, and takes what comes."""

    def __init__(self, sessions: Sessions | None = None, who: Caller | None = None) -> None:
        self.store = MemoryStore(100, 60)
        self.sessions, self.who = sessions or Sessions(self.store), who or caller()

    def ask(self, *texts: str, body: str = "", retry: bool = False, step: int | None = None) -> StepContext:
        who = Caller(self.who.scope, self.who.session, self.who.source, self.who.explicit, step, retry)
        return run(self.sessions.enter(who, call(*texts, body=body)))

    def end(self, context: StepContext, answer: str | None, variant: str = "low", score: float = 0.25) -> StepContext:
        run(self.sessions.leave(context, routing(variant, score), outcome(answer, variant if answer is not None else None)))
        return context

    def play(self, *texts: str, answer: str | None, variant: str = "low", step: int | None = None) -> StepContext:
        """A whole request."""
        return self.end(self.ask(*texts, step=step), answer, variant)


def test_a_history_that_grows_is_one_episode() -> None:
    client = Client()
    first = client.play("s:be brief", "u:find a cup", answer="look", variant="low")
    second = client.play("s:be brief", "u:find a cup", "a:look", "u:a desk", answer="open", variant="high")
    third = client.ask("s:be brief", "u:find a cup", "a:look", "u:a desk", "a:open", "u:a cup", "u:your turn")
    assert standing(first) == (first.episode, 0, ())
    assert standing(second) == (first.episode, 1, ("low",))
    assert standing(third) == (first.episode, 2, ("low", "high"))
    assert third.view == View(
        ("be brief\nfind a cup", "a desk", "a cup\nyour turn"), ("look", "open"), ("low", "high"), (None, None)
    )
    assert [context.opened for context in (first, second, third)] == [True, False, False]
    assert (third.parent, third.retried, third.turns) == (None, None, 7)
    assert third.chain == chain(
        map(turn, ["s:be brief", "u:find a cup", "a:look", "u:a desk", "a:open", "u:a cup", "u:your turn"])
    )


def test_an_episode_has_an_id_and_a_seed() -> None:
    first, second = (Client(who=caller("name", scope="key")).ask("u:x") for _ in range(2))
    assert len(first.episode) == 32
    assert int(first.episode, 16) >= 0
    assert first.episode != second.episode
    assert first.seed == second.seed == episode_seed("key", "name", 0)
    assert (first.scope, first.session, first.source, first.explicit) == ("key", "name", "x-session-id", True)


def test_seeds_number_the_episodes_of_a_session() -> None:
    client = Client()
    seeds = [client.play(f"u:task {n}", answer="x").seed for n in range(3)]
    assert seeds == [episode_seed("", "s", n) for n in range(3)]


def test_hints_have_seeds_of_their_own() -> None:
    client = Client(who=HINT)
    assert len({client.play("u:x", answer="x").seed for _ in range(5)}) == 5


def test_scopes_and_kinds_of_session_never_meet() -> None:
    sessions = Sessions(MemoryStore(100, 60))
    callers = [caller("s"), caller("s", scope="key"), caller("s", explicit=False), caller("S")]
    for who in callers:
        Client(sessions, who).play("u:x", answer="y")
    contexts = [Client(sessions, who).ask("u:x", "a:y", "u:z") for who in callers]
    assert [context.step for context in contexts] == [1] * 4
    assert len({context.episode for context in contexts}) == 4


def test_the_answer_may_come_back_in_another_spelling() -> None:
    client = Client()
    first = client.play("u:x", answer="  look  ")
    assert standing(client.ask("u:x", "a:look", "u:z")) == (first.episode, 1, ("low",))


def test_several_fresh_messages_and_joined_answers() -> None:
    client = Client()
    first = client.play("u:x", answer="call the tool")
    context = client.ask("u:x", "a:call the tool", "a:a second call", "u:result 1", "u:result 2")
    assert standing(context) == (first.episode, 1, ("low",))
    assert context.view.actions == ("call the tool\na second call",)


def test_a_prefill_is_the_beginning_of_the_coming_answer() -> None:
    client = Client()
    first = client.play("u:x", "a:The", answer=" cup")
    assert (first.step, first.turns, first.view.actions) == (0, 1, ())
    assert standing(client.ask("u:x", "a:The cup", "u:more")) == (first.episode, 1, ("low",))


@pytest.mark.parametrize("texts", [("a:hello", "u:x"), ("a:hello",), ("s:alone",), ("a:1", "a:2", "u:x", "a:3")])
def test_any_history_has_a_place(texts: tuple[str, ...]) -> None:
    client = Client()
    context = client.play(*texts, answer="y")
    assert len(context.view.messages) == context.step + 1 == len(context.view.variants) + 1


@pytest.mark.parametrize(
    "texts",
    [
        ("s:other", "u:find", "a:look", "u:a desk"),
        ("s:be brief", "u:summary of all", "u:go on"),
        ("s:make a title", "u:find"),
        ("s:be brief",),
        ("s:be brief", "u:finds", "a:look", "u:a desk"),
    ],
    ids=["edited system prompt", "compaction", "title call", "a shared system prompt alone", "edited opening"],
)
def test_what_shares_no_step_begins_an_episode(texts: tuple[str, ...]) -> None:
    client = Client()
    first = client.play("s:be brief", "u:find", answer="look")
    second = client.play("s:be brief", "u:find", "a:look", "u:a desk", answer="open")
    other = client.play(*texts, answer="?")
    assert other.episode != first.episode
    assert (other.opened, other.parent, other.step) == (True, None, sum(text[0] == "a" for text in texts[:-1]))
    assert set(other.view.variants) <= {"high"}
    third = client.ask("s:be brief", "u:find", "a:look", "u:a desk", "a:open", "u:a cup")
    assert standing(third) == (second.episode, 2, ("low", "low"))


def test_interleaved_subagents_keep_their_episodes() -> None:
    client = Client()
    histories = [[f"s:agent {n}", "u:go"] for n in range(3)]
    episodes = [client.play(*texts, answer="a0").episode for texts in histories]
    for step in range(1, 4):
        for n, texts in enumerate(histories):
            texts += [f"a:a{step - 1}", f"u:result {step}"]
            context = client.play(*texts, answer=f"a{step}", variant=f"v{n}")
            assert standing(context) == (episodes[n], step, ("low", *[f"v{n}"] * (step - 1)))


def _three_steps(client: Client) -> str:
    client.play("u:0", answer="a0", variant="low")
    client.play("u:0", "a:a0", "u:1", answer="a1", variant="high")
    return client.play("u:0", "a:a0", "u:1", "a:a1", "u:2", answer="a2", variant="mid").episode


@pytest.mark.parametrize(
    ("texts", "shared", "variants"),
    [
        (("u:0", "a:a0", "u:edited"), 1, ("low",)),
        (("u:0", "a:a0", "u:1", "a:a1", "u:edited"), 2, ("low", "high")),
        (("u:0", "a:a0", "u:1", "a:edited", "u:2"), 2, ("low", "high")),
        (("u:0", "a:a0", "u:1", "u:instead of an answer"), 1, ("low",)),
        (("u:0", "a:a0", "u:1", "a:a1", "u:2"), 2, ("low", "high")),
        (("u:0", "a:a0", "u:1", "a:a1", "u:other", "a:b", "u:c"), 2, ("low", "high", "top")),
    ],
    ids=["early edit", "late edit", "edited answer", "answer left out", "asked again", "unknown step"],
)
def test_a_common_beginning_branches(texts: tuple[str, ...], shared: int, variants: tuple[str, ...]) -> None:
    client = Client(Sessions(MemoryStore(100, 60), high="top"))
    trunk = _three_steps(client)
    branch = client.play(*texts, answer="b")
    assert branch.episode != trunk
    assert (branch.opened, branch.parent, branch.step, branch.view.variants) == (True, (trunk, shared), len(variants), variants)
    # Both go on, each by itself.
    assert standing(client.ask(*texts, "a:b", "u:next")) == (branch.episode, len(variants) + 1, (*variants, "low"))
    trunk_on = client.ask("u:0", "a:a0", "u:1", "a:a1", "u:2", "a:a2", "u:3")
    assert standing(trunk_on) == (trunk, 3, ("low", "high", "mid"))


def test_another_answer_to_the_opening_is_another_episode() -> None:
    client = Client()
    trunk = _three_steps(client)
    again = client.play("u:0", answer="b0")
    assert (again.episode != trunk, again.parent, again.step) == (True, None, 0)
    assert client.ask("u:0", "a:b0", "u:1").episode == again.episode


def test_playing_the_same_again_is_not_a_branch_of_the_first_time() -> None:
    client = Client()
    trunk = _three_steps(client)
    again = client.play("u:0", answer="a0", variant="high")
    second = client.play("u:0", "a:a0", "u:1", answer="a1")
    assert standing(second) == (again.episode, 1, ("high",))
    assert again.episode != trunk


def test_a_client_that_never_echoes_may_play_the_same_again_too() -> None:
    client = Client()
    for _ in range(2):
        first = client.play("u:0", answer="A0")
        second = client.play("u:0", "a:a0", "u:1", answer="A1")
        assert standing(second) == (first.episode, 1, ("low",))


def test_an_answer_that_was_not_ours_is_no_reason_to_leave_the_longer_history() -> None:
    client = Client()
    trunk = _three_steps(client)
    client.play("u:0", answer="b0")  # given up
    context = client.ask("u:0", "a:a0", "u:edited")
    assert context.parent == (trunk, 1)


def test_an_edit_far_on_is_a_branch_even_for_a_client_that_never_echoes() -> None:
    client = Client()
    trunk = client.play("u:0", answer="A0")
    client.play("u:0", "a:a0", "u:1", answer="A1")
    client.play("u:0", "a:a0", "u:1", "a:a1", "u:2", answer="A2")
    client.play("u:0", answer="B0")  # given up
    assert client.ask("u:0", "a:a0", "u:1", "a:a1", "u:edited").parent == (trunk.episode, 2)


# Retries


def test_the_same_body_before_the_answer_is_a_retry() -> None:
    client = Client()
    first = client.ask("u:x")
    assert first.retried is None
    run(client.sessions.note_routing(first, routing("high", 0.75)))
    second = client.ask("u:x")
    assert (standing(second), second.opened, second.retried) == (standing(first), False, routing("high", 0.75))


def test_after_a_failure_the_retry_has_the_ruling() -> None:
    client = Client()
    failed = client.play("u:x", answer=None, variant="high")
    second = client.play("u:x", answer=None)
    assert (second.episode, second.step, second.opened) == (failed.episode, 0, False)
    assert second.retried is not None
    assert second.retried.decision.variant == "high"
    third = client.play("u:x", answer="y", variant="high")
    assert third.episode == failed.episode
    after = client.ask("u:x", "a:y", "u:z")
    assert standing(after) == (failed.episode, 1, ("high",))


def test_a_retry_count_after_the_answer_appends_nothing_and_the_newer_answer_counts() -> None:
    client = Client()
    client.play("u:0", answer="a0", variant="high")
    first = client.play("u:0", "a:a0", "u:1", answer="lost", variant="low")
    again = client.ask("u:0", "a:a0", "u:1", retry=True)
    assert standing(again) == (first.episode, 1, ("high",))
    assert again.retried == routing("low")
    client.end(again, "a1", "mid")
    after = client.ask("u:0", "a:a0", "u:1", "a:a1", "u:2")
    assert standing(after) == (first.episode, 2, ("high", "mid"))


def test_without_a_retry_count_the_same_body_after_the_answer_is_asked_again() -> None:
    client = Client()
    first = client.play("u:x", answer="y")
    again = client.ask("u:x")
    assert (again.opened, again.retried) == (True, None)
    assert again.episode != first.episode


def test_a_retry_count_of_a_request_that_never_came_is_a_request() -> None:
    client = Client()
    context = client.ask("u:x", retry=True)
    assert (context.opened, context.step, context.retried) == (True, 0, None)


def test_the_late_answer_of_a_first_try_does_not_change_what_the_client_went_on_with() -> None:
    client = Client()
    first, second = client.ask("u:x"), client.ask("u:x")
    client.end(second, "fast", "low")
    client.play("u:x", "a:fast", "u:y", answer="a1", variant="low")
    client.end(first, "slow", "high")
    assert standing(client.ask("u:x", "a:fast", "u:y", "a:a1", "u:z")) == (first.episode, 2, ("low", "low"))


def test_a_first_try_that_fails_after_the_retry_was_answered_changes_nothing() -> None:
    client = Client()
    first, again = client.ask("u:0"), client.ask("u:0")
    client.end(again, "a0", "mid")
    client.end(first, None, "high")
    assert client.ask("u:0").opened
    assert standing(client.ask("u:0", "a:a0", "u:1")) == (first.episode, 1, ("mid",))


def test_a_step_is_free_when_all_its_tries_have_failed() -> None:
    client = Client()
    first, again = client.ask("u:0"), client.ask("u:0")
    client.end(first, None)
    assert client.ask("u:0", body="another").episode != first.episode
    client.end(again, None)
    assert client.ask("u:0", body="a third").episode == first.episode


def test_a_failed_step_is_none() -> None:
    client = Client()
    first = client.play("u:0", answer="a0")
    client.play("u:0", "a:a0", "u:1", answer=None)
    other = client.play("u:0", "a:a0", "u:rephrased", answer="a1", variant="high")
    assert (standing(other), other.parent, other.retried) == ((first.episode, 1, ("low",)), None, None)
    assert standing(client.ask("u:0", "a:a0", "u:rephrased", "a:a1", "u:2")) == (first.episode, 2, ("low", "high"))


def test_an_answer_broken_off_and_kept_by_the_client_goes_on() -> None:
    client = Client(Sessions(MemoryStore(10, 60), high="top"))
    first = client.play("u:0", answer=None)
    after = client.ask("u:0", "a:half of it", "u:no, stop")
    assert standing(after) == (first.episode, 1, ("top",))


def test_another_request_while_a_step_is_under_way_branches() -> None:
    client = Client()
    first = client.play("u:0", answer="a0")
    one = client.ask("u:0", "a:a0", "u:left")
    other = client.ask("u:0", "a:a0", "u:right")
    same_history = client.ask("u:0", "a:a0", "u:left", body="another temperature")
    assert one.episode == first.episode
    assert [context.parent for context in (other, same_history)] == [(first.episode, 1)] * 2
    assert len({one.episode, other.episode, same_history.episode}) == 3
    for context, answer in ((other, "r"), (one, "l"), (same_history, "m")):
        client.end(context, answer)
    assert client.ask("u:0", "a:a0", "u:left", "a:l", "u:1").episode == one.episode
    assert client.ask("u:0", "a:a0", "u:right", "a:r", "u:1").episode == other.episode
    assert client.ask("u:0", "a:a0", "u:left", "a:m", "u:1").episode == same_history.episode


# Hints


def test_under_a_hint_equal_openings_are_samples_of_a_group() -> None:
    client = Client(who=HINT)
    contexts = [client.ask("u:0") for _ in range(4)]
    assert len({context.episode for context in contexts}) == 4
    assert all(context.opened for context in contexts)
    for n, context in enumerate(contexts):
        client.end(context, f"answer {n}", f"v{n}")
    for n in (2, 0, 3, 1):
        context = client.play("u:0", f"a:answer {n}", "u:1", answer="same")
        assert standing(context) == (contexts[n].episode, 1, (f"v{n}",))
    # Now the histories differ only in their first answers.
    for n in (1, 3, 2, 0):
        context = client.ask("u:0", f"a:answer {n}", "u:1", "a:same", "u:2")
        assert standing(context) == (contexts[n].episode, 2, (f"v{n}", "low"))


def test_a_group_in_lock_step_with_equal_answers() -> None:
    client = Client(who=HINT)
    texts = ["u:0"]
    expected: set[str] = set()
    for step in range(4):
        contexts = [client.ask(*texts) for _ in range(3)]
        assert [context.step for context in contexts] == [step] * 3
        if step == 0:
            expected = {context.episode for context in contexts}
        assert {context.episode for context in contexts} == expected
        for context in contexts:
            client.end(context, f"a{step}")
        texts += [f"a:a{step}", f"u:{step + 1}"]


def test_under_a_hint_the_same_body_shares_the_ruling_not_the_episode() -> None:
    client = Client(who=HINT)
    first = client.ask("u:0")
    run(client.sessions.note_routing(first, routing("high")))
    second = client.ask("u:0")
    assert (second.episode != first.episode, second.opened, second.retried) == (True, True, routing("high"))
    client.end(first, "a0")
    client.end(second, "b0")
    assert client.ask("u:0").retried is None


def test_under_a_hint_a_retry_count_finds_the_failed_one() -> None:
    client = Client(who=HINT)
    contexts = [client.ask("u:0") for _ in range(3)]
    client.end(contexts[1], None, "high")
    again = client.ask("u:0", retry=True)
    assert (standing(again), again.opened) == (standing(contexts[1]), False)
    assert again.retried == routing("high")


def test_under_a_hint_a_later_step_that_failed_goes_on_where_it_was() -> None:
    client = Client(who=HINT)
    first = client.play("u:0", answer="a0")
    client.play("u:0", "a:a0", "u:1", answer=None, variant="high")
    again = client.ask("u:0", "a:a0", "u:1")
    assert standing(again) == (first.episode, 1, ("low",))
    assert again.retried == routing("high")


# One fresh message a step


def test_fresh_messages_make_the_view_of_the_whole_history() -> None:
    fresh, whole = Client(), Client()
    signals = Signals((-0.5,), (-0.25,), (0.5,), (0.75,))
    texts = ["s:be brief", "u:0"]
    for step in range(4):
        stepwise = fresh.ask("s:be brief", f"u:{step}", step=step)
        history = whole.ask(*texts)
        assert (stepwise.view, stepwise.step) == (history.view, history.step)
        for client, context in ((fresh, stepwise), (whole, history)):
            run(client.sessions.leave(context, routing(), outcome(f"a{step}", "low", signals)))
        texts += [f"a:a{step}", f"u:{step + 1}"]
    assert fresh.ask("u:4", step=4).view.signals == (signals,) * 4


def test_a_changed_system_prompt_is_read_again() -> None:
    client = Client()
    for step, system in enumerate(("one", "one", "two")):
        context = client.play(f"s:{system}", f"u:{step}", answer="a", step=step)
    assert context.view.messages == ("one\n0", "1", "two\n2")


def test_steps_with_equal_messages_are_different_steps() -> None:
    client = Client()
    contexts = [client.play("u:same", answer="same", step=step) for step in range(3)]
    assert [(context.episode, context.step) for context in contexts] == [(contexts[0].episode, step) for step in range(3)]
    assert contexts[2].view.messages == ("same", "same", "same")


def test_a_step_tried_again() -> None:
    client = Client()
    client.play("u:0", answer="a0", step=0)
    first = client.ask("u:1", step=1)
    assert standing(client.ask("u:1", step=1)) == standing(first)
    client.end(first, "a1", "high")
    again = client.ask("u:1", step=1)
    assert (standing(again), again.retried) == (standing(first), routing("high"))
    client.end(again, "b1", "high")
    after = client.ask("u:2", step=2)
    assert standing(after) == (first.episode, 2, ("low", "high"))
    assert after.view.actions == ("a0", "b1")


def test_an_earlier_step_with_another_message_rolls_back() -> None:
    client = Client()
    first, *_ = [client.play(f"u:{step}", answer=f"a{step}", variant=f"v{step}", step=step) for step in range(4)]
    back = client.play("u:other", answer="b2", step=2)
    assert (back.parent, back.step, back.opened) == ((first.episode, 2), 2, True)
    assert back.view == View(("0", "1", "other"), ("a0", "a1"), ("v0", "v1"), (None, None))
    on = client.ask("u:3", step=3)
    assert standing(on) == (back.episode, 3, ("v0", "v1", "low"))


def test_step_0_begins_an_episode() -> None:
    client = Client()
    first = client.play("u:0", answer="a0", step=0)
    client.play("u:1", answer="a1", step=1)
    again = client.play("u:0", answer="b0", step=0)
    assert (again.opened, again.parent, again.step, again.view.actions) == (True, None, 0, ())
    assert again.episode != first.episode
    assert client.ask("u:1", step=1).episode == again.episode


def test_a_gap_is_accepted() -> None:
    client = Client()
    first = client.play("u:0", answer="a0", step=0)
    context = client.play("u:5", answer="a5", step=5)
    assert standing(context) == (first.episode, 5, ("low",))
    assert client.ask("u:6", step=6).view.actions == ("a0", "a5")
    assert standing(Client().ask("u:7", step=7))[1:] == (7, ())


def test_a_failed_step_may_come_with_another_message() -> None:
    client = Client()
    first = client.play("u:0", answer="a0", step=0)
    client.play("u:1", answer=None, step=1)
    context = client.ask("u:rephrased", step=1)
    assert (standing(context), context.retried) == ((first.episode, 1, ("low",)), None)


def test_another_message_for_a_step_under_way_branches() -> None:
    client = Client()
    first = client.play("u:0", answer="a0", step=0)
    client.ask("u:1", step=1)
    assert client.ask("u:other", step=1).parent == (first.episode, 1)


def test_a_stepwise_request_may_bring_its_history() -> None:
    client = Client()
    client.play("u:0", answer="a0", variant="v0", step=0)
    client.play("u:0", "a:a0", "u:1", answer="a1", variant="v1", step=1)
    context = client.ask("u:0", "a:a0", "u:1", "a:a1", "u:2", step=2)
    assert context.view == View(("0", "1", "2"), ("a0", "a1"), ("v0", "v1"), (None, None))


def test_whole_histories_and_fresh_messages_do_not_mix() -> None:
    client = Client()
    stepwise = client.play("u:0", answer="a0", step=0)
    title = client.play("u:0", answer="a title")
    assert title.episode != stepwise.episode
    assert client.ask("u:0", "a:a title", "u:shorter").episode == title.episode
    assert client.ask("u:1", step=1).episode == stepwise.episode


def test_a_title_call_under_way_is_not_taken_for_a_step() -> None:
    client = Client()
    stepwise = client.play("u:0", answer="a0", step=0)
    title, step = client.ask("u:1"), client.ask("u:1", step=1)
    assert (step.episode, title.episode != stepwise.episode) == (stepwise.episode, True)
    assert client.ask("u:1").episode == title.episode


def test_over_the_bound_the_oldest_texts_are_forgotten() -> None:
    client = Client()
    text = "word " * 1000
    for step in range(20):
        client.play(f"u:{step} {text}", answer=f"a{step}", step=step)
    context = client.ask("u:now", step=20)
    assert len(context.view.messages) == 21
    assert context.view.variants == ("low",) * 20
    known = [i for i, message in enumerate(context.view.messages) if message]
    assert known == [0, *range(21 - len(known) + 1, 21)]
    assert 8 < len(known) < 14


def test_a_conversation_at_the_server_goes_on_step_by_step() -> None:
    sessions = Sessions(MemoryStore(10, 60))
    who = Caller("", "conv_1", "conversation", True)
    contexts = []
    for step in range(3):
        context = run(sessions.enter(who, call(f"u:{step}")))
        assert run(sessions.enter(who, call(f"u:{step}"))).step == step  # a retry
        run(sessions.leave(context, routing(), outcome(f"a{step}", "low")))
        contexts.append(context)
    assert [(context.episode, context.step) for context in contexts] == [(contexts[0].episode, step) for step in range(3)]
    assert contexts[2].view.messages == ("0", "1", "2")


# Outcomes


def test_episodes_are_found_by_their_id_and_by_their_sessions() -> None:
    client = Client(who=caller("name", scope="key"))
    first = client.play("u:0", answer="a0")
    second = client.play("u:other", answer="b0")
    resolve = client.sessions.resolve
    assert run(resolve("key", first.episode)) == first.episode
    assert run(resolve("key", "name")) == second.episode
    client.ask("u:0", "a:a0", "u:1")
    assert run(resolve("key", "name")) == first.episode
    for scope, name in (("", first.episode), ("", "name"), ("key", "other"), ("key", "0" * 32), ("key", ""), ("key", "é" * 99)):
        assert run(resolve(scope, name)) is None


def test_a_hint_is_no_name() -> None:
    client = Client(who=HINT)
    context = client.play("u:0", answer="a0")
    assert run(client.sessions.resolve("", HINT.session)) is None
    assert run(client.sessions.resolve("", context.episode)) == context.episode


def test_a_closed_episode_is_not_continued() -> None:
    client = Client()
    first = client.play("u:0", answer="a0")
    late = client.ask("u:0", "a:a0", "u:1")
    run(client.sessions.close_episode("", first.episode))
    client.end(late, "a1")
    data = run(client.store.read(first.episode[:16]))
    assert data is not None
    assert next(SessionState.decode(data).episodes()) == EpisodeState(first.episode, first.seed, closed=True)
    after = client.ask("u:0", "a:a0", "u:1", "a:a1", "u:2")
    assert (after.opened, after.parent, after.step) == (True, None, 2)
    assert run(client.sessions.resolve("", first.episode)) == first.episode


def test_a_closed_stepwise_episode_is_not_continued() -> None:
    client = Client()
    first = client.play("u:0", answer="a0", step=0)
    run(client.sessions.close_episode("", "s" * 32))
    run(client.sessions.close_episode("other scope", first.episode))
    assert client.play("u:1", answer="a1", step=1).episode == first.episode
    run(client.sessions.close_episode("", first.episode))
    assert client.ask("u:2", step=2).episode != first.episode
    assert run(client.sessions.resolve("", "s")) != first.episode


# Memories lost and found


def _from_records(restored: list[RestoredSession | None], asked: list[tuple[str, str]]) -> Restore:
    async def restore(scope: str, session: str) -> RestoredSession | None:
        asked.append((scope, session))
        return restored.pop(0) if restored else None

    return restore


def _recorded(contexts: list[tuple[StepContext, str, str]]) -> RestoredSession:
    """What records would give back."""
    episodes: dict[str, EpisodeState] = {}
    for context, answer, variant in contexts:
        episode = episodes.setdefault(context.episode, EpisodeState(context.episode, context.seed, context.parent))
        episode.put(answered_step(context.step, context.turns, context.chain, turn("a:" + answer).digest, variant))
    return RestoredSession(list(episodes.values()), begun=len(episodes))


def test_without_records_a_forgotten_history_begins_an_episode_where_it_stands() -> None:
    client = Client(Sessions(MemoryStore(10, 60), high="top"))
    context = client.play("u:0", "a:a0", "u:1", "a:a1", "u:2", answer="a2")
    assert (context.opened, standing(context)[1:]) == (True, (2, ("top", "top")))
    assert client.ask("u:0", "a:a0", "u:1", "a:a1", "u:2", "a:a2", "u:3").view.variants == ("top", "top", "low")


def test_after_a_restart_the_records_know() -> None:
    client = Client()
    played = [(client.play("u:0", answer="a0", variant="low"), "a0", "low")]
    played.append((client.play("u:0", "a:a0", "u:1", answer="a1", variant="high"), "a1", "high"))
    played.append((client.play("u:other", answer="b", variant="low"), "b", "low"))
    asked: list[tuple[str, str]] = []
    after = Client(Sessions(MemoryStore(10, 60), _from_records([_recorded(played)], asked)))
    context = after.play("u:0", "a:a0", "u:1", "a:a1", "u:2", answer="a2")
    assert standing(context) == (played[0][0].episode, 2, ("low", "high"))
    assert after.ask("u:other", "a:b", "u:more").episode == played[2][0].episode
    assert after.ask("u:new").seed == episode_seed("", "s", 2)
    assert asked == [("", "s")]


def test_after_a_restart_episodes_are_numbered_on() -> None:
    context = Client().play("u:0", answer="a0")
    restore = _from_records([_recorded([(context, "a0", "low")])], [])
    assert Client(Sessions(MemoryStore(10, 60), restore)).ask("u:new").seed == episode_seed("", "s", 1)


def test_the_records_are_asked_once_and_only_when_it_matters() -> None:
    asked: list[tuple[str, str]] = []
    client = Client(Sessions(MemoryStore(10, 60), _from_records([], asked)), HINT)
    client.play("u:0", answer="a0")
    assert asked == []
    client.play("u:0", "a:a0", "u:1", answer="a1")
    client.play("u:0", "a:a0", "u:1", "a:a1", "u:2", answer="a2")
    assert asked == [("", HINT.session)]


def test_outcomes_by_a_sessions_name_after_a_restart() -> None:
    context = Client().play("u:0", answer="a0")
    asked: list[tuple[str, str]] = []
    sessions = Sessions(MemoryStore(10, 60), _from_records([_recorded([(context, "a0", "low")])], asked))
    assert run(sessions.resolve("", "s")) == context.episode


def test_two_first_requests_at_once_restore_one_memory() -> None:
    context = Client().play("u:0", answer="a0", variant="mid")
    begin = asyncio.Event()

    async def restore(scope: str, session: str) -> RestoredSession | None:
        await begin.wait()
        return _recorded([(context, "a0", "mid")])

    async def main() -> None:
        sessions = Sessions(MemoryStore(10, 60), restore)
        texts = [("u:0", "a:a0", "u:left"), ("u:0", "a:a0", "u:right")]
        waiting = [asyncio.create_task(sessions.enter(caller(), call(*text))) for text in texts]
        await asyncio.sleep(0)
        begin.set()
        one, other = await asyncio.gather(*waiting)
        assert standing(one) == (context.episode, 1, ("mid",))
        assert other.parent == (context.episode, 1)

    asyncio.run(main())


def test_a_session_forgotten_while_a_request_was_under_way_is_known_again() -> None:
    store = MemoryStore(1, 60)
    client, other = Client(Sessions(store)), Client(Sessions(store), caller("other"))
    context = client.ask("u:0")
    other.ask("u:x")
    assert run(store.read(context.episode[:16])) is None
    client.end(context, "a0", "mid")
    assert standing(client.ask("u:0", "a:a0", "u:1")) == (context.episode, 1, ("mid",))


def test_a_forgotten_request_that_failed_leaves_nothing() -> None:
    store = MemoryStore(1, 60)
    client = Client(Sessions(store))
    context = client.ask("u:0")
    Client(Sessions(store), caller("other")).ask("u:x")
    client.end(context, None)
    assert run(store.read(context.episode[:16])) is None


def test_states_stay_within_their_bounds() -> None:
    store = MemoryStore(10, 60)
    for who, limit in ((caller(), LIMIT), (HINT, SHARED_LIMIT)):
        client = Client(Sessions(store), who)
        for n in range(300):
            texts = ["u:0"]
            for step in range(4):
                context = client.play(*texts, answer=f"{n} {step}")
                texts += [f"a:{n} {step}", f"u:{step}"]
        data = run(store.read(context.episode[:16]))
        assert data is not None
        assert len(data) <= limit
        assert 60 < len(SessionState.decode(data)) <= 128
        assert standing(client.ask(*texts)) == (context.episode, 4, ("low",) * 4)


class _Away:
    """A store that may be away."""

    def __init__(self) -> None:
        self.there = MemoryStore(10, 60)
        self.away = False
        self.asked = 0

    async def read(self, key: str) -> bytes | None:
        self.asked += 1
        if self.away:
            raise StoreError("Redis: ConnectionError")
        return await self.there.read(key)

    async def update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        self.asked += 1
        if self.away:
            raise StoreError("Redis: ConnectionError")
        return await self.there.update(key, change)


def test_a_store_that_is_away_costs_memory_not_answers(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_module, "PAUSE", 0.0)
    store = _Away()
    client = Client(Sessions(store, high="top"))
    first = client.play("u:0", answer="a0")
    store.away = True
    with caplog.at_level(logging.WARNING):
        lost = client.play("u:0", "a:a0", "u:1", answer="a1")
        assert (lost.opened, standing(lost)[1:]) == (True, (1, ("top",)))
        assert run(client.sessions.resolve("", first.episode)) is None
        run(client.sessions.close_episode("", first.episode))
        assert [record.message for record in caplog.records] == ["sessions: the store is away (Redis: ConnectionError)"]
        store.away = False
        assert client.ask("u:0", "a:a0", "u:1").episode == first.episode
        assert caplog.messages[1:] == ["sessions: the store is back"]


def test_a_store_that_is_away_is_not_asked_by_every_request() -> None:
    store = _Away()
    client = Client(Sessions(store))
    store.away = True
    contexts = [client.play(f"u:{n}", answer="a") for n in range(5)]
    assert run(client.sessions.resolve("", contexts[0].episode)) is None
    assert store.asked == 1


def test_gateways_share_sessions_in_redis() -> None:
    async def main() -> None:
        server = fakeredis.FakeServer()
        stores = [RedisStore("redis://unused", 60, client=fakeredis.FakeAsyncRedis(server=server)) for _ in range(3)]
        gateways = [Sessions(store) for store in stores]
        texts = ["u:0"]
        episodes = set()
        for step in range(6):
            context = await gateways[step % 3].enter(caller(), call(*texts))
            assert context.step == step
            episodes.add(context.episode)
            answer: Outcome = outcome(f"a{step}", "low")
            made: RoutingDecision = routing()
            await gateways[(step + 1) % 3].leave(context, made, answer)
            texts += [f"a:a{step}", f"u:{step}"]
        assert len(episodes) == 1
        request: Call = call("u:at once")
        contexts = await asyncio.gather(*(gateways[n % 3].enter(caller(), request) for n in range(12)))
        assert len({context.episode for context in contexts}) == 1
        assert sum(context.opened for context in contexts) == 1
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(main())
