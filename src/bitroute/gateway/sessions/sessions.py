"""Where a request stands: the session's memory is read, the request finds its episode and step, and its end is noted.

Within a session its history names the episode. A request that repeats an episode's last request and goes on with an
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
from bitroute.gateway.sessions.entry import Entry
from bitroute.gateway.sessions.episode_state import EpisodeState, PendingRequest, RestoredSession, answered_step
from bitroute.gateway.sessions.session_state import LIMIT, SHARED_LIMIT, SessionState
from bitroute.gateway.sessions.store import SessionStore, StoreError

_log = logging.getLogger(__name__)

T = TypeVar("T")

Restore = Callable[[str, str], Awaitable[RestoredSession | None]]

PAUSE: Final = 1.0  # seconds for which a store that is away is not asked
_KEY: Final = 16  # hexadecimal digits of a session's key in the store
_ENCODER: Final = msgspec.msgpack.Encoder()


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
        """Find where the request stands, and note that its step is under way until `leave`.

        A retry (a retry-count header, or the same body while the first is unanswered) stands where the first try stands, with
        that one's decision; nothing is appended twice. Under a hint, equal bodies without the header are samples of a group:
        they share the decision, not the episode.
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
            context = Entry(state, caller, call, key, self._high).enter()
            return state.encode(LIMIT if caller.explicit else SHARED_LIMIT), context

        try:
            return await self._update(key, change)
        except _UnrestoredError:
            assert self._restore is not None
            found, unasked = await self._restore(caller.scope, caller.session), False
            return await self._update(key, change)

    async def note_routing(self, context: StepContext, routing: RoutingDecision) -> None:
        """Note the decision for a request that is under way, for retries that come before it has ended. `leave` does so too."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = _state(data, context.scope, context.session)
            episode = state.find(context.episode)
            pending = _pending(episode, context) if episode is not None else None
            if episode is None or pending is None:
                return None, None
            pending.routing = _ENCODER.encode(routing)
            state.put(episode)
            return state.encode(_limit(context)), None

        await self._update(_key(context.scope, context.session, context.explicit), change)

    async def leave(self, context: StepContext, routing: RoutingDecision | None, outcome: Outcome) -> None:
        """Note how the step ended. One without an answer is no step: its place is free again."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = _state(data, context.scope, context.session)
            episode = state.find(context.episode)
            if episode is None:
                if outcome.answer is None:
                    return None, None
                # Forgotten meanwhile. Where the client goes on, it is known again from here.
                episode = EpisodeState(context.episode, context.seed, context.parent, stepped=None)
            if episode.closed:
                return None, None
            if (pending := _pending(episode, context)) is not None:
                pending.flights = max(0, pending.flights - 1)
                pending.answered |= outcome.answer is not None
                if routing is not None:
                    pending.routing = _ENCODER.encode(routing)
            if outcome.answer is not None:
                self._answered(episode, context, routing, outcome)
            state.put(episode)
            return state.encode(_limit(context)), None

        await self._update(_key(context.scope, context.session, context.explicit), change)

    def _answered(self, episode: EpisodeState, context: StepContext, routing: RoutingDecision | None, outcome: Outcome) -> None:
        if any(answered.step == context.step for answered in episode.steps[:-1]):
            return  # the late answer of a first try, whose retry's answer the client has gone on with
        assert outcome.answer is not None
        variant = outcome.variant or (routing.decision.variant if routing else self._high)
        texts = (context.view.messages[-1], outcome.answer.text) if episode.stepped else (None, None)
        episode.put(
            answered_step(
                context.step,
                context.turns,
                context.chain,
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
        state = SessionState.decode(data) if data is not None else None
        if state is not None and state.scope == scope and state.find(id) is not None:
            return id
        data = await self._read(_key(scope, id, True))
        state = _state(data, scope, id)
        if not len(state) and self._restore is not None:
            state.adopt(await self._restore(scope, id))
        newest = next(state.episodes(), None)
        return newest.id if newest is not None else None

    async def close_episode(self, scope: str, id_: str) -> None:
        """Note that an episode's outcome was reported: whatever repeats its history from now on begins a new one."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = SessionState.decode(data) if data is not None else None
            episode = state.find(id_) if state is not None and state.scope == scope else None
            if state is None or episode is None:
                return None, None
            episode.closed, episode.steps, episode.pending = True, [], None
            state.put(episode)
            return state.encode(SHARED_LIMIT), None

        await self._update(id_[:_KEY], change)

    async def _update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        if self._spared():
            return change(None)[1]
        try:
            result = await self._store.update(key, change)
        except StoreError as error:
            self._log_away(error)
            return change(None)[1]
        self._log_away(None)
        return result

    async def _read(self, key: str) -> bytes | None:
        if self._spared():
            return None
        try:
            return await self._store.read(key)
        except StoreError as error:
            self._log_away(error)
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

    def _log_away(self, error: StoreError | None) -> None:
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


def _state(data: bytes | None, scope: str, session: str) -> SessionState:
    """The stored state of a session, or a new one (also where another session's key is the same)."""
    if data is not None:
        state = SessionState.decode(data)
        if state.scope == scope and state.session == session:
            return state
    return SessionState(scope, session)


def _pending(episode: EpisodeState, context: StepContext) -> PendingRequest | None:
    """The episode's newest request, if that is the one at `context` or a retry of it."""
    pending = episode.pending
    return pending if pending is not None and pending.step == context.step and pending.request == context.chain else None


def _limit(context: StepContext) -> int:
    return LIMIT if context.explicit else SHARED_LIMIT
