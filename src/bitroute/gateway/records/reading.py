"""Recorded episodes read back from the database, in the order in which they began. It knows rows, and what a router saw.

One step of an episode may have several rows, one a request: what counts is the last try that brought an answer. A branch
repeats the steps that it shares with its parent, so that it reads as a whole; its own begin at `own`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, or_, select
from sqlalchemy.exc import DBAPIError

from bitroute.episode import Decision, Episode, Signals, Step, Usage, View
from bitroute.errors import DataError
from bitroute.gateway.records.tables import episodes, steps

SHARED: Final = "shared"  # reason of a step that is the parent's
HISTORY: Final = "history"  # reason of a step that the gateway did not serve: the client told of it
FALLBACK: Final = "fallback"  # reason of a step that another variant answered than was decided
_PAGE: Final = 1000  # rows in memory at a time

Row = RowMapping
_History = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


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
    """An episode's row, and the rows of its answered steps in order: without a gap, from the first that was recorded."""

    row: Row
    steps: tuple[Row, ...]

    @property
    def ladder(self) -> tuple[str, ...]:
        """The variants at its time, cheapest first."""
        return tuple(self.row["ladder"].split(","))

    @property
    def has_text(self) -> bool:
        """Whether the texts of all its steps, and of what went before, were stored."""
        before = self.row["first"] == 0 or self.row["history"] is not None
        return before and all(step["message"] is not None and step["action"] is not None for step in self.steps)


def read_records(engine: Engine, wanted: Filter | None = None) -> Iterator[Recorded]:
    """The wanted episodes that have an answered step. Raises DataError when the database cannot be read."""
    query = (
        select(steps)
        .join(episodes, (steps.c.scope == episodes.c.scope) & (steps.c.episode == episodes.c.id))
        .where(steps.c.answer.is_not(None), *(wanted or Filter()).clauses())
        .order_by(episodes.c.started, steps.c.scope, steps.c.episode, steps.c.step, steps.c.id)
        .execution_options(yield_per=_PAGE)
    )
    try:
        with engine.connect() as connection, engine.connect() as beside:
            for (scope, name), rows in groupby(connection.execute(query).mappings(), lambda r: (r["scope"], r["episode"])):
                row = _episode(beside, scope, name)
                if row is not None and (found := answered(rows, row["first"])):
                    yield Recorded(row, found)
    except DBAPIError as error:
        raise DataError(f"records: cannot be read ({' '.join(str(error.orig).split())})") from error


def answered(rows: Iterable[Row], first: int) -> tuple[Row, ...]:
    """One row a step, numbered from `first` without a gap: the last complete one, else the last with a part of an answer."""
    best: dict[int, Row] = {}
    for row in rows:
        if row["ended"] == "complete" or best.get(row["step"], row)["ended"] != "complete":
            best[row["step"]] = row
    found: list[Row] = []
    while first + len(found) in best:
        found.append(best[first + len(found)])
    return tuple(found)


def whole_episode(engine: Engine, recorded: Recorded) -> Episode:
    """An episode with text as a trace, from its very first step; `recorded.has_text` must hold.

    `success` is False where no outcome is known, and `failure` then says so. A reported reward is the last step's.
    """
    row = recorded.row
    own = [_step(step, step["message"], step["action"]) for step in recorded.steps]
    if row["reward"] is not None:
        own[-1] = replace(own[-1], reward=row["reward"])
    return Episode(
        task_id="/".join(part for part in (row["scope"], row["id"]) if part),
        kind=row["kind"] or "unknown",
        split="gateway",
        policy=row["policy"] or "none",
        seed=row["seed"],
        steps=(*_before(engine, row), *own),
        success=bool(row["success"]),
        failure=None if row["success"] is not None else "outcome: success was not reported",
    )


def views(episode: Episode) -> list[View]:
    """What the router could read before each step."""
    messages = tuple(step.message for step in episode.steps)
    actions = tuple(step.action for step in episode.steps)
    variants = tuple(step.decision.variant for step in episode.steps)
    signals = tuple(step.signals for step in episode.steps)
    return [View(messages[: t + 1], actions[:t], variants[:t], signals[:t]) for t in range(len(messages))]


def _before(engine: Engine, row: Row) -> list[Step]:
    """The steps before the first recorded one: the parent's where they are shared and recorded, else as the client told."""
    if row["first"] == 0:
        return []
    messages, actions, variants = msgspec.json.decode(row["history"], type=_History)
    before = [
        Step(message, action, Decision(variant, reason=HISTORY), None, Usage(variant))
        for message, action, variant in zip(messages, actions, variants, strict=True)
    ]
    with engine.connect() as connection:
        for number, step in _shared(connection, row["scope"], row["parent"], row["parent_step"]).items():
            if number < len(before) and step["action"] == before[number].action:
                before[number] = _step(step, before[number].message, before[number].action, SHARED)
    return before


def _shared(connection: Connection, scope: str, parent: str | None, count: int | None) -> dict[int, Row]:
    """The answered steps below `count` of an episode and, before its own, of those that it branched from, by number."""
    found: dict[int, Row] = {}
    seen: set[str] = set()
    while parent is not None and parent not in seen:
        seen.add(parent)
        row = _episode(connection, scope, parent)
        if row is None:
            break
        query = (
            select(steps)
            .where(steps.c.scope == scope, steps.c.episode == parent, steps.c.answer.is_not(None), steps.c.step < (count or 0))
            .order_by(steps.c.step, steps.c.id)
        )
        found = {step["step"]: step for step in answered(connection.execute(query).mappings(), row["first"])} | found
        parent, count = row["parent"], min(count or 0, row["parent_step"] or 0)
    return found


def _episode(connection: Connection, scope: str, name: str) -> Row | None:
    query = select(episodes).where(episodes.c.scope == scope, episodes.c.id == name)
    return connection.execute(query).mappings().one_or_none()


def _step(row: Row, message: str, action: str, reason: str | None = None) -> Step:
    variant = row["variant"]
    fell = row["decision"] is not None and row["decision"] != variant
    propensity = 1.0 if row["propensity"] is None else row["propensity"]
    return Step(
        message=message,
        action=action,
        decision=Decision(variant, row["score"], reason or (FALLBACK if fell else row["reason"] or ""), propensity),
        signals=signals_of(row),
        usage=Usage(variant, row["prefill"] or 0, row["cached"] or 0, row["decode"] or 0),
    )


def signals_of(row: Any) -> Signals | None:
    """What the upstream's log-probabilities revealed of a step."""
    return msgspec.json.decode(row["signals"], type=Signals) if row["signals"] else None
