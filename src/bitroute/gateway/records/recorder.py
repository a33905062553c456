"""Keeps every episode and every step in a database, off the request's path. It knows rows, a bounded queue and one thread.

A row that waits longer than the flush interval has been committed (SQLite in WAL mode: see `tables` for what survives what).
Where the database is away, full or locked, rows wait as long as the queue has room; then new ones are dropped and counted.
Requests neither wait for the database nor fail with it. Text is kept only where the configuration says so.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any, Final

import msgspec
from cachetools import FIFOCache
from sqlalchemy import Connection, Dialect, Engine, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError as RefusedRow
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bitroute.cost import CostModel
from bitroute.episode import Usage
from bitroute.errors import CapabilityError
from bitroute.gateway.core.config import RecordsConfig
from bitroute.gateway.core.values import Call, Caller, Outcome, RoutingDecision, StepContext, Tokens
from bitroute.gateway.records.restoring import SessionProbe, restore
from bitroute.gateway.records.tables import episodes, open_database, steps
from bitroute.gateway.sessions.episode_state import RestoredSession

_log = logging.getLogger(__name__)

QUEUE: Final = 20_000  # rows that wait at most ...
TEXT: Final = 256 * 1024 * 1024  # ... and characters of stored content in them
BATCH: Final = 500  # rows a transaction
KNOWN: Final = 100_000  # episodes whose row is known to be there
EARLY: Final = 10_000  # outcomes that were reported before the episode's first request had ended
LOOKUP: Final = 1.0  # seconds that a request waits for what the database knows of its session
NEWEST: Final = 64  # digests of the messages since the last answer ...
NAMED: Final = 1000  # ... and characters of the tools' names that are kept: a row is not as long as a client likes
SLOWEST: Final = 5.0  # seconds between tries while the database is away
FAREWELL: Final = 5.0  # seconds that `close` keeps trying
_LARGEST: Final = 2**63 - 1

Row = dict[str, Any]


class Recorder:
    """Writes the records of one gateway. `start` before the first row, `close` after the last one.

    `failures` counts transactions that the database refused, `dropped` rows that are lost (no room, or refused for good).
    """

    def __init__(
        self, config: RecordsConfig, cost: CostModel, ladder: Sequence[str], *, room: int = QUEUE, patience: float = FAREWELL
    ) -> None:
        self.config, self.cost = config, cost
        self.failures = 0
        self._ladder = ",".join(ladder)
        self._room, self._patience = room, patience
        self._queue: deque[tuple[str, Row]] = deque()  # (the table's name, or "outcomes", and the row)
        self._batch: list[tuple[str, Row]] = []  # taken from the queue, not committed yet
        # Each counter has one thread that writes it: characters of content and lost rows, here and in the writer.
        self._text = self._text_done = 0
        self._turned_away = self._lost = 0
        self._known: FIFOCache[tuple[str, str], None] = FIFOCache(KNOWN)
        self._early: FIFOCache[tuple[str, str], Row] = FIFOCache(EARLY)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._probe: SessionProbe | None = None
        self._away = False  # the database is, and the log says so

    @property
    def pending(self) -> int:
        """Rows that wait."""
        return len(self._queue) + len(self._batch)

    @property
    def dropped(self) -> int:
        """Rows that are lost."""
        return self._turned_away + self._lost

    @property
    def engine(self) -> Engine:
        """The open database. Raises RuntimeError before `start`."""
        if self._engine is None:
            raise RuntimeError("the recorder has not been started")
        return self._engine

    def start(self) -> None:
        """Open the database and start writing. Raises ConfigError and DataError as `tables.open_database`."""
        self._engine = open_database(self.config.url)
        self._probe = SessionProbe(self._engine)
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, for a few seconds where the database is away, and stop. Harmless when called again."""
        if self._thread is not None and self._engine is not None and self._probe is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._probe.close()
            self._engine.dispose()

    def step(
        self, caller: Caller, call: Call, context: StepContext, routing: RoutingDecision | None, outcome: Outcome
    ) -> float:
        """Queue the row of one request, and its episode's when that is new; the request's cost by the cost model."""
        now = time.time()
        cost = self._cost(outcome)
        key = (caller.scope, context.episode)
        if context.opened or key not in self._known:
            opening = self._opening(caller, context, routing, now - outcome.total)
            if not self._put("episodes", opening, len(opening["history"] or "")):
                self._turned_away += 1  # the step that goes with it
                return cost
            self._known[key] = None
            if (reported := self._early.pop(key, None)) is not None:
                self._put("outcomes", reported)
        row = self._row(caller, call, context, routing, outcome) | {"at": now - outcome.total, "cost": cost}
        self._put("steps", row, len(row["message"] or "") + len(row["action"] or ""))
        return cost

    def outcome(self, scope: str, episode: str, success: bool | None, reward: float | None) -> None:
        """Queue an episode's outcome; what is None leaves an earlier report as it is.

        A client may have read its answer's end before we have: the episode's row is then still to come, and the outcome is
        queued again behind it.
        """
        reported = {"success": success, "reward": _finite(reward)}
        known = {name: value for name, value in reported.items() if value is not None}
        row = {"scope": scope, "id": episode, "ended": time.time(), **known}
        self._put("outcomes", row)
        key = (scope, episode)
        if key not in self._known:
            self._early[key] = self._early.pop(key, {}) | row

    async def restore(self, scope: str, session: str) -> RestoredSession | None:
        """What the records know of a session that was forgotten; None also where the database cannot say, or not soon."""
        if self._away or (self._probe is not None and not self._probe.may_know(scope, session)):
            return None
        try:
            async with asyncio.timeout(LOOKUP):
                return await asyncio.to_thread(restore, self.engine, scope, session)
        except (SQLAlchemyError, TimeoutError) as error:
            self.failures += 1
            _log.warning("records: a session could not be looked up (%s)", type(error).__name__)
            return None

    async def find(self, scope: str, episode: str) -> str | None:
        """`episode` when there are records of it within the scope, also written before this process began; else None."""
        try:
            return episode if (scope, episode) in self._known or await asyncio.to_thread(self._stored, scope, episode) else None
        except SQLAlchemyError as error:
            self.failures += 1
            _log.warning("records: an episode could not be looked up (%s)", type(error).__name__)
            return None

    def _stored(self, scope: str, episode: str) -> bool:
        of_id = (episodes.c.scope == scope) & (episodes.c.id == episode)
        with self.engine.connect() as connection:
            return connection.execute(select(episodes.c.id).where(of_id)).first() is not None

    def _cost(self, outcome: Outcome) -> float:
        if outcome.variant is None or outcome.answer is None:
            return 0.0
        tokens = outcome.tokens or Tokens()
        try:
            return self.cost.cost([Usage(outcome.variant, tokens.prefill, tokens.cached, tokens.decode)])
        except CapabilityError:
            return 0.0

    def _opening(self, caller: Caller, context: StepContext, routing: RoutingDecision | None, at: float) -> Row:
        parent, shared = context.parent or (None, None)
        history = None
        if context.step > 0 and self.config.store_content:
            view = context.view
            before = (view.messages[:-1], view.actions, view.variants)  # fewer than `step` where x-step began above 0
            history = msgspec.json.encode(before).decode()
        return {
            "scope": caller.scope,
            "id": context.episode,
            "session": context.session,
            "explicit": caller.explicit,
            "source": context.source,
            "parent": parent,
            "parent_step": shared,
            "first": context.step,
            "history": history,
            "policy": routing.policy if routing else None,
            "arm": routing.arm if routing else "main",
            "ladder": self._ladder,
            "seed": context.seed,
            "started": at,
        }

    def _row(self, caller: Caller, call: Call, context: StepContext, routing: RoutingDecision | None, outcome: Outcome) -> Row:
        decision = routing.decision if routing else None
        tokens, answer, content = outcome.tokens, outcome.answer, self.config.store_content
        unanswered = takewhile(lambda turn: turn.role != "assistant", reversed(call.turns))
        newest = [turn.digest.hex() for turn in islice(unanswered, NEWEST)]
        return {
            "scope": caller.scope,
            "episode": context.episode,
            "step": context.step,
            "endpoint": call.endpoint,
            "model": call.model,
            "stream": call.stream,
            "tool": ", ".join(call.tools)[:NAMED] or None,
            "retry": context.retried is not None,
            "variant": outcome.variant,
            "decision": decision.variant if decision else None,
            "intended": routing.intended if routing else None,
            "score": _finite(decision.score) if decision else None,
            "threshold": _finite(routing.threshold) if routing else None,
            "propensity": decision.propensity if decision else None,
            "policy": routing.policy if routing else None,
            "arm": routing.arm if routing else None,
            "budget": routing.budget if routing else None,
            "flipped": routing.flipped if routing else None,
            "reason": decision.reason if decision else None,
            "source": context.source,
            "prefill": tokens.prefill if tokens else None,
            "cached": tokens.cached if tokens else None,
            "decode": tokens.decode if tokens else None,
            "router": routing.seconds if routing else None,
            "overhead": outcome.overhead,
            "first_token": outcome.first_token,
            "total": outcome.total,
            "status": outcome.status,
            "ended": outcome.ended,
            "attempts": msgspec.json.encode(outcome.attempts).decode(),
            "digest": call.digest.hex(),
            "chain": context.chain.hex(),
            "turns": context.turns,
            "newest": ",".join(reversed(newest)),
            "answer": answer.digest.hex() if answer else None,
            "features": msgspec.json.encode(routing.features).decode() if routing and routing.features is not None else None,
            "signals": msgspec.json.encode(outcome.signals).decode() if outcome.signals else None,
            "message": context.view.messages[-1] if content else None,
            "action": answer.text if answer and content else None,
        }

    def _put(self, kind: str, row: Row, characters: int = 0) -> bool:
        """Queue a row where there is room."""
        if self.pending >= self._room or self._text - self._text_done + characters > TEXT or self._stop.is_set():
            self._turned_away += 1
            return False
        self._text += characters
        self._queue.append((kind, row))
        return True

    # The thread

    def _run(self) -> None:
        linger = min(self.config.flush / 4, 0.1)
        delay = linger
        while not self._stop.wait(delay):
            delay = linger if self._drain() else min(max(2 * delay, linger), SLOWEST)
        deadline = time.monotonic() + self._patience
        while not self._drain() and time.monotonic() < deadline:
            time.sleep(linger)
        if self.pending:
            self._lost += self.pending
            _log.error("records: %d rows are lost, the database is away", self.pending)

    def _drain(self) -> bool:
        """Write what waits; False when the database did not take it."""
        while self.pending:
            if not self._batch:
                self._batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
            try:
                self._commit(self._batch)
            except Exception as error:  # whatever a driver raises: the gateway goes on without its records
                self.failures += 1
                if _of_a_row(error):
                    if not self._singly():
                        return False
                else:
                    self._log_away(error)
                    return False
            self._done(self._batch)
            self._batch = []
            if self._away:
                self._away = False
                _log.warning("records: the database takes rows again")
        return True

    def _singly(self) -> bool:
        """Write the rows of a batch one by one, since one of them is refused; False when the database is away after all."""
        while self._batch:
            try:
                self._commit(self._batch[:1])
            except Exception as error:  # as above
                if not _of_a_row(error):
                    self.failures += 1
                    self._log_away(error)
                    return False
                self._lost += 1
                _log.error("records: the database refuses a row of %s (%s)", self._batch[0][0], type(error).__name__)
            self._done(self._batch[:1])
            del self._batch[0]
        return True

    def _commit(self, batch: Sequence[tuple[str, Row]]) -> None:
        with self.engine.begin() as connection:
            _write(connection, batch)

    def _done(self, batch: Sequence[tuple[str, Row]]) -> None:
        for _, row in batch:
            self._text_done += sum(len(row.get(name) or "") for name in ("history", "message", "action"))

    def _log_away(self, error: Exception) -> None:
        """Log that the database is away, once until it is back."""
        if not self._away:
            self._away = True
            cause = error.orig if isinstance(error, DBAPIError) else error
            _log.error("records: the database does not take rows, they wait (%s)", " ".join(str(cause).split()))


