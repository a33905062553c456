"""A session's state as it lies in a store: each episode as bytes of its own, so that only those in question are read.

Many agents may begin with one opening, and a request finds its place among a hundred episodes by searching bytes for digests.
It knows how states are written and bounded, nothing of which episode a history belongs to.
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
    """As written. `waiting` has a byte for each episode: whether its newest request has no answer."""

    scope: str
    session: str
    begun: int
    restored: bool
    waiting: bytes
    episodes: list[bytes]


_ENCODER: Final = msgspec.msgpack.Encoder()
_STORED: Final = msgspec.msgpack.Decoder(_Stored)
_EPISODE: Final = msgspec.msgpack.Decoder(EpisodeState)


class SessionState:
    """The episodes of a session in the order of their newest requests. `begun` counts them, the forgotten ones too.

    `restored` says that the records were asked for what they know of it. An episode that was changed must be `put` back.
    """

    __slots__ = ("_episodes", "_waiting", "begun", "restored", "scope", "session")

    def __init__(self, scope: str, session: str) -> None:
        self.scope, self.session = scope, session
        self.begun, self.restored = 0, False
        self._episodes: list[bytes] = []
        self._waiting = bytearray()

    @classmethod
    def decode(cls, data: bytes) -> SessionState:
        """Read what `encode` wrote."""
        stored = _STORED.decode(data)
        state = cls(stored.scope, stored.session)
        state.begun, state.restored = stored.begun, stored.restored
        state._episodes, state._waiting = stored.episodes, bytearray(stored.waiting)
        return state

    def encode(self, limit: int) -> bytes:
        """As stored, in at most `limit` bytes: over that, the oldest episodes go first, then the newest one's oldest parts."""
        self._drop(len(self._episodes) - EPISODES)
        data = self._encoded()
        if len(data) <= limit:
            return data
        excess = len(data) - int(limit * _PRUNED)
        oldest = 0
        while excess > 0 and oldest < len(self._episodes) - 1:
            excess -= len(self._episodes[oldest])
            oldest += 1
        self._drop(oldest)
        if excess > 0:
            newest = _EPISODE.decode(self._episodes[-1])
            _shorten(newest, excess)
            self.put(newest)
        return self._encoded()

    def __len__(self) -> int:
        """Episodes that are remembered."""
        return len(self._episodes)

    def episodes(self, *, waiting: bool = False, containing: bytes = b"") -> Iterator[EpisodeState]:
        """The newest first; all, or those whose newest request has no answer, or those that hold a digest somewhere."""
        for i in range(len(self._episodes) - 1, -1, -1):
            if (not waiting or self._waiting[i] == _WAITING) and containing in self._episodes[i]:
                yield _EPISODE.decode(self._episodes[i])

    def find(self, id_: str) -> EpisodeState | None:
        """The episode with this id."""
        at = self._index(id_)
        return None if at is None else _EPISODE.decode(self._episodes[at])

    def put(self, episode: EpisodeState, *, newest: bool = False) -> None:
        """Write an episode where it stands, or as the newest; one that is not known is the newest."""
        data, waiting = _ENCODER.encode(episode), _WAITING if episode.waiting else _IDLE
        at = self._index(episode.id)
        if at is not None and not newest:
            self._episodes[at], self._waiting[at] = data, waiting
            return
        if at is not None:
            del self._episodes[at], self._waiting[at]
        self._episodes.append(data)
        self._waiting.append(waiting)

    def adopt(self, found: RestoredSession | None) -> None:
        """Put what the records know before what is known already."""
        self.restored = True
        if found is None:
            return
        older = [episode for episode in found.episodes if self._index(episode.id) is None]
        self._episodes = [*map(_ENCODER.encode, older), *self._episodes]
        self._waiting = bytearray(_WAITING if episode.waiting else _IDLE for episode in older) + self._waiting
        self.begun = max(self.begun, found.begun, len(self._episodes))

    def _index(self, id_: str) -> int | None:
        # An id is the first thing in its episode's bytes, after one byte that says how many fields there are.
        name = _ENCODER.encode(id_)
        for i in range(len(self._episodes) - 1, -1, -1):
            if self._episodes[i].startswith(name, 1):
                return i
        return None

    def _drop(self, oldest: int) -> None:
        if oldest > 0:
            del self._episodes[:oldest], self._waiting[:oldest]

    def _encoded(self) -> bytes:
        return _ENCODER.encode(
            _Stored(self.scope, self.session, self.begun, self.restored, bytes(self._waiting), self._episodes)
        )


def _shorten(episode: EpisodeState, excess: int) -> None:
    """Drop `excess` bytes of one episode: the oldest texts but the opening's, then the opening's, then the oldest steps."""
    for answered in (*episode.steps[1:], *episode.steps[:1]):
        if excess <= 0:
            return
        texts = (answered.message or "", answered.action or "")
        excess -= sum(len(text.encode("utf-8", "replace")) for text in texts)
        answered.message = answered.action = None
    while excess > 0 and episode.steps:
        excess -= len(_ENCODER.encode(episode.steps.pop(0)))
