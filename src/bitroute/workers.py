"""Plays many episodes on all cores: worker processes that each host an engine, fed with shards of tasks.

A shard is a fixed slice of the tasks played as one batch, so results do not depend on the number of workers. Shards are written
to the traces file as they end; a run that was killed plays only what is missing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitroute.episode import Episode
from bitroute.store.traces import TraceWriter, read_traces, write_traces

SHARD = 64  # tasks played as one batch


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a worker loads once."""

    model: Path
    schemes: tuple[str, ...]
    variants: Path
    cache_mode: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Job:
    """What to play. `router` is a specification for `build_router`; `thresholds` and `sample` override the router's own.

    Episode (i, seed) is played for i in start .. start + count of `split` and each of `seeds`.
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
    max_steps: int = 30

    def shards(self) -> list[Shard]:
        """The (task index, seed) pairs in order, cut into batches of SHARD."""
        pairs = [(i, seed) for i in range(self.start, self.start + self.count) for seed in self.seeds]
        return [Shard(self, tuple(pairs[i : i + SHARD])) for i in range(0, len(pairs), SHARD)]


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a job."""

    job: Job
    pairs: tuple[tuple[int, int], ...]


Play = Callable[[Shard], list[Episode]]


class Workers:
    """A pool of processes. `load` (a module-level function) makes what plays a shard, once in each process."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def play(self, jobs: Sequence[Job], description: str = "") -> list[list[Episode]]:
        """The episodes of each job, in the order of its pairs; without a description no progress bar is shown."""
        shards = [(index, shard) for index, job in enumerate(jobs) for shard in job.shards()]
        found: dict[tuple[int, int], list[Episode]] = {}
        with self._progress(sum(len(s.pairs) for _, s in shards), description) as bar:
            futures: dict[Future[list[Episode]], tuple[int, int]] = {}
            for number, (index, shard) in enumerate(shards):
                futures[self._pool.submit(_play, shard)] = (index, number)
            for future in as_completed(futures):
                episodes = future.result()
                found[futures[future]] = episodes
                bar.update(len(episodes))
        results: list[list[Episode]] = [[] for _ in jobs]
        for index, number in sorted(found):
            results[index] += found[index, number]
        return results

    def record(self, job: Job, path: Path, description: str) -> list[Episode]:
        """Play a job into the traces file `path`; what stands there already is not played again."""
        shards = job.shards()
        done = list(read_traces(path)) if path.exists() else []
        whole = len(done) // SHARD * SHARD if len(done) < sum(len(s.pairs) for s in shards) else len(done)
        if whole != len(done):
            write_traces(path, done[:whole])
        episodes = done[:whole]
        missing = shards[-(-whole // SHARD) :]
        if not missing:
            return episodes
        with TraceWriter(path, batch=SHARD) as writer, self._progress(sum(len(s.pairs) for s in shards), description) as bar:
            bar.update(whole)
            for played in self._pool.map(_play, missing):
                for episode in played:
                    writer.write(episode)
                writer.flush()
                episodes += played
                bar.update(len(played))
        return episodes

    @contextmanager
    def _progress(self, total: int, description: str) -> Iterator[Any]:
        with tqdm(total=total, desc=description, unit="episode", disable=not description) as bar:
            yield bar


@contextmanager
def workers(load: Callable[[Hosting], Play], hosting: Hosting, count: int | None = None) -> Iterator[Workers]:
    """Start `count` processes (all cores by default). Ctrl-C stops them at once: what is on disk stays, the rest is played
    again.
    """
    pool = ProcessPoolExecutor(
        count or os.cpu_count() or 1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(load, hosting),
    )
    try:
        yield Workers(pool)
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


_player: list[Play] = []


def _start(load: Callable[[Hosting], Play], hosting: Hosting) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    _player.append(load(hosting))


def _play(shard: Shard) -> list[Episode]:
    return _player[0](shard)
