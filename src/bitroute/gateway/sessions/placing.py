"""How one request finds its place in its session's state, and takes it: an earlier try's, the next of an episode, or a new one.

It knows requests and states, and waits for nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from bitroute.episode import View
from bitroute.gateway.core.values import Call, Caller, RoutingDecision, StepContext
from bitroute.gateway.sessions.episode_state import ROOT, EpisodeState, PendingRequest, chain, episode_seed, extend, read_turns
from bitroute.gateway.sessions.matching import find_lineage
from bitroute.gateway.sessions.state import State
from bitroute.gateway.sessions.views import remembered_view, view_of

_FRESH: Final = ("conversation", "previous_response_id")  # sources of a session whose history lies at the server


@dataclass(slots=True)
class Entry:
    """A request before its session's `state`. `key` is the session's in the store, `high` the variant of unknown steps."""

    state: State
    caller: Caller
    call: Call
    key: str
    high: str

    def place(self) -> StepContext:
        """Take the place, and write that into the state."""
        caller, call = self.caller, self.call
        fresh = caller.step is not None or caller.source in _FRESH
        n = read_turns(call.turns)
        chains = [ROOT]
        for turn in call.turns[:n]:
            chains.append(extend(chains[-1], turn.digest))
        current = self._current() if fresh else None
        earlier = self._earlier(current) if fresh else self._earlier_history()
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
        lineage.latest = PendingRequest(call.digest, chains[n], step, n)
        ruling = earlier[1].decided if earlier is not None else None
        return self._stands(lineage, view, step, chains[n], n, ruling, opened=opened)

    def _stands(
        self,
        lineage: EpisodeState,
        view: View,
        step: int,
        request: bytes,
        turns: int,
        retried: RoutingDecision | None,
        *,
        opened: bool = False,
    ) -> StepContext:
        self.state.put(lineage, newest=True)
        caller = self.caller
        return StepContext(
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

    def _earlier(self, current: EpisodeState | None) -> tuple[EpisodeState, PendingRequest] | None:
        """The current episode's newest request, where this one has its body and, if it names a step, its step."""
        latest = current.latest if current is not None else None
        if current is None or latest is None or latest.body != self.call.digest:
            return None
        step = self.caller.step
        again = (self.caller.retry or not latest.answered) if step is None else latest.step == step
        return (current, latest) if again else None

    def _earlier_history(self) -> tuple[EpisodeState, PendingRequest] | None:
        """The newest request that had this very body and no answer; for a client that says it tries again, with one too.

        For that one a request that failed comes before one that is under way, and an answered one last.
        """
        body, retry = self.call.digest, self.caller.retry
        best, rank = None, 0
        for lineage in self.state.lineages(waiting=not retry, containing=body):
            latest = lineage.latest
            if latest is None or latest.body != body or lineage.stepped:
                continue
            found = 1 if latest.answered else 2 if latest.flights > 0 else 3
            if found > rank:
                best, rank = (lineage, latest), found
            if not retry or rank == 3:
                break
        return best

    # Histories

    def _follow(self, chains: list[bytes]) -> tuple[EpisodeState, bool]:
        """The episode that the history continues, a new branch of one, or a new episode."""
        match = find_lineage(self.state, chains, self.call.turns, hinted=not self.caller.explicit)
        if match is None:
            return self._begin(None, 0), True
        if not match.continues:
            return self._begin(match.lineage, match.shared), True
        if match.echoed is not None:
            match.lineage.marks[-1].echoed = match.echoed
        return match.lineage, False

    def _view(self, lineage: EpisodeState) -> View:
        return view_of(self.call.turns, {mark.turns: mark for mark in lineage.marks}, self.high)

    # One fresh message a step

    def _current(self) -> EpisodeState | None:
        """The newest episode that grows by fresh messages, or of which that is not known."""
        unknown: EpisodeState | None = None
        for lineage in self.state.lineages():
            if lineage.stepped and not lineage.closed:
                return lineage
            if lineage.stepped is None and not lineage.closed:
                unknown = unknown or lineage
        return unknown

    def _step(self, lineage: EpisodeState | None) -> tuple[EpisodeState, int, bool]:
        """The episode and step of a request that brings only what is new, and whether that begins the episode."""
        if lineage is None:
            return self._begin(None, 0), self.caller.step or 0, True
        last = lineage.marks[-1].step if lineage.marks else -1
        step = last + 1 if self.caller.step is None else self.caller.step
        if step > last and (lineage.free or (lineage.latest is not None and lineage.latest.step < step)):
            return lineage, step, False
        shared = sum(mark.step < step for mark in lineage.marks)
        return self._begin(lineage, shared), step, True

    def _fresh_view(self, lineage: EpisodeState, step: int) -> View:
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

    def _begin(self, parent: EpisodeState | None, shared: int) -> EpisodeState:
        """A new episode; a branch takes its first `shared` marks along."""
        state, caller = self.state, self.caller
        # Its session's key is the first half of an episode's id: so an id leads to its session.
        name = self.key + secrets.token_hex(8)
        named = caller.explicit
        seed = episode_seed(caller.scope, caller.session, state.begun) if named else crc32(name.encode()) & 0x7FFFFFFF
        state.begun += 1
        if parent is None or not shared:
            return EpisodeState(name, seed)
        marks = parent.marks[:shared]
        return EpisodeState(name, seed, (parent.id, marks[-1].step + 1), marks, system=parent.system)
