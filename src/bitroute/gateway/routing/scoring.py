"""Decisions of slow routers, in one thread beside the event loop that takes what waits as one batch; and what they remember.

It knows routers and views, not what decisions are for. Torch is whatever the router brings: nothing here imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Generic, Protocol, TypeVar

from cachetools import LRUCache

from bitroute.episode import Decision, View
from bitroute.routers.router import Router

BATCH: Final = 32  # views read at once: more would make the first of them wait
WAITING: Final = 1024  # jobs in the queue; a further one is late before it began
FAREWELL: Final = 5.0  # seconds that `close` waits for a batch


class Sized(Protocol):
    """Something that knows about how many bytes it takes."""

    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=Sized)


class Memory(Generic[S]):
    """What is remembered by episode: beyond `capacity` bytes the least recently used goes, and is computed again when asked
    for. What is larger than that by itself is not kept.

    An entry is taken out to be worked on and put back afterwards, so what is at work is neither counted nor forgotten.
    """

    def __init__(self, capacity: int) -> None:
        self._entries: LRUCache[Hashable, S] = LRUCache(capacity, getsizeof=lambda value: value.nbytes)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used(self) -> int:
        """Bytes of what is kept."""
        return int(self._entries.currsize)

    def take(self, key: Hashable) -> S | None:
        """Remove and return the entry, None when there is none."""
        return self._entries.pop(key, None)

    def put(self, key: Hashable, value: S) -> None:
        """Keep `value` as the most recently used."""
        self.take(key)
        with contextlib.suppress(ValueError):  # it is too large
            self._entries[key] = value


@dataclass(slots=True, eq=False)
class _Job:
    router: Router
    key: tuple[str, str]
    parent: tuple[str, str] | None
    seed: int
    view: View
    future: asyncio.Future[Decision]


class ScoringThread:
    """Decides views of slow routers. The event loop that first asks it is the one that it answers in."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: bytes of the routers' memory over all episodes and versions."""
        self.memory: Memory[Sized] = Memory(capacity)  # touched by the thread alone
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def decide(
        self, router: Router, version: str, episode: str, seed: int, view: View, parent: str | None = None
    ) -> Decision:
        """The router's decision. What it read of the episode serves the next step, and of its `parent` the first one.

        Raises what the router raises, TimeoutError when too many are waiting already. A caller that stops waiting before its
        turn is skipped.
        """
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="bitroute-router", daemon=True)
            self._thread.start()
        if self._queue.qsize() >= WAITING:
            raise TimeoutError
        assert self._loop is not None
        future: asyncio.Future[Decision] = self._loop.create_future()
        above = (version, parent) if parent is not None else None
        self._queue.put(_Job(router, (version, episode), above, seed, view, future))
        return await future

    async def close(self) -> None:
        """End the thread, after the batch at hand. One that does not come back from a network is left behind."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join, FAREWELL)
            self._thread = None

    def _run(self) -> None:
        waiting: list[_Job] = []
        while True:
            if not waiting or not self._queue.empty():
                job = self._queue.get()
                if job is None:
                    return
                waiting.append(job)
                continue
            batch, waiting = _pick(waiting)
            if batch:
                self._post(self._decide(batch))

    def _decide(self, batch: list[_Job]) -> list[tuple[asyncio.Future[Decision], Decision | Exception]]:
        """Decisions or what went wrong, each job for itself: one view that cannot be read does not fail the others."""
        router = batch[0].router
        states = [self._state(job) for job in batch]
        try:
            decisions = router.decide([job.view for job in batch], states)
        except Exception as error:  # whatever a router's network raises: the states may be half written, and go
            if len(batch) > 1:
                return [result for job in batch for result in self._decide([job])]
            return [(batch[0].future, error)]
        for job, state in zip(batch, states, strict=True):
            self.memory.put(job.key, state)
        return [(job.future, decision) for job, decision in zip(batch, decisions, strict=True)]

    def _state(self, job: _Job) -> Any:
        state = self.memory.take(job.key)
        if state is not None:
            return state
        parent = self.memory.take(job.parent) if job.parent is not None else None
        if parent is None or job.parent is None:
            return job.router.begin(job.seed)
        self.memory.put(job.parent, parent)
        return job.router.branch(parent, job.seed)

    def _post(self, results: list[tuple[asyncio.Future[Decision], Decision | Exception]]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, results)


def _pick(waiting: list[_Job]) -> tuple[list[_Job], list[_Job]]:
    """The next batch, of one router and with no episode twice, and what waits on. Who has been given up is in neither."""
    batch: dict[tuple[str, str], _Job] = {}
    rest = []
    for job in waiting:
        if job.future.cancelled():
            continue
        first = next(iter(batch.values()), job)
        if len(batch) < BATCH and job.router is first.router and job.key not in batch:
            batch[job.key] = job
        else:
            rest.append(job)
    return list(batch.values()), rest


def _settle(results: list[tuple[asyncio.Future[Decision], Decision | Exception]]) -> None:
    for future, value in results:
        if future.done():  # its caller went away
            continue
        if isinstance(value, Exception):
            future.set_exception(value)
        else:
            future.set_result(value)
