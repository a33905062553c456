"""The routers' thread: batches, what it remembers and for how long, failures that stay with whom they belong to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bitroute.episode import Decision, View
from bitroute.gateway.routing import scoring
from bitroute.gateway.routing.scoring import Memory, ScoringThread
from bitroute.routers.router import Router
from bitroute.routers.threshold import Scored, ThresholdRouter
from support.routing import make_encoder


@dataclass
class Chunk:
    nbytes: int
    seen: list[str] = field(default_factory=list)


class Slow(ThresholdRouter):
    """Scores a view by its newest message, a number; waits at the gate; remembers the messages it scored."""

    def __init__(self, size: int = 1) -> None:
        super().__init__(("low", "high"))
        self.size, self.gate, self.begun = size, threading.Event(), threading.Semaphore(0)
        self.batches: list[list[str]] = []
        self.states: list[Scored] = []

    def remember(self) -> Chunk:
        return Chunk(self.size)

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        self.begun.release()
        assert self.gate.wait(30)
        self.batches.append([view.messages[-1] for view in views])
        self.states = list(states)
        for view, state in zip(views, states, strict=True):
            state.memory.seen.append(view.messages[-1])
        return [float(view.messages[-1]) for view in views]


async def score(thread: ScoringThread, router: Router, *rest: Any) -> float | None:
    """The score of a decision in the thread."""
    return (await thread.decide(router, *rest)).score


def ask(thread: ScoringThread, router: Router, text: str, episode: str, version: str = "v1") -> asyncio.Task[float | None]:
    return asyncio.ensure_future(score(thread, router, version, episode, 0, View((text,))))


def run(test: Callable[[ScoringThread], Awaitable[None]], capacity: int = 1000) -> None:
    async def main() -> None:
        thread = ScoringThread(capacity)
        try:
            await test(thread)
        finally:
            await thread.close()

    asyncio.run(main())


async def begun(router: Slow) -> None:
    assert await asyncio.to_thread(router.begun.acquire, timeout=30)


def test_memory_forgets_the_least_recently_used_beyond_its_bytes() -> None:
    memory: Memory[Chunk] = Memory(10)
    for key in "abc":
        memory.put(key, Chunk(4))
    assert (len(memory), memory.used, memory.take("a")) == (2, 8, None)
    taken = memory.take("b")
    assert taken is not None and memory.used == 4
    memory.put("b", taken)
    memory.put("d", Chunk(4))  # now c is older than b
    assert memory.take("c") is None and memory.take("b") is taken
    memory.put("d", Chunk(10))
    assert (len(memory), memory.used) == (1, 10)
    memory.put("e", Chunk(11))
    assert memory.take("e") is None and (len(memory), memory.used) == (1, 10)


def test_what_waits_is_read_as_one_batch() -> None:
    async def test(thread: ScoringThread) -> None:
        router = Slow()
        first = ask(thread, router, "1", "a")
        await begun(router)
        rest = [ask(thread, router, str(i), f"e{i}") for i in range(2, 6)]
        await asyncio.sleep(0)
        router.gate.set()
        assert await asyncio.gather(first, *rest) == [1, 2, 3, 4, 5]
        assert router.batches == [["1"], ["2", "3", "4", "5"]]

    run(test)


def test_one_episode_is_not_twice_in_a_batch_and_keeps_its_memory() -> None:
    async def test(thread: ScoringThread) -> None:
        router = Slow()
        first = ask(thread, router, "1", "a")
        await begun(router)
        rest = [ask(thread, router, text, episode) for text, episode in (("2", "b"), ("3", "b"), ("4", "a"))]
        await asyncio.sleep(0)
        router.gate.set()
        await asyncio.gather(first, *rest)
        assert router.batches == [["1"], ["2", "4"], ["3"]]
        assert router.states[0].memory.seen == ["2", "3"]
        assert await ask(thread, router, "5", "a") == 5 and router.states[0].memory.seen == ["1", "4", "5"]
        assert await ask(thread, router, "6", "a", version="v2") == 6 and router.states[0].memory.seen == ["6"]

    run(test)


def test_what_was_forgotten_begins_anew() -> None:
    async def test(thread: ScoringThread) -> None:
        router = Slow(size=6)
        router.gate.set()
        for text, episode in (("1", "a"), ("2", "b"), ("3", "a")):
            await ask(thread, router, text, episode)
        assert router.states[0].memory.seen == ["3"] and thread.memory.used == 6

    run(test, capacity=10)


def test_a_view_that_fails_fails_alone_and_is_forgotten() -> None:
    async def test(thread: ScoringThread) -> None:
        router = Slow()
        first = ask(thread, router, "1", "a")
        await begun(router)
        rest = [ask(thread, router, text, text) for text in ("2", "no number", "3")]
        await asyncio.sleep(0)
        router.gate.set()
        results = await asyncio.gather(first, *rest, return_exceptions=True)
        assert results[:2] == [1, 2] and results[3] == 3 and isinstance(results[2], ValueError)
        assert len(thread.memory) == 3
        assert await ask(thread, router, "4", "no number") == 4 and router.states[0].memory.seen == ["4"]

    run(test)


def test_who_gives_up_before_its_turn_is_skipped() -> None:
    async def test(thread: ScoringThread) -> None:
        router = Slow()
        first = ask(thread, router, "1", "a")
        await begun(router)
        late, kept = ask(thread, router, "2", "b"), ask(thread, router, "3", "c")
        await asyncio.sleep(0)
        late.cancel()
        first.cancel()  # its turn has come: what it reads serves the next step
        await asyncio.sleep(0)
        router.gate.set()
        assert await kept == 3 and router.batches == [["1"], ["3"]]
        await ask(thread, router, "4", "a")
        assert router.states[0].memory.seen == ["1", "4"]

    run(test)


def test_too_many_that_wait_are_late_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WAITING", 2)

    async def test(thread: ScoringThread) -> None:
        router = Slow()
        first = ask(thread, router, "1", "a")
        await begun(router)
        rest = [ask(thread, router, str(i), f"e{i}") for i in range(3)]
        await asyncio.sleep(0)
        assert isinstance(rest[-1].exception(), TimeoutError)
        router.gate.set()
        await asyncio.gather(first, *rest[:-1])

    run(test)


def test_a_branch_begins_with_what_its_parent_read(monkeypatch: pytest.MonkeyPatch) -> None:
    router = make_encoder(("low", "high"))
    read: list[int] = []
    forward = router.network.backbone.forward
    counting = lambda tokens, *rest: (read.append(len(tokens)), forward(tokens, *rest))[1]  # noqa: E731
    monkeypatch.setattr(router.network.backbone, "forward", counting)
    stem = View(("You see a desk 1.", "You see a pen 2."), ("go to desk 1",), ("low",), (None,))
    twig = View((*stem.messages, "You see a cup 3."), ("go to desk 1", "take pen 2"), ("low", "high"), (None, None))
    other = View((*stem.messages, "Nothing happens."), ("go to desk 1", "take cup 2"), ("low", "low"), (None, None))
    fresh = [router.scores([view], [router.begin(0)])[0] for view in (stem, twig, other)]
    whole = read.copy()
    read.clear()

    async def test(thread: ScoringThread) -> None:
        scores = [
            await score(thread, router, "v", "parent", 0, stem),
            await score(thread, router, "v", "child", 1, twig, "parent"),
            await score(thread, router, "v", "parent", 0, other),
            await score(thread, router, "v", "orphan", 2, twig, "unknown"),
        ]
        assert scores == pytest.approx([*fresh, fresh[1]], abs=1e-5)
        assert read == [whole[0], whole[1] - whole[0], whole[2] - whole[0], whole[1]]

    run(test, capacity=1 << 20)


def test_an_encoders_cache_is_counted_and_reading_on_equals_reading_anew() -> None:
    router = make_encoder(("low", "high"))
    messages, actions = tuple(f"You see a desk {i}." for i in range(6)), tuple(f"go to desk {i}" for i in range(5))
    views = [View(messages[: t + 1], actions[:t], ("low",) * t, (None,) * t) for t in range(6)]
    fresh = [router.scores([view], [router.begin(0)])[0] for view in views]

    async def test(thread: ScoringThread) -> None:
        for order in (range(6), (2, 5, 1)):
            for t in order:
                assert await score(thread, router, "v", "e", 0, views[t]) == pytest.approx(fresh[t], abs=1e-5)
        # 2 layers, keys and values, 1 head of 16, 4 bytes, 256 positions; and the texts
        assert 0 < thread.memory.used - 2 * 2 * 16 * 4 * 256 < 200

    run(test, capacity=1 << 20)


class Talker(Router):
    """Has no score to give: high where the newest message is long."""

    name = "talker"
    variants = ("low", "high")

    def begin(self, seed: int) -> Chunk:
        return Chunk(1)

    def decide(self, views: Sequence[View], states: Sequence[Chunk]) -> list[Decision]:
        for view, state in zip(views, states, strict=True):
            state.seen.append(view.messages[-1])
        return [Decision(self.variants[len(view.messages[-1]) > 3], reason="talker") for view in views]


def test_a_slow_router_need_not_score() -> None:
    async def test(thread: ScoringThread) -> None:
        decisions = [await thread.decide(Talker(), "v", "e", 0, View((text,))) for text in ("abc", "abcd")]
        assert decisions == [Decision("low", reason="talker"), Decision("high", reason="talker")]
        state = thread.memory.take(("v", "e"))
        assert isinstance(state, Chunk) and state.seen == ["abc", "abcd"]

    run(test)
