"""Records as files that training reads: traces where the text was stored, else a table of features."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from sqlalchemy import Engine

from bitroute.errors import DataError
from bitroute.gateway.records.reading import Filter, Recorded, read_records, whole_episode
from bitroute.store.features import FeatureRow, feature_line
from bitroute.store.traces import TraceWriter


@dataclass(slots=True)
class Exported:
    """What an export wrote: `form` is its format. `skipped` counts episodes that were left out, by the reason."""

    form: Literal["traces", "features"]
    episodes: int
    steps: int
    closed: int
    skipped: Counter[str]


def export(engine: Engine, path: Path, wanted: Filter) -> Exported:
    """Write the wanted episodes to `path`, whole or not at all: traces when any of them has text, else the table.

    Raises DataError when there is none to write, or when the database or the disk refuse.
    """
    form: Literal["traces", "features"] = "traces"
    result = _traces(engine, path, wanted)
    if result is None:
        form, result = "features", _features(engine, path, wanted)
    if result is None:
        raise DataError("records: the wanted episodes have no answered step with text or features")
    return Exported(form, *result)


_Counts = tuple[int, int, int, Counter[str]]


def _traces(engine: Engine, path: Path, wanted: Filter) -> _Counts | None:
    """None when no episode has text."""
    episodes = number = closed = 0
    skipped: Counter[str] = Counter()
    with _replacing(path) as temporary:
        with TraceWriter(temporary, batch=64) as writer:
            for recorded in read_records(engine, wanted):
                if not recorded.has_text:
                    skipped["their text was not stored"] += 1
                    continue
                writer.write(whole_episode(engine, recorded))
                episodes += 1
                number += len(recorded.steps)
                closed += recorded.row["ended"] is not None
        if not episodes:
            return None
        temporary.replace(path)
    return episodes, number, closed, skipped


def _features(engine: Engine, path: Path, wanted: Filter) -> _Counts | None:
    """None when no step has features."""
    episodes = number = closed = 0
    skipped: Counter[str] = Counter()
    with _replacing(path) as temporary:
        with temporary.open("wb") as file:
            for recorded in read_records(engine, wanted):
                lines = [feature_line(row) for row in feature_rows(recorded)]
                if not lines:
                    skipped["the client chose their variants"] += 1
                    continue
                file.writelines(lines)
                episodes += 1
                number += len(lines)
                closed += recorded.row["ended"] is not None
            file.flush()
            os.fsync(file.fileno())
        if not episodes:
            return None
        temporary.replace(path)
    return episodes, number, closed, skipped


def feature_rows(recorded: Recorded) -> list[FeatureRow]:
    """The steps of an episode that a policy decided, and that have features."""
    row = recorded.row
    return [
        FeatureRow(
            episode="/".join(part for part in (row["scope"], row["id"]) if part),
            step=step["step"],
            policy=step["policy"],
            arm=step["arm"],
            ladder=recorded.ladder,
            features=msgspec.json.decode(step["features"], type=tuple[float, ...]),
            variant=step["decision"],
            answered=step["variant"],
            intended=step["intended"],
            propensity=step["propensity"],
            flipped=step["flipped"],
            score=step["score"],
            cost=step["cost"],
            success=row["success"],
            reward=row["reward"],
        )
        for step in recorded.steps
        if step["decision"] is not None and step["features"] is not None
    ]


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that is removed unless it was renamed. Raises DataError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary.exists():
            temporary.unlink()
