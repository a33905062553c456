"""Where sessions' states are kept: bytes by key, bounded and for a while. It knows nothing of what the bytes mean."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from cachetools import TTLCache

T = TypeVar("T")


class StoreError(Exception):
    """The store cannot be reached; says why, without secrets."""


class SessionStore(Protocol):
    """A place for states. A state that was not updated for the store's time to live is forgotten.

    Both methods raise StoreError when the store is away.
    """

    async def read(self, key: str) -> bytes | None:
        """The state at `key`."""
        ...

    async def update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        """Replace the state at `key` by what `change` makes of it, as one step, and return the other thing that it returned.

        `change` gets None where there is no state, and returns None to leave things as they are. It may be called again when
        somebody else was faster: it must be quick and without effects. What it raises goes through, and nothing is changed.
        """
        ...


class MemoryStore:
    """At most `max_sessions` states in this process, the least recently used go first; `ttl` and `clock` in seconds.

    States are kept as bytes: their size is what it says, and a hundred thousand of them are nothing to the garbage collector.
    """

    def __init__(self, max_sessions: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._states: TTLCache[str, bytes] = TTLCache(max_sessions, ttl, timer=clock)

    def __len__(self) -> int:
        """States that are kept."""
        return len(self._states)

    async def read(self, key: str) -> bytes | None:
        """As SessionStore."""
        return self._state(key)

    async def update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        """As SessionStore: nothing else runs in between, since nothing here waits."""
        state, result = change(self._state(key))
        if state is not None:
            self._states[key] = state
        return result

    def _state(self, key: str) -> bytes | None:
        try:
            return self._states[key]  # `get` looks it up twice
        except KeyError:
            return None
