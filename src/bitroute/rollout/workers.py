"""Plays many episodes on all cores: worker processes that each host an engine, fed with shards of tasks.

A shard is a fixed slice of a job's tasks, which one process plays with a batch that is refilled; where shards are cut depends
on the job alone, not on the number of workers. Shards are written to the traces file as they end; a run that was killed plays
only what is missing. This module knows processes and files of episodes; what playing means is given to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitroute.engines.spec import EngineSpec
from bitroute.episode import Episode
from bitroute.errors import BitrouteError, DataError
from bitroute.store.traces import TraceWriter, read_traces
from bitroute.threads import wait_passively

SMALLEST, LARGEST = 16, 256  # pairs of a shard: with 16 a core plays nine tenths of what it plays with 64
PARTS = 4  # shards of a job, so that up to four cores have something to do; larger shards lose more when killed


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a worker loads once. `data` is where the suite's published files are, None leaves it to the suite."""

    suite: str
    data: Path | None
    engine: EngineSpec


@dataclass(frozen=True, slots=True)
class Replay:
    """Episode (task `index`, `seed`) once more, with `variant` at `step` whatever the router says there (-1: at none)."""

    index: int
    seed: int
    step: int = -1
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What to play. `router` is a specification for `build_router`; `threshold` and `sample` override the router's own; `free`
    lets the model write what it likes instead of choosing among the admissible commands; `limit` is a hard budget, in steps at
    the highest variant an episode.

    Episode (i, seed) is played for i in start .. start + count of `split` and each of `seeds`; or, where there are `replays`,
    just these are.
    """

    split: str
    count: int
    router: str
    policy: str
    start: int = 0
    seeds: tuple[int, ...] = (0,)
    threshold: float | None = None
    sample: bool = False
    label: bool = False
    free: bool = False
    max_steps: int = 30
    limit: float | None = None
    replays: tuple[Replay, ...] = ()

    def pairs(self) -> list[tuple[int, int]]:
        """All (task index, seed) in the order of the results."""
        if self.replays:
            return [(replay.index, replay.seed) for replay in self.replays]
        return [(i, seed) for i in range(self.start, self.start + self.count) for seed in self.seeds]

    @property
    def size(self) -> int:
        """Pairs of each shard but the last one, which is what remains."""
        count = len(self.replays) or self.count * len(self.seeds)
        return min(LARGEST, max(SMALLEST, -(-count // PARTS)))

    def shards(self) -> list[Shard]:
        """The pairs cut into shards of `size`."""
        pairs, size = self.pairs(), self.size
        return [Shard(self, i // size, tuple(pairs[i : i + size])) for i in range(0, len(pairs), size)]


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a job, its `number`-th."""

    job: Job
    number: int
    pairs: tuple[tuple[int, int], ...]

    @property
    def replays(self) -> tuple[Replay, ...]:
        """What is forced in this shard, one a pair; none where nothing is."""
        return self.job.replays[self.number * self.job.size : (self.number + 1) * self.job.size]


Play = Callable[[Shard], list[Episode]]
Submit = Callable[[Shard], Future[list[Episode]]]


