"""Sessions' states in Redis, so that several gateways share them. It needs the extra `redis` and knows nothing of what is kept.

Two gateways that change one state at once: Redis refuses the slower write (WATCH), and that one starts over from the new state.
Unlike a lock that expires, this leaves no session waiting for a gateway that died, nor two owners where one was slow. How many
states fit is the server's own setting (`maxmemory`, with a policy that evicts).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError

from bitroute.errors import ConfigError
from bitroute.gateway.sessions.store import StoreError

T = TypeVar("T")

PREFIX: Final = "bitroute:session:"
PATIENCE: Final = 1.0  # seconds for a connection, and for an answer
_PAUSE: Final = 0.02  # seconds at most between tries against other writers


class RedisStore:
    """States at `url`, each forgotten `ttl` seconds after its last update. `client` replaces the connection, for tests.

    Raises ConfigError for a URL that is none. Its methods raise StoreError when the server cannot be reached or refuses.
    """

    def __init__(self, url: str, ttl: float, *, client: Redis | None = None) -> None:
        try:
            self._client = client or Redis.from_url(
                url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=Retry(NoBackoff(), 1)
            )
        except ValueError as error:
            raise ConfigError("sessions.url: want redis://, rediss:// or unix:// and a valid address") from error
        self._milliseconds = max(1, round(ttl * 1000))

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()

    async def read(self, key: str) -> bytes | None:
        """As SessionStore."""
        try:
            return _state(await self._client.get(PREFIX + key))
        except (RedisError, OSError) as error:
            raise StoreError(f"Redis: {type(error).__name__}") from error

    async def update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        """As SessionStore."""
        name, pause = PREFIX + key, 0.001
        try:
            async with self._client.pipeline(transaction=True) as pipe:
                while True:
                    await pipe.watch(name)
                    state, result = change(_state(await pipe.get(name)))
                    if state is None:
                        return result
                    begin: Callable[[], None] = pipe.multi
                    begin()
                    pipe.set(name, state, px=self._milliseconds)
                    try:
                        await pipe.execute()
                    except WatchError:
                        # Whoever was faster has succeeded: somebody always does, and this one is due in its turn.
                        await asyncio.sleep(random.uniform(0, pause))
                        pause = min(2 * pause, _PAUSE)
                        continue
                    return result
        except (RedisError, OSError) as error:
            raise StoreError(f"Redis: {type(error).__name__}") from error


def _state(found: object) -> bytes | None:
    return found if isinstance(found, bytes) else None
