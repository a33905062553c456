"""Where sessions' states are kept: bytes by key, bounded and for a while. It knows nothing of what the bytes mean."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeVar

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
    """At most `max_sessions` states in this process, the ones updated longest ago go first; `ttl` and `clock` in seconds.

    States are kept as bytes: their size is what it says, and a hundred thousand of them are nothing to the garbage collector.
    """

    def __init__(self, max_sessions: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.max, self.ttl, self._clock = max_sessions, ttl, clock
        self._states: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def __len__(self) -> int:
        """States that are kept."""
        return len(self._states)

    async def read(self, key: str) -> bytes | None:
        """As SessionStore."""
        self._expire(self._clock())
        found = self._states.get(key)
        return found[0] if found else None

    async def update(self, key: str, change: Callable[[bytes | None], tuple[bytes | None, T]]) -> T:
        """As SessionStore: nothing else runs in between, since nothing here waits."""
        now = self._clock()
        self._expire(now)
        found = self._states.get(key)
        state, result = change(found[0] if found else None)
        if state is not None:
            self._states[key] = (state, now + self.ttl)
            self._states.move_to_end(key)
            if len(self._states) > self.max:
                self._states.popitem(last=False)
        return result

    def _expire(self, now: float) -> None:
        # One time to live for all: the order of updates is the order of expiry.
        while self._states:
            key, (_, until) = next(iter(self._states.items()))
            if until > now:
                return
            del self._states[key]
