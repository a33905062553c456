"""Recorded episodes read back from the database, in the order in which they began. It knows records, and what a router saw.

One step of an episode may have several records, one a request: what counts is the last try that brought an answer. A branch
repeats the steps that it shares with its parent, so that it reads as a whole; its own begin at `own`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from sqlalchemy import ColumnElement, Connection, Engine, or_, select
from sqlalchemy.exc import DBAPIError

from bitroute.episode import Decision, Episode, Step, Usage
from bitroute.errors import DataError
from bitroute.gateway.records.step import EpisodeRecord, StepRecord
from bitroute.gateway.records.tables import episodes, steps

SHARED: Final = "shared"  # reason of a step that is the parent's
HISTORY: Final = "history"  # reason of a step that the gateway did not serve: the client told of it
FALLBACK: Final = "fallback"  # reason of a step that another variant answered than was decided
_PAGE: Final = 1000  # rows in memory at a time


@dataclass(frozen=True, slots=True)
class Filter:
    """Which episodes are wanted. `policy` is a name or name@version, `since` Unix seconds, `closed`: only with an outcome."""

    policy: str | None = None
    scope: str | None = None
    since: float | None = None
    closed: bool = False

    def clauses(self) -> list[ColumnElement[bool]]:
        """As conditions on `episodes`."""
        found: list[ColumnElement[bool]] = []
        if self.policy is not None:
            pattern = self.policy.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "@%"
            found.append(or_(episodes.c.policy == self.policy, episodes.c.policy.like(pattern, escape="\\")))
        if self.scope is not None:
            found.append(episodes.c.scope == self.scope)
        if self.since is not None:
            found.append(episodes.c.started >= self.since)
        if self.closed:
            found.append(episodes.c.ended.is_not(None))
        return found


@dataclass(frozen=True, slots=True)
class Recorded:
    """An episode, and its answered steps in order: without a gap, from the first that was recorded."""

    episode: EpisodeRecord
    steps: tuple[StepRecord, ...]

    @property
    def ladder(self) -> tuple[str, ...]:
        """The variants at its time, cheapest first."""
        return tuple(self.episode.ladder.split(","))

    @property
    def has_text(self) -> bool:
        """Whether the texts of all its steps, and of what went before, were stored."""
        before = self.episode.first == 0 or self.episode.history is not None
        return before and all(step.message is not None and step.action is not None for step in self.steps)

    @property
    def name(self) -> str:
        """The episode's id below its scope, as exports call it."""
        return "/".join(part for part in (self.episode.scope, self.episode.id) if part)


def read_records(engine: Engine, wanted: Filter | None = None) -> Iterator[Recorded]:
    """The wanted episodes that have an answered step. Raises DataError when the database cannot be read."""
    for episode, requests in read_requests(engine, wanted, answered_only=True):
        if played := answered(requests, episode.first):
            yield Recorded(episode, played)


def read_requests(
    engine: Engine, wanted: Filter | None = None, *, answered_only: bool = False
) -> Iterator[tuple[EpisodeRecord, Iterator[StepRecord]]]:
    """The wanted episodes, each with its requests in order of step and time; read on before the next episode is asked for.

    Raises DataError when the database cannot be read.
    """
    query = (
        select(steps)
        .join(episodes, (steps.c.scope == episodes.c.scope) & (steps.c.episode == episodes.c.id))
        .where(*(wanted or Filter()).clauses())
        .order_by(episodes.c.started, steps.c.scope, steps.c.episode, steps.c.step, steps.c.id)
        .execution_options(yield_per=_PAGE)
    )
    if answered_only:
        query = query.where(steps.c.answer.is_not(None))
    try:
        with engine.connect() as connection, engine.connect() as beside:
            found = map(StepRecord.of_row, connection.execute(query).mappings())
            for (scope, id_), own in groupby(found, lambda step: (step.scope, step.episode)):
                if (episode := _episode(beside, scope, id_)) is not None:
                    yield episode, own
    except DBAPIError as error:
        raise DataError(f"records: cannot be read ({' '.join(str(error.orig).split())})") from error


def answered(found: Iterable[StepRecord], first: int) -> tuple[StepRecord, ...]:
    """One record a step, numbered from `first` without a gap: the last complete one, else the last with a part of an answer."""
    best: dict[int, StepRecord] = {}
    for step in found:
        if step.ended == "complete" or best.get(step.step, step).ended != "complete":
            best[step.step] = step
    played: list[StepRecord] = []
    while first + len(played) in best:
        played.append(best[first + len(played)])
    return tuple(played)


def whole_episode(engine: Engine, recorded: Recorded) -> Episode:
    """An episode with text as a trace, from its very first step; `recorded.has_text` must hold.

    `success` is False where no outcome is known, and `failure` then says so. A reported reward is the last step's.
    """
    episode = recorded.episode
    own = [_step(step, step.message or "", step.action or "") for step in recorded.steps]
    if episode.reward is not None:
        own[-1] = replace(own[-1], reward=episode.reward)
    return Episode(
        task_id=recorded.name,
        kind=episode.kind or "unknown",
        split="gateway",
        policy=episode.policy or "none",
        seed=episode.seed,
        steps=(*_before(engine, episode), *own),
        success=bool(episode.success),
        failure=None if episode.success is not None else "outcome: success was not reported",
    )


def _before(engine: Engine, episode: EpisodeRecord) -> list[Step]:
    """The steps before the first recorded one: the parent's where they are shared and recorded, else as the client told."""
    if episode.first == 0 or episode.history is None:
        return []
    before = [
        Step(message, action, Decision(variant, reason=HISTORY), None, Usage(variant))
        for message, action, variant in zip(*episode.history, strict=True)
    ]
    with engine.connect() as connection:
        for number, step in _shared(connection, episode.scope, episode.parent, episode.parent_step).items():
            if number < len(before) and step.action == before[number].action:
                before[number] = _step(step, before[number].message, before[number].action, SHARED)
    return before


def _shared(connection: Connection, scope: str, parent: str | None, count: int | None) -> dict[int, StepRecord]:
    """The answered steps below `count` of an episode and, before its own, of those that it branched from, by number."""
    found: dict[int, StepRecord] = {}
    seen: set[str] = set()
    while parent is not None and parent not in seen:
        seen.add(parent)
        episode = _episode(connection, scope, parent)
        if episode is None:
            break
        query = (
            select(steps)
            .where(steps.c.scope == scope, steps.c.episode == parent, steps.c.answer.is_not(None), steps.c.step < (count or 0))
            .order_by(steps.c.step, steps.c.id)
        )
        own = map(StepRecord.of_row, connection.execute(query).mappings())
        found = {step.step: step for step in answered(own, episode.first)} | found
        parent, count = episode.parent, min(count or 0, episode.parent_step or 0)
    return found


def _episode(connection: Connection, scope: str, id_: str) -> EpisodeRecord | None:
    query = select(episodes).where(episodes.c.scope == scope, episodes.c.id == id_)
    row = connection.execute(query).mappings().one_or_none()
    return EpisodeRecord.of_row(row) if row is not None else None


def _step(step: StepRecord, message: str, action: str, reason: str | None = None) -> Step:
    variant = step.variant or ""
    fell = step.decision is not None and step.decision != variant
    propensity = 1.0 if step.propensity is None else step.propensity
    return Step(
        message=message,
        action=action,
        decision=Decision(variant, step.score, reason or (FALLBACK if fell else step.reason or ""), propensity),
        signals=step.signals,
        usage=Usage(variant, step.prefill or 0, step.cached or 0, step.decode or 0),
    )
