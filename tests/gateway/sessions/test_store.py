"""Stores: the same promises from the one in memory and the one in Redis; then what each has of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from bitroute.errors import ConfigError
from bitroute.gateway.sessions.redis_store import PREFIX, RedisStore
from bitroute.gateway.sessions.store import MemoryStore, SessionStore, StoreError

Make = Callable[[], SessionStore]


def _redis(server: fakeredis.FakeServer | None = None, ttl: float = 60) -> RedisStore:
    return RedisStore("redis://unused", ttl, client=fakeredis.FakeAsyncRedis(server=server or fakeredis.FakeServer()))


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    return (lambda: MemoryStore(10, 60)) if request.param == "memory" else _redis


def add(text: bytes) -> Callable[[bytes | None], tuple[bytes | None, int]]:
    """A change that appends `text` and tells how long the state was."""
    return lambda state: ((state or b"") + text, len(state or b""))


def test_states_are_changed_and_read(make: Make) -> None:
    async def main() -> None:
        store = make()
        assert await store.read("k") is None
        assert await store.update("k", add(b"one")) == 0
        assert await store.update("k", add(b"two")) == 3
        assert await store.read("k") == b"onetwo"
        assert await store.read("other") is None

    asyncio.run(main())


def test_a_change_to_nothing_leaves_things_as_they_are(make: Make) -> None:
    async def main() -> None:
        store = make()
        assert await store.update("k", lambda state: (None, state)) is None
        await store.update("k", add(b"one"))
        assert await store.update("k", lambda state: (None, state)) == b"one"
        assert await store.read("k") == b"one"

    asyncio.run(main())


def test_what_a_change_raises_goes_through(make: Make) -> None:
    def fail(state: bytes | None) -> tuple[bytes | None, None]:
        raise KeyError("mine")

    async def main() -> None:
        store = make()
        await store.update("k", add(b"one"))
        with pytest.raises(KeyError, match="mine"):
            await store.update("k", fail)
        assert await store.read("k") == b"one"

    asyncio.run(main())


def test_no_change_is_lost_among_many_at_once(make: Make) -> None:
    async def main() -> None:
        store = make()
        seen = await asyncio.gather(*(store.update("k", add(b"x")) for _ in range(40)))
        assert sorted(seen) == list(range(40))
        assert await store.read("k") == b"x" * 40

    asyncio.run(main())


def test_memory_is_bounded_the_longest_untouched_goes() -> None:
    async def main() -> None:
        store = MemoryStore(3, 60)
        for key in "abc":
            await store.update(key, add(b"1"))
        await store.update("a", add(b"2"))
        await store.update("d", add(b"1"))
        assert [await store.read(key) for key in "abcd"] == [b"12", None, b"1", b"1"]
        assert len(store) == 3

    asyncio.run(main())


def test_memory_forgets_what_was_not_touched() -> None:
    async def main() -> None:
        now = 0.0
        store = MemoryStore(10, 60, lambda: now)
        await store.update("a", add(b"1"))
        await store.update("b", add(b"1"))
        now = 59.0
        await store.update("a", add(b"2"))
        now = 60.0
        assert await store.read("b") is None
        assert len(store) == 1
        now = 118.9
        assert await store.read("a") == b"12"
        now = 119.0
        assert await store.update("a", add(b"3")) == 0

    asyncio.run(main())


def test_redis_shares_between_gateways_and_forgets() -> None:
    async def main() -> None:
        server = fakeredis.FakeServer()
        one, other = _redis(server), _redis(server)
        await one.update("k", add(b"one"))
        assert await other.update("k", add(b"two")) == 3
        client = fakeredis.FakeAsyncRedis(server=server)
        assert await client.get(PREFIX + "k") == b"onetwo"
        assert 59_000 < await client.pttl(PREFIX + "k") <= 60_000
        await client.pexpire(PREFIX + "k", 5_000)
        await one.update("k", add(b""))
        assert 59_000 < await client.pttl(PREFIX + "k") <= 60_000
        await asyncio.gather(one.close(), other.close(), client.aclose())

    asyncio.run(main())


def test_redis_starts_over_when_another_gateway_was_faster() -> None:
    async def main() -> None:
        server = fakeredis.FakeServer()
        store, rival = _redis(server), fakeredis.FakeRedis(server=server)
        seen: list[bytes | None] = []

        def change(state: bytes | None) -> tuple[bytes, None]:
            seen.append(state)
            if len(seen) < 3:
                rival.set(PREFIX + "k", b"rival %d" % len(seen))
            return (state or b"") + b", mine", None

        await store.update("k", change)
        assert seen == [None, b"rival 1", b"rival 2"]
        assert await store.read("k") == b"rival 2, mine"
        await store.close()

    asyncio.run(main())


def test_a_redis_that_is_away_is_a_store_error_without_secrets() -> None:
    async def main() -> None:
        server = fakeredis.FakeServer()
        store = _redis(server)
        server.connected = False
        for attempt in (store.read("k"), store.update("k", add(b"x"))):
            with pytest.raises(StoreError, match=r"^Redis: \w+$") as error:
                await attempt
            assert isinstance(error.value.__cause__, RedisConnectionError)
        server.connected = True
        assert await store.update("k", add(b"x")) == 0
        await store.close()

    asyncio.run(main())


def test_a_url_that_is_none_is_refused_without_telling_it() -> None:
    with pytest.raises(ConfigError, match=r"sessions\.url") as error:
        RedisStore("http://user:secret@host", 60)
    assert "secret" not in str(error.value)
