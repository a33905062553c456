"""Keeps every episode and every step: what is recorded of a request, and what is looked up for one. It knows no threads.

Requests neither wait for the database nor fail with it: `writer` takes the records. Text is kept only where the configuration
says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from typing import Final

from cachetools import FIFOCache
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from bitroute.cost import CostModel
from bitroute.episode import Usage
from bitroute.gateway.core.config import RecordsConfig
from bitroute.gateway.core.values import Call, Caller, Outcome, RoutingDecision, StepContext
from bitroute.gateway.records.restoring import SessionProbe, restore
from bitroute.gateway.records.step import EpisodeRecord, StepRecord
from bitroute.gateway.records.tables import episodes, open_database
from bitroute.gateway.records.writer import FAREWELL, QUEUE, ReportedOutcome, Writer
from bitroute.gateway.sessions.episode_state import RestoredSession

_log = logging.getLogger(__name__)

KNOWN: Final = 100_000  # episodes whose row is known to be there
EARLY: Final = 10_000  # outcomes that were reported before the episode's first request had ended
LOOKUP: Final = 1.0  # seconds that a request waits for what the database knows of its session


class Recorder:
    """The records of one gateway. `start` before the first request, `close` after the last one."""

    def __init__(
        self, config: RecordsConfig, cost: CostModel, ladder: Sequence[str], *, room: int = QUEUE, patience: float = FAREWELL
    ) -> None:
        self.config, self.cost = config, cost
        self._ladder = ",".join(ladder)
        self._writer = Writer(config.flush, room=room, patience=patience)
        self._known: FIFOCache[tuple[str, str], None] = FIFOCache(KNOWN)
        self._early: FIFOCache[tuple[str, str], ReportedOutcome] = FIFOCache(EARLY)
        self._lookups_failed = 0
        self._engine: Engine | None = None
        self._probe: SessionProbe | None = None

    @property
    def pending(self) -> int:
        """Records that wait."""
        return self._writer.pending

    @property
    def dropped(self) -> int:
        """Records that are lost."""
        return self._writer.dropped

    @property
    def failures(self) -> int:
        """Transactions that the database refused."""
        return self._writer.failures + self._lookups_failed

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
        self._writer.start(self._engine)

    def close(self) -> None:
        """Write what waits, for a few seconds where the database is away, and stop. Harmless when called again."""
        self._writer.close()
        if self._engine is not None and self._probe is not None:
            self._probe.close()
            self._engine.dispose()

    def step(
        self, caller: Caller, call: Call, context: StepContext, routing: RoutingDecision | None, outcome: Outcome
    ) -> float:
        """Record one request, and its episode when that is new; returns the request's cost by the cost model."""
        at, cost, content = time.time() - outcome.total, self._cost(outcome), self.config.store_content
        key = (caller.scope, context.episode)
        if context.opened or key not in self._known:
            opened = EpisodeRecord.of(caller, context, routing, ladder=self._ladder, started=at, content=content)
            if not self._writer.put(opened, opened.characters):
                self._writer.turn_away()  # the step that goes with it
                return cost
            self._known[key] = None
            if (reported := self._early.pop(key, None)) is not None:
                self._writer.put(reported)
        taken = StepRecord.of(caller, call, context, routing, outcome, at=at, cost=cost, content=content)
        self._writer.put(taken, taken.characters)
        return cost

    def outcome(self, scope: str, episode: str, success: bool | None, reward: float | None) -> None:
        """Record an episode's outcome; what is None leaves an earlier report as it is.

        A client may have read its answer's end before we have: the episode's row is then still to come, and the outcome is
        queued again behind it.
        """
        finite = reward if reward is not None and math.isfinite(reward) else None
        reported = ReportedOutcome(scope, episode, time.time(), success, finite)
        self._writer.put(reported)
        key = (scope, episode)
        if key not in self._known:
            self._early[key] = reported.onto(self._early.pop(key, None))

    async def restore(self, scope: str, session: str) -> RestoredSession | None:
        """What the records know of a session that was forgotten; None also where the database cannot say, or not soon."""
        if self._writer.away or (self._probe is not None and not self._probe.may_know(scope, session)):
            return None
        try:
            async with asyncio.timeout(LOOKUP):
                return await asyncio.to_thread(restore, self.engine, scope, session)
        except (SQLAlchemyError, TimeoutError) as error:
            self._lookups_failed += 1
            _log.warning("records: a session could not be looked up (%s)", type(error).__name__)
            return None

    async def find(self, scope: str, episode: str) -> str | None:
        """`episode` when there are records of it within the scope, also written before this process began; else None."""
        try:
            return episode if (scope, episode) in self._known or await asyncio.to_thread(self._stored, scope, episode) else None
        except SQLAlchemyError as error:
            self._lookups_failed += 1
            _log.warning("records: an episode could not be looked up (%s)", type(error).__name__)
            return None

    def _stored(self, scope: str, episode: str) -> bool:
        of_id = (episodes.c.scope == scope) & (episodes.c.id == episode)
        with self.engine.connect() as connection:
            return connection.execute(select(episodes.c.id).where(of_id)).first() is not None

    def _cost(self, outcome: Outcome) -> float:
        if outcome.variant is None or outcome.answer is None:
            return 0.0
        rates = self.cost.variants.get(outcome.variant)
        if rates is None:
            return 0.0
        if (tokens := outcome.tokens) is None:
            return rates.call  # the upstream did not count
        return rates.cost(Usage(outcome.variant, tokens.prefill, tokens.cached, tokens.decode))
