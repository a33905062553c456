"""What the page reads from the records: newest steps and episodes, policies against each other, the course of an hour.

It only reads, in connections of its own, and no request waits for it: sums and quantiles are the database's work, intervals are
of bounded samples. It returns plain data for JSON; times are Unix seconds, costs in the cost model's unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from bitroute.cost import CostModel
from bitroute.errors import DataError
from bitroute.gateway.records.facts import shown
from bitroute.gateway.records.step import StepRecord
from bitroute.gateway.records.tables import episodes, open_database, steps

NEWEST: Final = 2000  # episodes that policies are compared on
POINTS: Final = 60  # of a course
RESAMPLES: Final = 1000  # of an interval on the page
STEPS: Final = 1000  # of one episode that are shown

_SHOWN: Final = [steps.c[field.name] for field in shown(StepRecord, "steps")]
_DETAILS: Final = shown(StepRecord, "episode")  # of a step, where its episode is looked at

Row = dict[str, Any]


class History:
    """A reader of the records at `url`, which exist already. Its methods block and may be called from any thread.

    All raise DataError when the database cannot be read. A step's height is its variant's place on the ladder, from 0 (the
    lowest) to 1 (the highest); a share is a mean of heights. A step counts when it was answered, each try by itself.
    """

    def __init__(self, url: str, ladder: Sequence[str], cost: CostModel) -> None:
        self._url = url
        top = max(len(ladder) - 1, 1)
        self._height = sa.case({name: i / top for i, name in enumerate(ladder)}, value=steps.c.variant, else_=None)
        highest = cost.variants[ladder[-1]]
        used = ((steps.c.prefill, highest.prefill), (steps.c.cached, highest.cached), (steps.c.decode, highest.decode))
        every = sum((sa.func.coalesce(column, 0) * rate for column, rate in used), sa.literal(highest.call))
        # The recorder charges answered steps alone, so what they would have cost at high is counted for the same ones.
        self._answered = steps.c.answer.is_not(None)
        self._all_high = sa.case((self._answered, every), else_=0.0)
        self._engine: sa.Engine | None = None

    def close(self) -> None:
        """Let the connections go."""
        if self._engine is not None:
            self._engine.dispose()

    def steps(self, after: int | None, limit: int) -> list[Row]:
        """The newest `limit` steps, oldest first; with `after` only those whose id is greater."""
        query = sa.select(*_SHOWN).order_by(steps.c.id.desc()).limit(limit)
        return self._rows(query if after is None else query.where(steps.c.id > after))[::-1]

    def course(self, window: float, now: float) -> Row:
        """The last `window` seconds in `POINTS` parts, which begin at multiples of their width.

        Of each part with answers: its start `at` and its `seconds` until now at most, n steps, how many of them were `routed`,
        their share and mean budget, p50 and p95 of the seconds to the answer's end, cost and its `all_high` counterpart.
        """
        width = window / POINTS
        end = math.ceil(now / width) * width
        start = end - window
        # Whole milliseconds: casts and divisions of integers are the same in both kinds of database.
        part = sa.cast((steps.c.at - start) * 1000, sa.Integer) // max(1, round(width * 1000))
        routed = steps.c.budget.is_not(None)
        found = (
            sa.select(
                part.label("part"),
                steps.c.total,
                steps.c.cost,
                self._all_high.label("all_high"),
                sa.case((routed, self._height)).label("height"),
                steps.c.budget,
                sa.func.row_number().over(partition_by=part, order_by=steps.c.total).label("rank"),
                sa.func.count().over(partition_by=part).label("n"),
            )
            .where(steps.c.at >= start, steps.c.at < end, self._answered)
            .subquery()
        )
        at = found.c

        def quantile(percent: int) -> sa.ColumnElement[float]:
            return sa.func.max(sa.case((at.rank == (at.n * percent + 99) // 100, at.total)))

        query = sa.select(
            at.part,
            sa.func.count().label("n"),
            sa.func.count(at.height).label("routed"),
            sa.func.avg(at.height).label("share"),
            sa.func.avg(at.budget).label("budget"),
            quantile(50).label("p50"),
            quantile(95).label("p95"),
            sa.func.sum(at.cost).label("cost"),
            sa.func.sum(at.all_high).label("all_high"),
        )
        rows = self._rows(query.group_by(at.part).order_by(at.part))
        points = []
        for row in rows:
            at_ = start + row.pop("part") * width
            points.append({"at": at_, "seconds": max(0.001, min(width, now - at_)), **row})
        return {"start": start, "end": end, "parts": POINTS, "points": points}

    def episodes(self, before: float | None, limit: int) -> list[Row]:
        """The newest `limit` episodes, newest first; with `before` only those that started earlier."""
        query = sa.select(episodes).order_by(episodes.c.started.desc()).limit(limit)
        page = (query if before is None else query.where(episodes.c.started < before)).subquery()
        return self._rows(self._summed(page).order_by(page.c.started.desc()))

    def episode(self, scope: str, id_: str) -> Row | None:
        """One episode with its steps (text, where it was stored); None when there is none."""
        page = sa.select(episodes).where(episodes.c.scope == scope, episodes.c.id == id_).subquery()
        found = self._rows(self._summed(page))
        if not found:
            return None
        columns = (*_SHOWN, self._all_high.label("all_high"), self._height.label("height"))
        query = sa.select(*columns, *(steps.c[field.name] for field in _DETAILS))
        played = self._rows(
            query.where(steps.c.scope == scope, steps.c.episode == id_).order_by(steps.c.step, steps.c.id).limit(STEPS)
        )
        for field in _DETAILS:
            if not field.plain:
                for row in played:
                    row[field.name] = msgspec.json.decode(row[field.name] or "null")
        return found[0] | {"played": played}

    def policies(self) -> list[Row]:
        """Each policy and arm over the newest `NEWEST` episodes, with 95 % intervals.

        Success is over the episodes whose outcome was reported (Wilson), None without any; share, cost and what it would have
        been `all_high` are means over episodes (bootstrap). `saved` is the part of that last cost which was not spent, None
        where it is 0.
        """
        page = sa.select(episodes).order_by(episodes.c.started.desc()).limit(NEWEST).subquery()
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self._rows(self._summed(page)):
            if row["share"] is not None:  # an answer of a variant that is still on the ladder
                groups.setdefault((row["policy"] or "", row["arm"]), []).append(row)
        return [_compared(policy, arm, found) for (policy, arm), found in sorted(groups.items())]

    def _summed(self, page: sa.Subquery) -> sa.Select[Any]:
        """A page of episodes, each with sums over its steps."""
        on = (steps.c.scope == page.c.scope) & (steps.c.episode == page.c.id)
        shown = ("scope", "id", "session", "source", "parent", "parent_step", "first", "policy", "arm", "started", "ended")
        return (
            sa.select(
                *(page.c[name] for name in (*shown, "success", "reward", "kind")),
                sa.func.count(steps.c.id).label("steps"),
                sa.func.count(steps.c.answer).label("answered"),
                sa.func.avg(sa.case((self._answered, self._height))).label("share"),
                sa.func.coalesce(sa.func.sum(steps.c.cost), 0.0).label("cost"),
                sa.func.coalesce(sa.func.sum(self._all_high), 0.0).label("all_high"),
                sa.func.max(steps.c.at).label("newest"),
            )
            .select_from(page.outerjoin(steps, on))
            .group_by(*page.c)
        )

    def _rows(self, query: sa.Select[Any]) -> list[Row]:
        try:
            if self._engine is None:
                self._engine = _read_only(open_database(self._url, create=False))
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]
        except SQLAlchemyError as error:
            raise DataError(f"cannot read the records ({type(error).__name__})") from error


def _read_only(engine: sa.Engine) -> sa.Engine:
    if engine.dialect.name == "sqlite":
        engine.dispose()  # connections made before do not have the pragma

        @sa.event.listens_for(engine, "connect")
        def refuse_writes(connection: Any, _: object) -> None:
            connection.execute("PRAGMA query_only=ON")

        return engine
    return engine.execution_options(postgresql_readonly=True)


def _compared(policy: str, arm: str, found: Sequence[Row]) -> Row:
    from bitroute.evaluation import statistics  # noqa: PLC0415  (a second of imports that the gateway itself does without)

    reported = [row["success"] for row in found if row["success"] is not None]
    means = ("share", "cost", "all_high")
    table = np.array([[row[name] for name in means] for row in found], dtype=np.float64)
    point, samples = table.mean(axis=0), statistics.bootstrap_means(table, resamples=RESAMPLES)
    saved = statistics.ratio_estimate(float(point[2] - point[1]), float(point[2]), samples[:, 2] - samples[:, 1], samples[:, 2])
    intervals = [statistics.percentile_interval(samples[:, i]) for i in range(len(means))]
    return {
        "policy": policy,
        "arm": arm,
        "episodes": len(found),
        "steps": sum(row["answered"] for row in found),
        "reported": len(reported),
        "success": statistics.wilson(sum(reported), len(reported)) if reported else None,
        "saved": saved,
        **{name: statistics.Estimate(float(point[i]), *intervals[i]) for i, name in enumerate(means)},
    }
