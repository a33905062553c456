"""Traces: played episodes as JSON Lines, one episode a line. It knows the values of `episode.py`, not who made them.

A line reads `{"schema":1,"episode":{...}}` with the fields of `Episode` by name, so files may be concatenated. Floats are
rounded to 4 significant digits on writing (a log-probability of -0.00123456 is stored as -0.001235), which keeps files small
and is plenty for training and figures. A process that dies in mid-write leaves a last line without its end; reading leaves that
line out and says so, and the next writer cuts it off before it appends. One writer a file at a time.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Literal, Self

import msgspec

from bitroute.episode import Episode, Sensitivity, Signals, Step
from bitroute.errors import DataError

SCHEMA: Final = 1
_PREFIX = b'{"schema":%d,"episode":' % SCHEMA
_log = logging.getLogger(__name__)


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    schema: Literal[1]
    episode: Episode


class _Version(msgspec.Struct):
    schema: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)
_version_decoder = msgspec.json.Decoder(_Version)


class TraceWriter:
    """Appends episodes to `path`, `batch` at a time; leaving the `with` block writes the rest and syncs the disk.

    Opening repairs what a killed writer left (see the module docstring). Raises DataError when the file is no trace file, when
    an episode holds a number that is not finite, and when the disk refuses; the file then still ends with a whole episode.
    """

    def __init__(self, path: Path, batch: int = 1) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.path = path
        self._batch = batch
        self._waiting: list[bytes] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what `write` accepted is with the operating system, and survives the death of this process.
            self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        except OSError as error:
            raise DataError(f"cannot open {path}: {error.strerror}") from error
        try:
            _refuse_other_files(self._file, path)
            self._end = _whole_lines(self._file)
            if self._end < self._file.seek(0, os.SEEK_END):
                _log.warning("%s: dropped a last line that was cut off", path)
                self._file.truncate(self._end)
            self._file.seek(self._end)
        except BaseException:
            self._file.close()
            raise

    def write(self, episode: Episode) -> None:
        """Store one episode (it is on its way to the disk once `batch` of them are waiting)."""
        self._waiting.append(_encoder.encode(_Line(SCHEMA, _rounded(episode))) + b"\n")
        if len(self._waiting) >= self._batch:
            self.flush()

    def flush(self) -> None:
        """Hand the waiting episodes to the operating system."""
        data = memoryview(b"".join(self._waiting))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise DataError(f"cannot write {self.path}: {error.strerror}") from error
        self._waiting.clear()
        self._end = self._file.tell()

    def close(self) -> None:
        """Write what is waiting, sync, close. Harmless when already closed."""
        if self._file.closed:
            return
        try:
            self.flush()
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_traces(path: Path) -> Iterator[Episode]:
    """The episodes of a trace file, in order, one line in memory at a time.

    A last line that was cut off is left out, with a warning in the log. Raises DataError naming file and line for everything
    else that is no episode of this schema, and for a file that cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                _log.warning("%s: left out line %d, which was cut off", path, number)
                return
            try:
                yield _decoder.decode(line).episode
            except msgspec.MsgspecError as error:
                raise DataError(f"{path}, line {number}: {_explain(line, error)}") from error


def _explain(line: bytes, error: msgspec.MsgspecError) -> str:
    try:
        version = _version_decoder.decode(line).schema
    except msgspec.MsgspecError:
        return f"not a stored episode ({error})"
    if version != SCHEMA:
        return f"trace schema {version}, this version of bitroute reads schema {SCHEMA}"
    return f"not a stored episode ({error})"


def _refuse_other_files(file: BinaryIO, path: Path) -> None:
    """A repair cuts bytes off: make sure first that the file is one of ours."""
    start = file.read(len(_PREFIX))
    if start != _PREFIX[: len(start)]:
        raise DataError(f"{path} is not a trace file of schema {SCHEMA}: refusing to append to it")


def _whole_lines(file: BinaryIO) -> int:
    """Number of bytes up to and including the last line end."""
    position = file.seek(0, os.SEEK_END)
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _rounded(episode: Episode) -> Episode:
    try:
        return replace(episode, steps=tuple(_rounded_step(step) for step in episode.steps))
    except ValueError as error:
        raise DataError(f"episode of task {episode.task_id}, policy {episode.policy}: {error}") from error


def _rounded_step(step: Step) -> Step:
    decision = step.decision
    score = None if decision.score is None else _round(decision.score, "score")
    return replace(
        step,
        decision=replace(decision, score=score, propensity=_round(decision.propensity, "propensity")),
        signals=None if step.signals is None else _rounded_signals(step.signals),
        reward=_round(step.reward, "reward"),
        sensitivity=None if step.sensitivity is None else _rounded_sensitivity(step.sensitivity),
        probe=None if step.probe is None else _rounded_signals(step.probe),
    )


def _rounded_signals(signals: Signals) -> Signals:
    return Signals(
        tuple(_round(x, "logprobs") for x in signals.logprobs),
        tuple(_round(x, "constrained") for x in signals.constrained),
        tuple(_round(x, "entropy") for x in signals.entropy),
        tuple(_round(x, "margin") for x in signals.margin),
    )


def _rounded_sensitivity(label: Sensitivity) -> Sensitivity:
    return replace(
        label,
        kl_sum=_round(label.kl_sum, "kl_sum"),
        kl_mean=_round(label.kl_mean, "kl_mean"),
        kl_max=_round(label.kl_max, "kl_max"),
        raw_sum=_round(label.raw_sum, "raw_sum"),
        low=None if label.low is None else _rounded_signals(label.low),
    )


def _round(number: float, field: str) -> float:
    # JSON has no infinity: msgspec would write null, and the line could not be read back.
    if not math.isfinite(number):
        raise ValueError(f"{field} holds {number}, which JSON cannot store")
    return float(f"{number:.4g}")
