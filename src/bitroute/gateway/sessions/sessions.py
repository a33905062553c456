"""Where a request stands: the session's memory is read, the request finds its episode and step, and its end is noted.

Within a session the lineage of messages names the episode. A request that repeats an episode's last request and goes on with an
assistant message continues it; one that shares only a beginning branches off; one that shares nothing (a subagent, a title
call, a compaction, an edited opening) begins a new episode. Agents that send one fresh message a step say so by x-step, or by
a `conversation` that the server keeps. It knows neither policies nor upstreams, and of texts only what views and x-step need.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec

from bitroute.gateway.core.values import Call, Caller, Outcome, RoutingDecision, StepContext
from bitroute.gateway.sessions.episode_state import EpisodeState, PendingRequest, RestoredSession, answered
from bitroute.gateway.sessions.placing import Entry
from bitroute.gateway.sessions.state import LIMIT, SHARED_LIMIT, State
from bitroute.gateway.sessions.store import SessionStore, StoreError

_log = logging.getLogger(__name__)

T = TypeVar("T")

Restore = Callable[[str, str], Awaitable[RestoredSession | None]]

PAUSE: Final = 1.0  # seconds for which a store that is away is not asked
_KEY: Final = 16  # hexadecimal digits of a session's key in the store


class _UnrestoredError(Exception):
    """The records must be asked before a request can find its place."""


class Sessions:
    """The sessions of one gateway, in `store`.

    `restore(scope, session)` gives what the records know of a session that the store does not (None: nothing); it is asked
    once a session, when a request could continue something, and must not raise. `high` is the ladder's top: past actions
    that nobody here served, or that are forgotten, count as its. While the store is away, a request stands where the records
    alone put it, and its end is not noted: that costs memory, not answers.
    """

    def __init__(self, store: SessionStore, restore: Restore | None = None, *, high: str = "high") -> None:
        self._store, self._restore, self._high = store, restore, high
        self._away = False  # the store is, and the log says so
        self._again = 0.0  # when it is asked again

    async def enter(self, caller: Caller, call: Call) -> StepContext:
        """Find the request's place, and note that its step is under way until `leave`.

        A retry (a retry-count header, or the same body while the first is unanswered) stands where the first try stands, with
        that one's ruling; nothing is appended twice. Under a hint, equal bodies without the header are samples of a group:
        they share the ruling, not the episode.
        """
        key = _key(caller.scope, caller.session, caller.explicit)
        found: RestoredSession | None = None
        unasked = self._restore is not None

        def change(data: bytes | None) -> tuple[bytes | None, StepContext]:
            state = _state(data, caller.scope, caller.session)
            if not state.restored:
                if unasked and (caller.explicit or caller.retry or any(turn.role == "assistant" for turn in call.turns)):
                    raise _UnrestoredError
                if not unasked:
                    state.adopt(found)
            place = Entry(state, caller, call, key, self._high).place()
            return state.encode(LIMIT if caller.explicit else SHARED_LIMIT), place

        try:
            return await self._update(key, change)
        except _UnrestoredError:
            assert self._restore is not None
            found, unasked = await self._restore(caller.scope, caller.session), False
            return await self._update(key, change)

    async def ruled(self, place: StepContext, ruling: RoutingDecision) -> None:
        """Note the ruling of a request that is under way, for retries that come before it has ended. `leave` does so too."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = _state(data, place.scope, place.session)
            lineage = state.find(place.episode)
            latest = _try(lineage, place) if lineage is not None else None
            if lineage is None or latest is None:
                return None, None
            latest.ruling = msgspec.msgpack.encode(ruling)
            state.put(lineage)
            return state.encode(_limit(place)), None

        await self._update(_key(place.scope, place.session, place.explicit), change)

    async def leave(self, place: StepContext, ruling: RoutingDecision | None, outcome: Outcome) -> None:
        """Note how the step ended. One without an answer is no step: its place is free again."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = _state(data, place.scope, place.session)
            lineage = state.find(place.episode)
            if lineage is None:
                if outcome.answer is None:
                    return None, None
                # Forgotten meanwhile. Where the client goes on, it is known again from here.
                lineage = EpisodeState(place.episode, place.seed, place.parent, stepped=None)
            if lineage.closed:
                return None, None
            if (latest := _try(lineage, place)) is not None:
                latest.flights = max(0, latest.flights - 1)
                latest.answered |= outcome.answer is not None
                if ruling is not None:
                    latest.ruling = msgspec.msgpack.encode(ruling)
            if outcome.answer is not None:
                self._answered(lineage, place, ruling, outcome)
            state.put(lineage)
            return state.encode(_limit(place)), None

        await self._update(_key(place.scope, place.session, place.explicit), change)

    def _answered(self, lineage: EpisodeState, place: StepContext, ruling: RoutingDecision | None, outcome: Outcome) -> None:
        if any(mark.step == place.step for mark in lineage.marks[:-1]):
            return  # the late answer of a first try, whose retry's answer the client has gone on with
        assert outcome.answer is not None
        variant = outcome.variant or (ruling.decision.variant if ruling else self._high)
        texts = (place.view.messages[-1], outcome.answer.text) if lineage.stepped else (None, None)
        lineage.put(
            answered(
                place.step,
                place.turns,
                place.chain,
                outcome.answer.digest,
                variant,
                outcome.signals,
                message=texts[0],
                action=texts[1],
            )
        )

    async def resolve(self, scope: str, id: str) -> str | None:  # noqa: A002
        """The episode that `id` names within the scope: an episode's own id, or an explicit session's, which means the episode
        of its newest request. None when nothing of that name is remembered.
        """
        data = await self._read(id[:_KEY])
        state = State.decode(data) if data is not None else None
        if state is not None and state.scope == scope and state.find(id) is not None:
            return id
        data = await self._read(_key(scope, id, True))
        state = _state(data, scope, id)
        if not len(state) and self._restore is not None:
            state.adopt(await self._restore(scope, id))
        newest = next(state.lineages(), None)
        return newest.id if newest is not None else None

    async def close_episode(self, scope: str, episode: str) -> None:
        """Note that an episode's outcome was reported: whatever repeats its history from now on begins a new one."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = State.decode(data) if data is not None else None
            lineage = state.find(episode) if state is not None and state.scope == scope else None
            if state is None or lineage is None:
                return None, None
            lineage.closed, lineage.marks, lineage.latest = True, [], None
            state.put(lineage)
            return state.encode(SHARED_LIMIT), None

        await self._update(episode[:_KEY], change)

    async def _update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        if self._spared():
            return change(None)[1]
        try:
            result = await self._store.update(key, change)
        except StoreError as error:
            self._tell(error)
            return change(None)[1]
        self._tell(None)
        return result

    async def _read(self, key: str) -> bytes | None:
        if self._spared():
            return None
        try:
            return await self._store.read(key)
        except StoreError as error:
            self._tell(error)
            return None

    def _spared(self) -> bool:
        """Whether the store is away and not asked now: a server that hangs would cost every request its time limit."""
        if not self._away:
            return False
        now = time.monotonic()
        if now < self._again:
            return True
        self._again = now + PAUSE  # this one asks for all
        return False

    def _tell(self, error: StoreError | None) -> None:
        """Log that the store went away or came back, once each."""
        if error is not None:
            self._again = time.monotonic() + PAUSE
        if self._away is (error is None):
            self._away = error is not None
            _log.warning("sessions: %s", f"the store is away ({error})" if error else "the store is back")


def _key(scope: str, session: str, explicit: bool) -> str:
    """A session's key in the store."""
    name = f"{len(scope)}:{scope}{'=' if explicit else '~'}{session}"
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_KEY // 2).hexdigest()


def _state(data: bytes | None, scope: str, session: str) -> State:
    """The stored state of a session, or a new one (also where another session's key is the same)."""
    if data is not None:
        state = State.decode(data)
        if state.scope == scope and state.session == session:
            return state
    return State(scope, session)


def _try(lineage: EpisodeState, place: StepContext) -> PendingRequest | None:
    """The episode's newest request, if that is the one at `place` or a retry of it."""
    latest = lineage.latest
    return latest if latest is not None and latest.step == place.step and latest.request == place.chain else None


def _limit(place: StepContext) -> int:
    return LIMIT if place.explicit else SHARED_LIMIT
