"""Random sessions against a model that compares whole texts: it keeps everything, forgets nothing, and knows no digests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitroute.gateway.core.values import Caller, StepContext
from bitroute.gateway.sessions.episode_state import EpisodeState, PendingRequest, RestoredSession, answered_step, chain
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.sessions.store import MemoryStore
from support.histories import call, outcome, routing, run, turn

History = tuple[str, ...]


@dataclass
class Played:
    """An answered request: its history, our answer, the variant; whether the client, going on, repeated the answer."""

    history: History
    answer: str
    variant: str
    echoed: bool | None = None


@dataclass
class Known:
    """An episode of the model."""

    name: str
    played: list[Played] = field(default_factory=list)
    newest: History = ()
    body: str = ""
    flights: int = 0
    answered: bool = True
    opener: StepContext | None = None

    @property
    def idle(self) -> bool:
        return self.answered or not self.flights


@dataclass
class Found:
    episode: Known
    shared: int
    reach: int
    onward: bool
    echoed: bool | None


class Model:
    """Where a request should stand, said in whole texts."""

    def __init__(self, hinted: bool) -> None:
        self.hinted = hinted
        self.episodes: list[Known] = []  # in the order of their newest requests

    def enter(self, history: History, body: str, retry: bool) -> tuple[Known | None, Known | None, int]:
        """(the episode tried again or continued, None for a new one; the parent; the number of shared steps)."""
        if retry or not self.hinted:
            same = [known for known in reversed(self.episodes) if known.body == body and (retry or not known.answered)]
            if same:
                return max(same, key=lambda known: (not known.answered) * (2 - (known.flights > 0))), None, 0
        told = max((i for i, text in enumerate(history, 1) if text[0] == "a"), default=0)
        if self.hinted and not told:
            return None, None, 0
        found = [one for one in (self._compare(known, history) for known in reversed(self.episodes)) if one]
        onward = max((one for one in found if one.onward), key=lambda one: one.reach, default=None)
        branch = max((one for one in found if not one.onward), key=lambda one: one.reach, default=None)
        answered_last = [one for one in found if one.onward and one.echoed and one.reach == told]
        if answered_last:
            onward = answered_last[0]
        elif onward and branch and onward.reach < branch.reach and not self._plays_again(onward, branch, history):
            onward = None
        if onward:
            if onward.echoed is not None:
                onward.episode.played[-1].echoed = onward.echoed
            return onward.episode, None, 0
        return None, branch.episode if branch and branch.shared else None, branch.shared if branch else 0

    def _compare(self, known: Known, history: History) -> Found | None:
        if not known.answered and history[: len(known.newest)] == known.newest:
            return Found(known, len(known.played), len(known.newest), known.idle, None)
        for i, one in reversed(list(enumerate(known.played))):
            after = history[len(one.history) :]
            if history[: len(one.history)] == one.history:
                if not after or after[0][0] != "a":
                    return Found(known, i, len(one.history), False, None)
                echoed = after[0] == "a:" + one.answer
                return Found(known, i + 1, len(one.history) + echoed, one is known.played[-1] and known.idle, echoed)
        return None

    def _plays_again(self, onward: Found, branch: Found, history: History) -> bool:
        if onward.echoed is None:
            return False
        after = [text[0] == "a" for text in history[len(onward.episode.played[-1].history) :]]
        if any(later and not earlier for earlier, later in pairwise(after)):
            return False
        others = branch.episode.played[onward.shared - 1 : onward.shared]
        return not any(one.echoed for one in others)


class AlfworldEnvironment:
    """Clients that talk to the gateway's sessions, and the model beside."""

    def __init__(self, hinted: bool, repeated: str) -> None:
        self.hinted, self.repeated = hinted, repeated
        self.who = Caller("key", "session", "opening" if hinted else "x-session-id", not hinted)
        self.model = Model(hinted)
        self.sessions = Sessions(MemoryStore(10, 60), self._restore, high="top")
        self.chats: list[list[str]] = []  # what each client would send next
        self.flying: list[tuple[StepContext, Known, History, int]] = []
        self.served: dict[History, set[str]] = {}  # all variants that ever answered a history
        self.numbers = count()

    def text(self, role: str) -> str:
        return f"{role}:{0 if role in self.repeated else next(self.numbers)}"

    async def _restore(self, scope: str, session: str) -> RestoredSession | None:
        episodes = []
        for known in self.model.episodes:
            assert known.opener is not None
            episode = EpisodeState(known.name, known.opener.seed, known.opener.parent)
            for one in known.played:
                turns = [turn(text) for text in one.history]
                step = sum(t.role == "assistant" for t in turns)
                answered = answered_step(step, len(turns), chain(turns), turn("a:" + one.answer).digest, one.variant)
                answered.echoed = one.echoed
                episode.put(answered)
            turns = [turn(text) for text in known.newest]
            step = sum(t.role == "assistant" for t in turns)
            episode.pending = PendingRequest(_digest(known), chain(turns), step, len(turns), known.flights, known.answered)
            episodes.append(episode)
        return RestoredSession(episodes, begun=len(episodes))

    def ask(self, which: int, retry: bool = False) -> None:
        history = tuple(self.chats[which])
        body = repr(history)
        expected, parent, shared = self.model.enter(history, body, retry)
        again = expected is not None and expected.body == body and (retry or (not self.hinted and not expected.answered))
        context = run(self.sessions.enter(Caller(*_fields(self.who), retry=retry), call(*history)))
        if expected is None:
            assert context.opened
            expected = Known(
                context.episode, [replace(one) for one in parent.played[:shared]] if parent else [], opener=context
            )
            steps = sum(text[0] == "a" for text in parent.played[shared - 1].history) + 1 if parent else 0
            assert context.parent == ((parent.name, steps) if parent else None)
            assert context.episode not in {known.name for known in self.model.episodes}
        else:
            assert (context.episode, context.opened) == (expected.name, False)
            self.model.episodes.remove(expected)
        self.model.episodes.append(expected)
        assert context.step == sum(text[0] == "a" for text in history) == len(context.view.actions)
        for i, variant in zip((i for i, text in enumerate(history) if text[0] == "a"), context.view.variants, strict=True):
            assert variant in self.served.get(history[:i], {"top"})
        if again:
            expected.flights += 1
        else:
            expected.newest, expected.body, expected.flights, expected.answered = history, body, 1, False
        self.flying.append((context, expected, history, which))

    def land(self, which: int, answer: bool, variant: str, spelling: str) -> None:
        context, known, history, index = self.flying.pop(which % len(self.flying))
        text = self.text("a")[2:] if answer else None
        run(self.sessions.leave(context, routing(variant), outcome(text, variant if answer else None)))
        if known.newest == history:
            known.flights -= 1
            known.answered |= answer
        if text is not None:
            self.served.setdefault(history, set()).add(variant)
            at = [one.history for one in known.played]
            if history not in at:
                known.played.append(Played(history, text, variant))
            elif at[-1] == history:
                known.played[-1] = Played(history, text, variant)
            if tuple(self.chats[index]) == history:
                self.chats[index] += ["a:" + text + spelling, self.text("u")]

    def restart(self) -> None:
        """All that was under way ends without an answer, and memory is lost."""
        while self.flying:
            self.land(0, False, "low", "")
        self.sessions = Sessions(MemoryStore(10, 60), self._restore, high="top")


