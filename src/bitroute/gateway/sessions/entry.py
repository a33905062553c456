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
from bitroute.gateway.sessions.matching import find_episode
from bitroute.gateway.sessions.session_state import SessionState
from bitroute.gateway.sessions.views import remembered_view, view_of

_FRESH: Final = ("conversation", "previous_response_id")  # sources of a session whose history lies at the server


@dataclass(slots=True)
class Entry:
    """A request before its session's `state`. `key` is the session's in the store, `high` the variant of unknown steps."""

    state: SessionState
    caller: Caller
    call: Call
    key: str
    high: str

    def enter(self) -> StepContext:
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
            episode, pending = earlier
            pending.flights += 1
            view = self._fresh_view(episode, pending.step) if fresh else self._view(episode)
            return self._stands(episode, view, pending.step, chains[n], n, pending.decided)
        if fresh:
            episode, step, opened = self._step(current)
            view = self._fresh_view(episode, step)
        else:
            episode, opened = self._follow(chains)
            view = self._view(episode)
            step = len(view.actions)
        episode.stepped = fresh
        episode.pending = PendingRequest(call.digest, chains[n], step, n)
        routing = earlier[1].decided if earlier is not None else None
        return self._stands(episode, view, step, chains[n], n, routing, opened=opened)

    def _stands(
        self,
        episode: EpisodeState,
        view: View,
        step: int,
        request: bytes,
        turns: int,
        retried: RoutingDecision | None,
        *,
        opened: bool = False,
    ) -> StepContext:
        self.state.put(episode, newest=True)
        caller = self.caller
        return StepContext(
            session=caller.session,
            source=caller.source,
            episode=episode.id,
            step=step,
            view=view,
            seed=episode.seed,
            opened=opened,
            parent=episode.parent,
            retried=retried,
            scope=caller.scope,
            explicit=caller.explicit,
            chain=request,
            turns=turns,
        )

    # Retries

    def _earlier(self, current: EpisodeState | None) -> tuple[EpisodeState, PendingRequest] | None:
        """The current episode's newest request, where this one has its body and, if it names a step, its step."""
        pending = current.pending if current is not None else None
        if current is None or pending is None or pending.body != self.call.digest:
            return None
        step = self.caller.step
        again = (self.caller.retry or not pending.answered) if step is None else pending.step == step
        return (current, pending) if again else None

    def _earlier_history(self) -> tuple[EpisodeState, PendingRequest] | None:
        """The newest request that had this very body and no answer; for a client that says it tries again, with one too.

        For that one a request that failed comes before one that is under way, and an answered one last.
        """
        body, retry = self.call.digest, self.caller.retry
        best, rank = None, 0
        for episode in self.state.episodes(waiting=not retry, containing=body):
            pending = episode.pending
            if pending is None or pending.body != body or episode.stepped:
                continue
            found = 1 if pending.answered else 2 if pending.flights > 0 else 3
            if found > rank:
                best, rank = (episode, pending), found
            if not retry or rank == 3:
                break
        return best

    # Histories

    def _follow(self, chains: list[bytes]) -> tuple[EpisodeState, bool]:
        """The episode that the history continues, a new branch of one, or a new episode."""
        match = find_episode(self.state, chains, self.call.turns, hinted=not self.caller.explicit)
        if match is None:
            return self._begin(None, 0), True
        if not match.continues:
            return self._begin(match.episode, match.shared), True
        if match.echoed is not None:
            match.episode.steps[-1].echoed = match.echoed
        return match.episode, False

    def _view(self, episode: EpisodeState) -> View:
        return view_of(self.call.turns, {answered.turns: answered for answered in episode.steps}, self.high)

    # One fresh message a step

    def _current(self) -> EpisodeState | None:
        """The newest episode that grows by fresh messages, or of which that is not known."""
        unknown: EpisodeState | None = None
        for episode in self.state.episodes():
            if episode.stepped and not episode.closed:
                return episode
            if episode.stepped is None and not episode.closed:
                unknown = unknown or episode
        return unknown

    def _step(self, episode: EpisodeState | None) -> tuple[EpisodeState, int, bool]:
        """The episode and step of a request that brings only what is new, and whether that begins the episode."""
        if episode is None:
            return self._begin(None, 0), self.caller.step or 0, True
        last = episode.steps[-1].step if episode.steps else -1
        step = last + 1 if self.caller.step is None else self.caller.step
        if step > last and (episode.free or (episode.pending is not None and episode.pending.step < step)):
            return episode, step, False
        shared = sum(answered.step < step for answered in episode.steps)
        return self._begin(episode, shared), step, True

    def _fresh_view(self, episode: EpisodeState, step: int) -> View:
        past = [answered for answered in episode.steps if answered.step < step]
        turns = self.call.turns
        actions = [i for i, turn in enumerate(turns[: read_turns(turns)]) if turn.role == "assistant"]
        if actions:  # it brought a history after all: that is what the model reads
            return view_of(turns, dict(zip(reversed(actions), reversed(past), strict=False)), self.high)
        system = next((i for i, turn in enumerate(turns) if turn.role != "system"), 0)
        repeated = chain(turns[:system])
        if not past:
            episode.system = repeated
        return remembered_view(past, turns, system if past and repeated == episode.system else 0)

    # Episodes

    def _begin(self, parent: EpisodeState | None, shared: int) -> EpisodeState:
        """A new episode; a branch takes its first `shared` steps along."""
        state, caller = self.state, self.caller
        # Its session's key is the first half of an episode's id: so an id leads to its session.
        name = self.key + secrets.token_hex(8)
        named = caller.explicit
        seed = episode_seed(caller.scope, caller.session, state.begun) if named else crc32(name.encode()) & 0x7FFFFFFF
        state.begun += 1
        if parent is None or not shared:
            return EpisodeState(name, seed)
        steps = parent.steps[:shared]
        return EpisodeState(name, seed, (parent.id, steps[-1].step + 1), steps, system=parent.system)
