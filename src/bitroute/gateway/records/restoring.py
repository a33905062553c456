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
from bitroute.gateway.records.reading import Row, signals_of
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
        rows = connection.execute(_NEWEST, names_it).mappings().all()
        if not rows:
            return None
        begun = connection.execute(_BEGUN, names_it).scalar_one()
        names = [row["id"] for row in rows]
        query = select(steps).where(steps.c.scope == scope, steps.c.episode.in_(names)).order_by(steps.c.episode, steps.c.id)
        requests = {name: list(found) for name, found in groupby(connection.execute(query).mappings(), lambda r: r["episode"])}
    states: dict[str, EpisodeState] = {}
    for row in reversed(rows):  # parents began before their branches
        own = requests.get(row["id"], [])
        parent = (row["parent"], row["parent_step"]) if row["parent"] is not None else None
        state = EpisodeState(row["id"], row["seed"], parent, stepped=_stepped(own), closed=row["ended"] is not None)
        if parent is not None and parent[0] in states:
            state.steps = [answered for answered in states[parent[0]].steps if answered.step < parent[1]]
        for request in own:
            if request["answer"] is not None:
                state.put(_answered(request, state.stepped))
        if own:
            state.pending = _pending(own[-1])
        states[row["id"]] = state
    for state in states.values():
        if state.closed:
            state.steps, state.pending = [], None
    order = sorted(states, key=lambda name: requests[name][-1]["id"] if name in requests else 0)
    return RestoredSession([states[name] for name in order], begun=begun, scope=scope, session=session)


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


def _stepped(requests: Iterable[Row]) -> bool | None:
    """Whether an episode grew by one fresh message a request: a history of t answers has more than 2 t messages."""
    later = [request["turns"] <= 2 * request["step"] for request in requests if request["step"] > 0]
    return later[-1] if later else None


def _answered(row: Row, stepped: bool | None) -> AnsweredStep:
    texts = (row["message"], row["action"]) if stepped is not False else (None, None)
    return answered_step(
        row["step"],
        row["turns"],
        bytes.fromhex(row["chain"]),
        bytes.fromhex(row["answer"]),
        row["variant"],
        signals_of(row),
        message=texts[0],
        action=texts[1],
    )


def _pending(row: Row) -> PendingRequest:
    """The newest request, which has ended: a retry of it is decided as it was."""
    routing = None
    if row["decision"] is not None:
        routing = RoutingDecision(
            Decision(row["decision"], row["score"], row["reason"], row["propensity"]),
            row["intended"],
            row["policy"],
            row["arm"],
            row["threshold"],
            row["budget"],
            row["flipped"],
            row["router"],
            msgspec.json.decode(row["features"], type=tuple[float, ...]) if row["features"] else None,
        )
    return PendingRequest(
        bytes.fromhex(row["digest"]),
        bytes.fromhex(row["chain"]),
        row["step"],
        row["turns"],
        flights=0,
        answered=row["answer"] is not None,
        routing=msgspec.msgpack.encode(routing) if routing else b"",
    )