def _write(connection: Connection, batch: Sequence[tuple[str, Row]]) -> None:
    """Insert and update, each kind at once: an episode's row stands before its outcome is reported."""
    by_kind: dict[str, list[Row]] = {"episodes": [], "steps": [], "outcomes": []}
    for kind, row in batch:
        by_kind[kind].append({name: _storable(value) for name, value in row.items()})
    if by_kind["episodes"]:
        add = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(episodes)
        connection.execute(add.on_conflict_do_nothing(), by_kind["episodes"])
    if by_kind["steps"]:
        connection.exec_driver_sql(_insertion(connection.dialect), by_kind["steps"])
    for row in by_kind["outcomes"]:
        key = (episodes.c.scope == row.pop("scope")) & (episodes.c.id == row.pop("id"))
        connection.execute(update(episodes).where(key).values(row))


@functools.lru_cache(maxsize=4)
def _insertion(dialect: Dialect) -> str:
    """What adds steps, as the driver takes it: these rows need no conversion, which would cost more than writing them."""
    names = [column.name for column in steps.columns if column is not steps.c.id]
    return str(insert(steps).inline().compile(dialect=dialect, column_keys=names))


def _storable(value: Any) -> Any:
    """What both kinds of database can hold: no NUL, no lone surrogate, no number beyond 64 bits."""
    if type(value) is str:
        if not value.isascii():
            value = value.encode("utf-8", "replace").decode()
        return value.replace("\0", "\ufffd")
    if type(value) is int and not -_LARGEST <= value <= _LARGEST:
        return _LARGEST if value > 0 else -_LARGEST
    return value


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def _of_a_row(error: Exception) -> bool:
    """Whether a row is at fault, which no second try will change, and not the database."""
    return isinstance(error, IntegrityError | RefusedRow) or not isinstance(error, DBAPIError | PoolTimeout | OSError)