def _fields(who: Caller) -> tuple[str, str, str, bool]:
    return who.scope, who.session, who.source, who.explicit


def _digest(known: Known) -> bytes:
    return call(*known.newest).digest


NUMBER = st.integers(0, 9)
VARIANT = st.sampled_from(["low", "high"])
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["open", "ask", "again", "header", "copy", "cut", "system", "restart"]), NUMBER, NUMBER),
    st.tuples(st.just("land"), NUMBER, st.tuples(st.booleans(), VARIANT, st.sampled_from(["", " "]))),
    st.tuples(st.just("play"), NUMBER, st.tuples(st.sampled_from([1, 1, 2, 4]), VARIANT, st.sampled_from(["", " "]))),
    st.tuples(st.just("play"), NUMBER, st.tuples(st.sampled_from([1, 1, 2, 4]), VARIANT, st.just(""))),
)


@pytest.mark.slow
@pytest.mark.parametrize("hinted", [False, True], ids=["explicit", "hint"])
@pytest.mark.parametrize("repeated", ["", "u", "ua"], ids=["distinct texts", "equal questions", "equal texts"])
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(operations=st.lists(OPERATIONS, min_size=5, max_size=30))
def test_random_sessions(hinted: bool, repeated: str, operations: list[tuple[str, int, object]]) -> None:
    world = AlfworldEnvironment(hinted, repeated)
    for name, number, more in [("open", 0, 0), *operations]:
        which = number % max(1, len(world.chats))
        chat = world.chats[which] if world.chats else []
        match name, more:
            case "open", _:
                world.chats.append(["s:agent", world.text("u")])
            case "ask", _:
                world.ask(which)
            case "again" | "header", _ if world.flying:
                world.ask(world.flying[-1][3], retry=name == "header")
            case "land", (bool(answer), str(variant), str(spelling)) if world.flying:
                world.land(number, answer, variant, spelling)
            case "play", (int(steps), str(variant), str(spelling)):
                for _ in range(steps):
                    world.ask(which)
                    world.land(-1, True, variant, spelling)
            case "copy", _:  # a client that goes on with the same history
                world.chats.append([*chat])
            case "cut", int(depth):  # a client that goes on from an earlier message, which it may have changed
                users = [i for i, text in enumerate(chat) if text[0] == "u"]
                kept = users[depth % len(users)]
                edited = chat[kept] if depth % 2 else f"u:edited {next(world.numbers)}"
                world.chats.append([*chat[:kept], edited])
                world.ask(len(world.chats) - 1)
            case "system", _:
                world.chats.append([f"s:edited {next(world.numbers)}", *chat[1:]])
            case "restart", _:
                world.restart()