class Workers:
    """Plays jobs shard by shard. `submit` begins to play a shard, wherever that is."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit

    def play(self, jobs: Sequence[Job], description: str = "") -> list[list[Episode]]:
        """The episodes of each job, in the order of its pairs; without a description no progress bar is shown."""
        shards = [(index, shard) for index, job in enumerate(jobs) for shard in job.shards()]
        found: dict[tuple[int, int], list[Episode]] = {}
        with _progress(sum(len(s.pairs) for _, s in shards), description) as bar:
            futures = {self._submit(shard): (index, number) for number, (index, shard) in enumerate(shards)}
            for future in as_completed(futures):
                found[futures[future]] = future.result()
                bar.update(len(found[futures[future]]))
        results: list[list[Episode]] = [[] for _ in jobs]
        for index, number in sorted(found):
            results[index] += found[index, number]
        return results

    def record(self, job: Job, path: Path, description: str) -> list[Episode]:
        """Play a job into the traces file `path`; what stands there already is not played again.

        A shard of which only a part is stored is played as a whole, so that its episodes are those of an undisturbed run, and
        the missing ones are added. Raises DataError when the file holds another job's episodes.
        """
        episodes = list(read_traces(path)) if path.exists() else []
        pairs = job.pairs()
        if len(episodes) > len(pairs) or any(e.seed != seed for e, (_, seed) in zip(episodes, pairs, strict=False)):
            raise DataError(f"{path}: holds other episodes than the {len(pairs)} wanted here; remove it to play them anew")
        if len(episodes) == len(pairs):
            return episodes
        size = job.size
        with TraceWriter(path, batch=size) as writer, _progress(len(pairs), description, len(episodes)) as bar:
            first = len(episodes) // size
            futures = [self._submit(shard) for shard in job.shards()[first:]]
            for number, future in enumerate(futures, start=first):
                missing = future.result()[len(episodes) - number * size :]
                for episode in missing:
                    writer.write(episode)
                writer.flush()
                episodes += missing
                bar.update(len(missing))
        return list(read_traces(path))  # as a resumed run will read them: rounded


@contextmanager
def _progress(total: int, description: str, done: int = 0) -> Iterator[Any]:
    """A bar with rate and time left; `done` does not count for the rate."""
    with tqdm(total=total, initial=done, desc=description, unit="episode", disable=not description) as bar:
        yield bar


@contextmanager
def workers(load: Callable[[Hosting], Play], hosting: Hosting, count: int | None = None) -> Iterator[Workers]:
    """Up to `count` processes (by default as many as cores; one on an accelerator), started when there is something to play.
    `load` (a module-level function) makes what plays a shard, once in each. Shards of one number always go to the same process,
    so that it meets the same tasks again under the next policy, and what it remembers of them serves.

    Whatever ends the block, Ctrl-C included, stops them at once: what is on disk stays, the rest is played again. They also end
    when this process is killed. Raises BitrouteError when a worker was killed.
    """
    wait_passively()  # each process is new and takes this from the environment
    context = multiprocessing.get_context("spawn")
    ended, alive = context.Pipe(duplex=False)  # nothing is ever sent: workers see its end when this process closes it or dies
    pools = [
        ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(load, hosting, ended))
        for _ in range(count or _processes(hosting.engine.device))
    ]

    def submit(shard: Shard) -> Future[list[Episode]]:
        with _interrupts_held():
            return pools[shard.number % len(pools)].submit(_play, shard)

    try:
        yield Workers(submit)
    except BrokenProcessPool as error:
        raise BitrouteError(
            "a worker process was killed (out of memory?); what is stored stays, the same command goes on; try --cores 1"
        ) from error
    finally:
        alive.close()
        for pool in pools:
            pool.shutdown(cancel_futures=True)
        ended.close()


def _processes(device: str) -> int:
    """As many as there are cores; on an accelerator one, which keeps it busy alone: others would hold the model again."""
    if device != "cpu":
        from bitroute.nn.device import pick_device  # noqa: PLC0415  (torch is an extra)

        device = pick_device(device).type
    return cores() if device == "cpu" else 1


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in here never see Ctrl-C: this one decides what it means. Here it waits until the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_player: Future[Play] = Future()  # of a worker process: what plays, or why it could not be loaded


def _start(load: Callable[[Hosting], Play], hosting: Hosting, ended: Connection) -> None:
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()
    try:
        _player.set_result(load(hosting))
    except Exception as error:  # raised again by each shard: an initializer's own errors would only be logged
        _player.set_exception(error)


def _end_with(ended: Connection) -> None:
    ended.poll(None)
    os._exit(1)  # in the middle of a shard, too


def _play(shard: Shard) -> list[Episode]:
    return _player.result()(shard)
