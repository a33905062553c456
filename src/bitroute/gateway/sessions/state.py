"""A session's state as it lies in a store: each episode's lineage as bytes of its own, so that only those in question are read.

Many agents may begin with one opening, and a request finds its place among a hundred lineages by searching bytes for digests.
It knows how states are written and bounded, nothing of which lineage a history belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from bitroute.gateway.sessions.episode_state import EPISODES, EpisodeState, RestoredSession

LIMIT: Final = 64 * 1024  # bytes of a session's state as it is stored
SHARED_LIMIT: Final = 4 * LIMIT  # of what is stored under a hint, which stands for many sessions
_PRUNED: Final = 7 / 8  # of the limit are left after pruning, so that the next step does not prune again
_IDLE, _WAITING = 0, 1


class _Stored(msgspec.Struct, array_like=True):
    """As written. `waiting` has a byte for each lineage: whether its newest request has no answer."""

    scope: str
    session: str
    begun: int
    restored: bool
    waiting: bytes
    lineages: list[bytes]


_ENCODER: Final = msgspec.msgpack.Encoder()
_STORED: Final = msgspec.msgpack.Decoder(_Stored)
_LINEAGE: Final = msgspec.msgpack.Decoder(EpisodeState)


class State:
    """The lineages of a session in the order of their newest requests. `begun` counts its episodes, the forgotten ones too.

    `restored` says that the records were asked for what they know of it. A lineage that was changed must be `put` back.
    """

    __slots__ = ("_lineages", "_waiting", "begun", "restored", "scope", "session")

    def __init__(self, scope: str, session: str) -> None:
        self.scope, self.session = scope, session
        self.begun, self.restored = 0, False
        self._lineages: list[bytes] = []
        self._waiting = bytearray()

    @classmethod
    def decode(cls, data: bytes) -> State:
        """Read what `encode` wrote."""
        stored = _STORED.decode(data)
        state = cls(stored.scope, stored.session)
        state.begun, state.restored = stored.begun, stored.restored
        state._lineages, state._waiting = stored.lineages, bytearray(stored.waiting)
        return state

    def encode(self, limit: int) -> bytes:
        """As stored, in at most `limit` bytes: over that, the oldest episodes go first, then the newest one's oldest parts."""
        self._drop(len(self._lineages) - EPISODES)
        data = self._encoded()
        if len(data) <= limit:
            return data
        excess = len(data) - int(limit * _PRUNED)
        oldest = 0
        while excess > 0 and oldest < len(self._lineages) - 1:
            excess -= len(self._lineages[oldest])
            oldest += 1
        self._drop(oldest)
        if excess > 0:
            newest = _LINEAGE.decode(self._lineages[-1])
            _shorten(newest, excess)
            self.put(newest)
        return self._encoded()

    def __len__(self) -> int:
        """Lineages that are remembered."""
        return len(self._lineages)

    def lineages(self, *, waiting: bool = False, containing: bytes = b"") -> Iterator[EpisodeState]:
        """The newest first; all, or those whose newest request has no answer, or those that hold a digest somewhere."""
        for i in range(len(self._lineages) - 1, -1, -1):
            if (not waiting or self._waiting[i] == _WAITING) and containing in self._lineages[i]:
                yield _LINEAGE.decode(self._lineages[i])

    def find(self, episode: str) -> EpisodeState | None:
        """The lineage of an episode."""
        at = self._index(episode)
        return None if at is None else _LINEAGE.decode(self._lineages[at])

    def put(self, lineage: EpisodeState, *, newest: bool = False) -> None:
        """Write a lineage where it stands, or as the newest; one that is not known is the newest."""
        data, waiting = _ENCODER.encode(lineage), _WAITING if lineage.waiting else _IDLE
        at = self._index(lineage.id)
        if at is not None and not newest:
            self._lineages[at], self._waiting[at] = data, waiting
            return
        if at is not None:
            del self._lineages[at], self._waiting[at]
        self._lineages.append(data)
        self._waiting.append(waiting)

    def adopt(self, found: RestoredSession | None) -> None:
        """Put what the records know before what is known already."""
        self.restored = True
        if found is None:
            return
        older = [lineage for lineage in found.lineages if self._index(lineage.id) is None]
        self._lineages = [*map(_ENCODER.encode, older), *self._lineages]
        self._waiting = bytearray(_WAITING if lineage.waiting else _IDLE for lineage in older) + self._waiting
        self.begun = max(self.begun, found.begun, len(self._lineages))

    def _index(self, episode: str) -> int | None:
        # An id is the first thing in its lineage, after one byte that says how many fields there are.
        name = _ENCODER.encode(episode)
        for i in range(len(self._lineages) - 1, -1, -1):
            if self._lineages[i].startswith(name, 1):
                return i
        return None

    def _drop(self, oldest: int) -> None:
        if oldest > 0:
            del self._lineages[:oldest], self._waiting[:oldest]

    def _encoded(self) -> bytes:
        return _ENCODER.encode(
            _Stored(self.scope, self.session, self.begun, self.restored, bytes(self._waiting), self._lineages)
        )


def _shorten(lineage: EpisodeState, excess: int) -> None:
    """Drop `excess` bytes of one episode: the oldest texts but the opening's, then the opening's, then the oldest steps."""
    for mark in (*lineage.marks[1:], *lineage.marks[:1]):
        if excess <= 0:
            return
        excess -= len((mark.message or "").encode("utf-8", "replace")) + len((mark.action or "").encode("utf-8", "replace"))
        mark.message = mark.action = None
    while excess > 0 and lineage.marks:
        excess -= len(_ENCODER.encode(lineage.marks.pop(0)))
