"""Records as files: traces where the text was stored, a table of features for training without it, or all that is recorded."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from sqlalchemy import Engine

from bitroute.errors import DataError
from bitroute.gateway.records.reading import Filter, Recorded, read_records, read_requests, whole_episode
from bitroute.store.features import FeatureRow, feature_line
from bitroute.store.files import replacing
from bitroute.store.traces import TraceWriter

Form = Literal["traces", "features", "records"]

_MISSING = {  # what no wanted episode has, by the form that was asked for
    None: "text or features",
    "traces": "text; it is stored from serve --store-content on",
    "features": "features",
    "records": "request",
}


@dataclass(slots=True)
class Exported:
    """What an export wrote: `form` is its format. `skipped` counts episodes that were left out, by the reason."""

    form: Form
    episodes: int = 0
    steps: int = 0
    closed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def count(self, steps: int, ended: float | None) -> None:
        """Count an episode that was written, of so many steps; `ended` is when its outcome was reported."""
        self.episodes += 1
        self.steps += steps
        self.closed += ended is not None


class _NothingError(Exception):
    """There was nothing to write: the file is left as it is."""


def export_records(engine: Engine, path: Path, wanted: Filter, form: Form | None = None) -> Exported:
    """Write the wanted episodes to `path`, whole or not at all. None: traces when any of them has text, else features.

    Raises DataError when there is none to write, or when the database or the disk refuse.
    """
    writers = {"traces": _traces, "features": _features, "records": _records}
    for name in [form] if form is not None else ["traces", "features"]:
        with suppress(_NothingError):
            with replacing(path) as temporary:
                done = writers[name](engine, temporary, wanted)
                if not done.episodes:
                    raise _NothingError
            return done
    raise DataError(f"records: the wanted episodes have no answered step with {_MISSING[form]}")


def _traces(engine: Engine, path: Path, wanted: Filter) -> Exported:
    """Episodes with text."""
    done = Exported("traces")
    with TraceWriter(path, batch=64) as writer:
        for recorded in read_records(engine, wanted):
            if not recorded.has_text:
                done.skipped["their text was not stored"] += 1
                continue
            writer.write(whole_episode(engine, recorded))
            done.count(len(recorded.steps), recorded.episode.ended)
    return done


def _features(engine: Engine, path: Path, wanted: Filter) -> Exported:
    """Decided steps with features, a line each."""
    done = Exported("features")
    with path.open("wb") as file:
        for recorded in read_records(engine, wanted):
            lines = [feature_line(row) for row in feature_rows(recorded)]
            if not lines:
                done.skipped["the client chose their variants"] += 1
                continue
            file.writelines(lines)
            done.count(len(lines), recorded.episode.ended)
    return done


def _records(engine: Engine, path: Path, wanted: Filter) -> Exported:
    """All that is recorded: a line a request, `{"episode":{...},"step":{...}}` with the columns by name."""
    done = Exported("records")
    with path.open("wb") as file:
        for episode, requests in read_requests(engine, wanted):
            plain = episode.plain()
            lines = [msgspec.json.encode({"episode": plain, "step": step.plain()}) + b"\n" for step in requests]
            file.writelines(lines)
            done.count(len(lines), episode.ended)
    return done


def feature_rows(recorded: Recorded) -> list[FeatureRow]:
    """The steps of an episode that a policy decided, and that have features."""
    episode = recorded.episode
    return [
        FeatureRow(
            episode=recorded.name,
            step=step.step,
            policy=step.policy or "",
            arm=step.arm or "",
            ladder=recorded.ladder,
            features=step.features,
            variant=step.decision,
            answered=step.variant or "",
            intended=step.intended or "",
            propensity=1.0 if step.propensity is None else step.propensity,
            flipped=bool(step.flipped),
            score=step.score,
            cost=step.cost,
            success=episode.success,
            reward=episode.reward,
        )
        for step in recorded.steps
        if step.decision is not None and step.features is not None
    ]
