"""Writes records in a thread of its own, off the request's path. It knows rows, a bounded queue and a database that goes away.

A record that waits longer than the flush interval has been committed (SQLite in WAL mode: see `tables` for what survives what).
Where the database is away, full or locked, records wait as long as the queue has room; then new ones are dropped and counted.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Dialect, Engine, insert, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError as RefusedRow
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bitroute.gateway.records.step import EpisodeRecord, StepRecord
from bitroute.gateway.records.tables import episodes, steps

_log = logging.getLogger(__name__)

QUEUE: Final = 20_000  # records that wait at most ...
TEXT: Final = 256 * 1024 * 1024  # ... and characters of stored content in them
BATCH: Final = 500  # records a transaction
SLOWEST: Final = 5.0  # seconds between tries while the database is away
FAREWELL: Final = 5.0  # seconds that `close` keeps trying
_LARGEST: Final = 2**63 - 1


class ReportedOutcome(msgspec.Struct, frozen=True):
    """The outcome of an episode; what is None leaves an earlier report as it is."""

    scope: str
    episode: str
    ended: float
    success: bool | None = None
    reward: float | None = None

    def onto(self, earlier: ReportedOutcome | None) -> ReportedOutcome:
        """This report after an earlier one."""
        if earlier is None:
            return self
        success = earlier.success if self.success is None else self.success
        return msgspec.structs.replace(self, success=success, reward=earlier.reward if self.reward is None else self.reward)


Item = EpisodeRecord | StepRecord | ReportedOutcome
_TABLES: Final = {EpisodeRecord: "episodes", StepRecord: "steps", ReportedOutcome: "outcomes"}  # as the log calls them


class Writer:
    """Writes what it is given, in order. `start` before the first record, `close` after the last one.

    `failures` counts transactions that the database refused, `dropped` records that are lost (no room, or refused for good).
    """

    def __init__(self, flush: float, *, room: int = QUEUE, patience: float = FAREWELL) -> None:
        """`flush` and `patience`, which is how long `close` keeps trying, in seconds; `room` is for records that wait."""
        self.failures = 0
        self.away = False  # the database is, and the log says so
        self._linger = min(flush / 4, 0.1)
        self._room, self._patience = room, patience
        self._queue: deque[tuple[Item, int]] = deque()  # with the characters of its stored content
        self._batch: list[tuple[Item, int]] = []  # taken from the queue, not committed yet
        # Each counter has one thread that writes it: characters of content and lost records, here and in the thread.
        self._text = self._text_done = 0
        self._turned_away = self._lost = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def pending(self) -> int:
        """Records that wait."""
        return len(self._queue) + len(self._batch)

    @property
    def dropped(self) -> int:
        """Records that are lost."""
        return self._turned_away + self._lost

    def start(self, engine: Engine) -> None:
        """Start writing to an open database."""
        self._engine = engine
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, for a few seconds where the database is away, and stop. Harmless when called again."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def put(self, item: Item, characters: int = 0) -> bool:
        """Queue a record where there is room; `characters` of stored content are in it."""
        if self.pending >= self._room or self._text - self._text_done + characters > TEXT or self._stop.is_set():
            self._turned_away += 1
            return False
        self._text += characters
        self._queue.append((item, characters))
        return True

    def turn_away(self) -> None:
        """Count a record that is lost because the one that it belongs to is."""
        self._turned_away += 1

    # The thread

    def _run(self) -> None:
        delay = self._linger
        while not self._stop.wait(delay):
            delay = self._linger if self._drain() else min(max(2 * delay, self._linger), SLOWEST)
        deadline = time.monotonic() + self._patience
        while not self._drain() and time.monotonic() < deadline:
            time.sleep(self._linger)
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
            if self.away:
                self.away = False
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
                _log.error(
                    "records: the database refuses a row of %s (%s)", _TABLES[type(self._batch[0][0])], type(error).__name__
                )
            self._done(self._batch[:1])
            del self._batch[0]
        return True

    def _commit(self, batch: Sequence[tuple[Item, int]]) -> None:
        with self._engine.begin() as connection:
            _write(connection, [item for item, _ in batch])

    def _done(self, batch: Sequence[tuple[Item, int]]) -> None:
        self._text_done += sum(characters for _, characters in batch)

    def _log_away(self, error: Exception) -> None:
        """Log that the database is away, once until it is back."""
        if not self.away:
            self.away = True
            cause = error.orig if isinstance(error, DBAPIError) else error
            _log.error("records: the database does not take rows, they wait (%s)", " ".join(str(cause).split()))


def _write(connection: Connection, batch: Sequence[Item]) -> None:
    """Insert and update, each kind at once: an episode's row stands before its outcome is reported."""
    opened = [_storable(item.row()) for item in batch if isinstance(item, EpisodeRecord)]
    taken = [_storable(item.row()) for item in batch if isinstance(item, StepRecord)]
    if opened:
        add = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(episodes)
        connection.execute(add.on_conflict_do_nothing(), opened)
    if taken:
        connection.exec_driver_sql(_insertion(connection.dialect), taken)
    for item in batch:
        if isinstance(item, ReportedOutcome):
            row = _storable({"scope": item.scope, "id": item.episode})
            known = {"ended": item.ended, "success": item.success, "reward": item.reward}
            of_episode = (episodes.c.scope == row["scope"]) & (episodes.c.id == row["id"])
            connection.execute(update(episodes).where(of_episode).values({n: v for n, v in known.items() if v is not None}))


@functools.lru_cache(maxsize=4)
def _insertion(dialect: Dialect) -> str:
    """What adds steps, as the driver takes it: these rows need no conversion, which would cost more than writing them."""
    names = [column.name for column in steps.columns if column is not steps.c.id]
    return str(insert(steps).inline().compile(dialect=dialect, column_keys=names))


def _storable(row: dict[str, Any]) -> dict[str, Any]:
    """What both kinds of database can hold: no NUL, no lone surrogate, no number beyond 64 bits."""
    for name, value in row.items():
        if type(value) is str:
            known = value if value.isascii() else value.encode("utf-8", "replace").decode()
            row[name] = known.replace("\0", "\ufffd")
        elif type(value) is int and not -_LARGEST <= value <= _LARGEST:
            row[name] = _LARGEST if value > 0 else -_LARGEST
    return row


def _of_a_row(error: Exception) -> bool:
    """Whether a row is at fault, which no second try will change, and not the database."""
    return isinstance(error, IntegrityError | RefusedRow) or not isinstance(error, DBAPIError | PoolTimeout | OSError)
