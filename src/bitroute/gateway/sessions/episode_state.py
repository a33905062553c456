"""What is remembered of a session: its episodes, each with the messages that it grew along. Digests, not texts.

A history is named by a chain of digests, so a request that repeats the messages of an earlier one, and the answer to it,
continues that episode; what shares only a part of them branches off. It knows nothing of stores, clocks or bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final
from zlib import crc32

import msgspec

from bitroute.episode import Signals
from bitroute.gateway.core.values import RoutingDecision, Turn

EPISODES: Final = 128  # at most remembered under one id or hint

ROOT: Final = b""  # the chain of no messages

Sums = tuple[float, float, float, float]


def extend(chain: bytes, digest: bytes) -> bytes:
    """The chain of a history with one message more, 16 bytes."""
    return blake2b(chain + digest, digest_size=16).digest()


def chain(turns: Iterable[Turn]) -> bytes:
    """The chain of a whole history: equal exactly when all messages are, in their order."""
    digest = ROOT
    for turn in turns:
        digest = extend(digest, turn.digest)
    return digest


def read_turns(turns: Sequence[Turn]) -> int:
    """Length of the history that a step answers: assistant messages at its end are the beginning of the answer (a prefill)."""
    n = len(turns)
    while n and turns[n - 1].role == "assistant":
        n -= 1
    return n


def episode_seed(scope: str, session: str, number: int) -> int:
    """The seed of the `number`-th episode (from 0) of an explicit session: the same one after a restart."""
    return crc32(f"{scope}\0{session}\0{number}".encode("utf-8", "surrogatepass")) & 0x7FFFFFFF


class AnsweredStep(msgspec.Struct, array_like=True):
    """An answered step of an episode.

    `request` is the chain of the request's history, of `turns` messages; `answer` the chain that follows when the history
    repeats our answer. `signals` holds what routers read of a past step's signals: the sums of its log-probabilities, of the
    constrained ones and of its entropies, and its least margin. `echoed` says whether the client, when it went on, repeated
    the answer as it was given. `message` and `action` are texts, kept only for agents that send one fresh message a step.
    """

    step: int
    turns: int
    request: bytes
    answer: bytes
    variant: str
    signals: Sums | None = None
    echoed: bool | None = None
    message: str | None = None
    action: str | None = None


class PendingRequest(msgspec.Struct, array_like=True):
    """The newest request of an episode, for its retries: `body` is the digest of its body, `flights` how many are under way.

    `routing` is msgpack of a `RoutingDecision`, empty until one is known: it is read only when there is a retry.
    """

    body: bytes
    request: bytes
    step: int
    turns: int
    flights: int = 1
    answered: bool = False
    routing: bytes = b""

    @property
    def decided(self) -> RoutingDecision | None:
        """The routing, if it is known."""
        return msgspec.msgpack.decode(self.routing, type=RoutingDecision) if self.routing else None


class EpisodeState(msgspec.Struct, array_like=True):
    """One episode. `steps` are the answered ones in order; a branch's begin with those that it shares with its parent.

    `stepped` says that it grows by one fresh message a step (None: not known, it has had one step only); `system` is then the
    chain of the system messages that it began with. `closed`: its outcome was reported, nothing continues it.
    """

    id: str
    seed: int
    parent: tuple[str, int] | None = None
    steps: list[AnsweredStep] = []
    pending: PendingRequest | None = None
    stepped: bool | None = False
    system: bytes = ROOT
    closed: bool = False

    @property
    def waiting(self) -> bool:
        """Whether its newest request has no answer, be it under way or failed."""
        return self.pending is not None and not self.pending.answered

    @property
    def free(self) -> bool:
        """Whether its next step may be taken: no request of it is under way."""
        return self.pending is None or self.pending.answered or self.pending.flights <= 0

    def put(self, answered: AnsweredStep) -> None:
        """Add an answered step; the newer answer of a step replaces the older one."""
        at = len(self.steps)
        while at and self.steps[at - 1].step > answered.step:
            at -= 1
        if at and self.steps[at - 1].step == answered.step:
            self.steps[at - 1] = answered
        else:
            self.steps.insert(at, answered)


class RestoredSession(msgspec.Struct):
    """What the records know of a session: `episodes` in the order of their newest requests; `begun` counts all its episodes."""

    episodes: list[EpisodeState] = []
    begun: int = 0
    scope: str = ""
    session: str = ""


def answered_step(
    step: int,
    turns: int,
    request: bytes,
    answer: bytes,
    variant: str,
    signals: Signals | None = None,
    *,
    message: str | None = None,
    action: str | None = None,
) -> AnsweredStep:
    """An answered step: `request` is its chain over `turns` messages, `answer` the digest of the answer alone."""
    sums = None
    if signals is not None:
        sums = (
            sum(signals.logprobs, 0.0),
            sum(signals.constrained, 0.0),
            sum(signals.entropy, 0.0),
            min(signals.margin, default=1.0),
        )
    return AnsweredStep(step, turns, request, extend(request, answer), variant, sums, None, message, action)


def signals_of(answered: AnsweredStep) -> Signals | None:
    """A past step's signals as routers read them: one entry that stands for all choices."""
    if answered.signals is None:
        return None
    logprobs, constrained, entropy, margin = answered.signals
    return Signals((logprobs,), (constrained,), (entropy,), (margin,))
