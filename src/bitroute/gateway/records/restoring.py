"""From records back to what sessions remember, after a gateway was killed or forgot a session. It knows both, and no requests.

What records lack: texts, where they are not stored, for agents that send one fresh message a step; and requests that had not
ended, whose retries are decided anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Engine, bindparam, func, select

from bitroute.episode import Decision
from bitroute.gateway.core.values import RoutingDecision
from bitroute.gateway.records.step import EpisodeRecord, StepRecord
from bitroute.gateway.records.tables import episodes, steps
from bitroute.gateway.sessions.episode_state import (
    EPISODES,
    AnsweredStep,
    EpisodeState,
    PendingRequest,
    RestoredSession,
    answered_step,
)

# Made once: every new session is asked for, and to make a query takes longer than to find nothing.
_OF_SESSION: Final = (episodes.c.scope == bindparam("of_scope")) & (episodes.c.session == bindparam("of_session"))
_NEWEST: Final = select(episodes).where(_OF_SESSION).order_by(episodes.c.started.desc()).limit(EPISODES)
_BEGUN: Final = select(func.count()).select_from(episodes).where(_OF_SESSION)

_ANY: Final = "SELECT 1 FROM episodes WHERE scope = ? AND session = ? LIMIT 1"


def restore(engine: Engine, scope: str, session: str) -> RestoredSession | None:
    """The newest episodes of a session and all their answered steps; None where nothing is recorded of it."""
    names_it = {"of_scope": scope, "of_session": session}
    with engine.connect() as connection:
        recorded = list(map(EpisodeRecord.of_row, connection.execute(_NEWEST, names_it).mappings()))
        if not recorded:
            return None
        begun = connection.execute(_BEGUN, names_it).scalar_one()
        ids = [episode.id for episode in recorded]
        query = select(steps).where(steps.c.scope == scope, steps.c.episode.in_(ids)).order_by(steps.c.episode, steps.c.id)
        found = map(StepRecord.of_row, connection.execute(query).mappings())
        requests = {id_: list(own) for id_, own in groupby(found, lambda step: step.episode)}
    states: dict[str, EpisodeState] = {}
    for episode in reversed(recorded):  # parents began before their branches
        own = requests.get(episode.id, [])
        parent = (episode.parent, episode.parent_step or 0) if episode.parent is not None else None
        state = EpisodeState(episode.id, episode.seed, parent, stepped=_stepped(own), closed=episode.ended is not None)
        if parent is not None and parent[0] in states:
            state.steps = [answered for answered in states[parent[0]].steps if answered.step < parent[1]]
        for request in own:
            if request.answer is not None:
                state.put(_answered(request, request.answer, state.stepped))
        if own:
            state.pending = _pending(own[-1])
        states[episode.id] = state
    for state in states.values():
        if state.closed:
            state.steps, state.pending = [], None
    order = sorted(states, key=lambda id_: requests[id_][-1].id if id_ in requests else 0)
    return RestoredSession([states[id_] for id_ in order], begun=begun, scope=scope, session=session)


class SessionProbe:
    """Whether anything is recorded of a session, in microseconds and without a wait: most sessions that are asked for are new.

    SQLite alone can say so; what it cannot say at once (it is locked, or not to be read) counts as yes.
    """

    def __init__(self, engine: Engine) -> None:
        self._connection: sqlite3.Connection | None = None
        if engine.dialect.name == "sqlite":
            path = Path(engine.url.database or "").absolute()
            self._connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0, check_same_thread=False)

    def may_know(self, scope: str, session: str) -> bool:
        """Call it in one thread at a time."""
        if self._connection is None:
            return True
        try:
            return self._connection.execute(_ANY, (scope, session)).fetchone() is not None
        except (sqlite3.Error, UnicodeError):
            return True

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()


def _stepped(requests: Iterable[StepRecord]) -> bool | None:
    """Whether an episode grew by one fresh message a request: a history of t answers has more than 2 t messages."""
    later = [request.turns <= 2 * request.step for request in requests if request.step > 0]
    return later[-1] if later else None


def _answered(request: StepRecord, answer: bytes, stepped: bool | None) -> AnsweredStep:
    texts = (request.message, request.action) if stepped is not False else (None, None)
    return answered_step(
        request.step,
        request.turns,
        request.chain,
        answer,
        request.variant or "",
        request.signals,
        message=texts[0],
        action=texts[1],
    )


def _pending(request: StepRecord) -> PendingRequest:
    """The newest request, which has ended: a retry of it is decided as it was."""
    routing = None
    if request.decision is not None:
        propensity = 1.0 if request.propensity is None else request.propensity
        routing = RoutingDecision(
            decision=Decision(request.decision, request.score, request.reason or "", propensity),
            intended=request.intended or request.decision,
            policy=request.policy or "",
            arm=request.arm or "main",
            threshold=request.threshold,
            budget=request.budget,
            flipped=bool(request.flipped),
            seconds=request.router or 0.0,
            features=request.features,
            floor=request.floor,
        )
    return PendingRequest(
        body=request.digest,
        request=request.chain,
        step=request.step,
        turns=request.turns,
        flights=0,
        answered=request.answer is not None,
        routing=msgspec.msgpack.encode(routing) if routing else b"",
    )
