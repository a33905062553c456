"""Where a request stands: the session's memory is read, the request finds its episode and step, and its end is noted.

Within a session the lineage of messages names the episode. A request that repeats an episode's last request and goes on with an
assistant message continues it; one that shares only a beginning branches off; one that shares nothing (a subagent, a title
call, a compaction, an edited opening) begins a new episode. Agents that send one fresh message a step say so by x-step, or by
a `conversation` that the server keeps. It knows neither policies nor upstreams, and of texts only what views and x-step need.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeVar
from zlib import crc32

import msgspec

from bitroute.episode import View
from bitroute.gateway.exchange import Call, Caller, Outcome, Place, Ruling
from bitroute.gateway.lineage import (
    LIMIT,
    ROOT,
    SHARED_LIMIT,
    Lineage,
    Mark,
    Remembered,
    Try,
    answered,
    chain,
    decode,
    episode_seed,
    extend,
    read_turns,
)
from bitroute.gateway.matching import find_lineage
from bitroute.gateway.session_store import SessionStore, StoreError
from bitroute.gateway.views import remembered_view, view_of

__all__ = ["Lineage", "Mark", "Remembered", "Restore", "Sessions", "answered", "chain", "episode_seed", "extend"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

Restore = Callable[[str, str], Awaitable[Remembered | None]]

_KEY: Final = 16  # hexadecimal digits of a session's key in the store
_FRESH: Final = ("conversation", "previous_response_id")  # sources of a session whose history lies at the server


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

    async def enter(self, caller: Caller, call: Call) -> Place:
        """Find the request's place, and note that its step is under way until `leave`.

        A retry (a retry-count header, or the same body while the first is unanswered) stands where the first try stands, with
        that one's ruling; nothing is appended twice. Under a hint, equal bodies without the header are samples of a group:
        they share the ruling, not the episode.
        """
        key = _key(caller.scope, caller.session, caller.explicit)
        found: Remembered | None = None
        unasked = self._restore is not None

        def change(data: bytes | None) -> tuple[bytes | None, Place]:
            state = _state(data, caller.scope, caller.session)
            if not state.restored:
                if unasked and (caller.explicit or caller.retry or any(turn.role == "assistant" for turn in call.turns)):
                    raise _UnrestoredError
                if not unasked:
                    _merge(state, found)
            place = _Entry(state, caller, call, key, self._high).place()
            return state.encode(LIMIT if caller.explicit else SHARED_LIMIT), place

        try:
            return await self._update(key, change)
        except _UnrestoredError:
            assert self._restore is not None
            found, unasked = await self._restore(caller.scope, caller.session), False
            return await self._update(key, change)

    async def ruled(self, place: Place, ruling: Ruling) -> None:
        """Note the ruling of a request that is under way, for retries that come before it has ended. `leave` does so too."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = _state(data, place.scope, place.session)
            lineage = state.find(place.episode)
            latest = _try(lineage, place) if lineage is not None else None
            if latest is None:
                return None, None
            latest.ruling = msgspec.msgpack.encode(ruling)
            return state.encode(_limit(place)), None

        await self._update(_key(place.scope, place.session, place.explicit), change)

    async def leave(self, place: Place, ruling: Ruling | None, outcome: Outcome) -> None:
        """Note how the step ended. One without an answer is no step: its place is free again."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = _state(data, place.scope, place.session)
            lineage = state.find(place.episode)
            if lineage is None:
                if outcome.answer is None:
                    return None, None
                # Forgotten meanwhile. Where the client goes on, it is known again from here.
                lineage = Lineage(place.episode, place.seed, place.parent, stepped=None)
                state.touch(lineage)
            if lineage.closed:
                return None, None
            if (latest := _try(lineage, place)) is not None:
                latest.flights = max(0, latest.flights - 1)
                latest.answered |= outcome.answer is not None
                if ruling is not None:
                    latest.ruling = msgspec.msgpack.encode(ruling)
            if outcome.answer is not None:
                self._answered(lineage, place, ruling, outcome)
            return state.encode(_limit(place)), None

        await self._update(_key(place.scope, place.session, place.explicit), change)

    def _answered(self, lineage: Lineage, place: Place, ruling: Ruling | None, outcome: Outcome) -> None:
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
                told=texts[0],
                did=texts[1],
            )
        )

    async def resolve(self, scope: str, id: str) -> str | None:  # noqa: A002
        """The episode that `id` names within the scope: an episode's own id, or an explicit session's, which means the episode
        of its newest request. None when nothing of that name is remembered.
        """
        data = await self._read(id[:_KEY])
        if data is not None:
            state = decode(data)
            if state.scope == scope and state.find(id) is not None:
                return id
        data = await self._read(_key(scope, id, True))
        state = _state(data, scope, id)
        if not state.lineages and self._restore is not None:
            state = await self._restore(scope, id) or state
        return state.lineages[-1].id if state.lineages else None

    async def close_episode(self, scope: str, episode: str) -> None:
        """Note that an episode's outcome was reported: whatever repeats its history from now on begins a new one."""

        def change(data: bytes | None) -> tuple[bytes | None, None]:
            state = decode(data) if data is not None else None
            lineage = state.find(episode) if state is not None and state.scope == scope else None
            if state is None or lineage is None:
                return None, None
            lineage.closed, lineage.marks, lineage.latest = True, [], None
            return state.encode(SHARED_LIMIT), None

        await self._update(episode[:_KEY], change)

    async def _update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        try:
            result = await self._store.update(key, change)
        except StoreError as error:
            self._tell(error)
            return change(None)[1]
        self._tell(None)
        return result

    async def _read(self, key: str) -> bytes | None:
        try:
            return await self._store.read(key)
        except StoreError as error:
            self._tell(error)
            return None

    def _tell(self, error: StoreError | None) -> None:
        """Log that the store went away or came back, once each."""
        if self._away is (error is None):
            self._away = error is not None
            _log.warning("sessions: %s", f"the store is away ({error})" if error else "the store is back")


@dataclass(slots=True)
class _Entry:
    """One request that looks for its place in its session's state, and takes it."""

    state: Remembered
    caller: Caller
    call: Call
    key: str
    high: str

    def place(self) -> Place:
        caller, call = self.caller, self.call
        fresh = caller.step is not None or caller.source in _FRESH
        n = read_turns(call.turns)
        chains = [ROOT]
        for turn in call.turns[:n]:
            chains.append(extend(chains[-1], turn.digest))
        current = self._current() if fresh else None
        same_kind = (other for other in reversed(self.state.lineages) if other.stepped is not True)
        earlier = self._earlier(([current] if current else []) if fresh else same_kind)
        if earlier is not None and (caller.retry or caller.explicit):
            lineage, first = earlier
            first.flights += 1
            view = self._fresh_view(lineage, first.step) if fresh else self._view(lineage)
            return self._stands(lineage, view, first.step, chains[n], n, first.decided)
        if fresh:
            lineage, step, opened = self._step(current)
            view = self._fresh_view(lineage, step)
        else:
            lineage, opened = self._follow(chains)
            view = self._view(lineage)
            step = len(view.actions)
        lineage.stepped = fresh
        lineage.latest = Try(call.digest, chains[n], step, n)
        ruling = earlier[1].decided if earlier is not None else None
        return self._stands(lineage, view, step, chains[n], n, ruling, opened=opened)

    def _stands(
        self,
        lineage: Lineage,
        view: View,
        step: int,
        request: bytes,
        turns: int,
        retried: Ruling | None,
        *,
        opened: bool = False,
    ) -> Place:
        self.state.touch(lineage)
        caller = self.caller
        return Place(
            session=caller.session,
            source=caller.source,
            episode=lineage.id,
            step=step,
            view=view,
            seed=lineage.seed,
            opened=opened,
            parent=lineage.parent,
            retried=retried,
            scope=caller.scope,
            explicit=caller.explicit,
            chain=request,
            turns=turns,
        )

    # Retries

    def _earlier(self, lineages: Iterable[Lineage]) -> tuple[Lineage, Try] | None:
        """The newest request that had this very body: one that failed, else one under way, else an answered one.

        An answered one counts when the client says that it tries again, by a header or by the number of the step.
        """
        step = self.caller.step
        best, rank = None, 0
        for lineage in lineages:
            latest = lineage.latest
            if latest is None or latest.body != self.call.digest or (step is not None and latest.step != step):
                continue
            if latest.answered and not self.caller.retry and step is None:
                continue
            found = 1 if latest.answered else 2 if latest.flights > 0 else 3
            if found > rank:
                best, rank = (lineage, latest), found
        return best

    # Histories

    def _follow(self, chains: list[bytes]) -> tuple[Lineage, bool]:
        """The episode that the history continues, a new branch of one, or a new episode."""
        match = find_lineage(self.state, chains, self.call.turns, hinted=not self.caller.explicit)
        if match is None:
            return self._begin(None, 0), True
        if not match.continues:
            return self._begin(match.lineage, match.shared), True
        if match.echoed is not None:
            match.lineage.marks[-1].echoed = match.echoed
        return match.lineage, False

    def _view(self, lineage: Lineage) -> View:
        return view_of(self.call.turns, {mark.turns: mark for mark in lineage.marks}, self.high)

    # One fresh message a step

    def _current(self) -> Lineage | None:
        """The newest episode that grows by fresh messages, or of which that is not known."""
        open_ones = [lineage for lineage in reversed(self.state.lineages) if not lineage.closed]
        stepped = next((lineage for lineage in open_ones if lineage.stepped), None)
        return stepped or next((lineage for lineage in open_ones if lineage.stepped is None), None)

    def _step(self, lineage: Lineage | None) -> tuple[Lineage, int, bool]:
        """The episode and step of a request that brings only what is new, and whether that begins the episode."""
        if lineage is None:
            return self._begin(None, 0), self.caller.step or 0, True
        last = lineage.marks[-1].step if lineage.marks else -1
        step = last + 1 if self.caller.step is None else self.caller.step
        if step > last and (lineage.free or (lineage.latest is not None and lineage.latest.step < step)):
            return lineage, step, False
        shared = sum(mark.step < step for mark in lineage.marks)
        return self._begin(lineage, shared), step, True

    def _fresh_view(self, lineage: Lineage, step: int) -> View:
        past = [mark for mark in lineage.marks if mark.step < step]
        turns = self.call.turns
        told = [i for i, turn in enumerate(turns[: read_turns(turns)]) if turn.role == "assistant"]
        if told:  # it brought a history after all: that is what the model reads
            return view_of(turns, dict(zip(reversed(told), reversed(past), strict=False)), self.high)
        system = next((i for i, turn in enumerate(turns) if turn.role != "system"), 0)
        repeated = chain(turns[:system])
        if not past:
            lineage.system = repeated
        return remembered_view(past, turns, system if past and repeated == lineage.system else 0)

    # Episodes

    def _begin(self, parent: Lineage | None, shared: int) -> Lineage:
        """A new episode; a branch takes its first `shared` marks along."""
        state, caller = self.state, self.caller
        # Its session's key is the first half of an episode's id: so an id leads to its session.
        name = self.key + secrets.token_hex(8)
        named = caller.explicit
        seed = episode_seed(caller.scope, caller.session, state.begun) if named else crc32(name.encode()) & 0x7FFFFFFF
        state.begun += 1
        if parent is None or not shared:
            return Lineage(name, seed)
        marks = parent.marks[:shared]
        return Lineage(name, seed, (parent.id, marks[-1].step + 1), marks, system=parent.system)


def _key(scope: str, session: str, explicit: bool) -> str:
    """A session's key in the store."""
    name = f"{len(scope)}:{scope}{'=' if explicit else '~'}{session}"
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_KEY // 2).hexdigest()


def _state(data: bytes | None, scope: str, session: str) -> Remembered:
    """The stored state of a session, or a new one (also where another session's key is the same)."""
    if data is not None:
        state = decode(data)
        if state.scope == scope and state.session == session:
            return state
    return Remembered(scope=scope, session=session)


def _merge(state: Remembered, found: Remembered | None) -> None:
    """Put what the records know before what is known already."""
    state.restored = True
    if found is not None:
        known = {lineage.id for lineage in state.lineages}
        state.lineages = [*(lineage for lineage in found.lineages if lineage.id not in known), *state.lineages]
        state.begun = max(state.begun, found.begun, len(state.lineages))


def _try(lineage: Lineage, place: Place) -> Try | None:
    """The episode's newest request, if that is the one at `place` or a retry of it."""
    latest = lineage.latest
    return latest if latest is not None and latest.step == place.step and latest.request == place.chain else None


def _limit(place: Place) -> int:
    return LIMIT if place.explicit else SHARED_LIMIT
