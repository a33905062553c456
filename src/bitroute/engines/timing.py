"""Times calls of an engine's variants, one context at a time: what a profile of costs is fitted from. Token ids alone.

Each call is made at a planned place: so many tokens in the cache, so many to read anew, so many passes of decoding. Of several
times the shortest counts: what else the machine does only adds to one.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from bitroute.cost import TimedCall
from bitroute.engines.constraint import Trie
from bitroute.engines.engine import Engine, Sampling

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """Tokens that the cache holds, tokens that are read anew, and passes after these, each of which decodes a token."""

    cached: int
    prefill: int
    decode: int


CONTEXTS: Final = (0, 256, 768)
# A step of an episode, and a catch-up after steps at another variant; short actions and long ones.
PLAN: Final = tuple(
    PlannedCall(cached, prefill, decode)
    for cached, (prefill, decode) in product(CONTEXTS, ((1, 0), (32, 0), (128, 0), (48, 6), (1, 12)))
)
REPEATS: Final = 3


def time_calls(
    call: Callable[[PlannedCall], TimedCall], plan: Sequence[PlannedCall] = PLAN, repeats: int = REPEATS
) -> Iterator[TimedCall]:
    """Each planned call after one that does not count, at its shortest time of `repeats`."""
    call(plan[0])
    for planned in plan:
        timed = [call(planned) for _ in range(repeats)]
        yield TimedCall(timed[0].usage, min(one.seconds for one in timed))


def time_engine(
    engine: Engine[Any], plan: Sequence[PlannedCall] = PLAN, repeats: int = REPEATS, clock: Clock = time.process_time
) -> Iterator[TimedCall]:
    """Time every variant of an engine; what a model's positions cannot hold is left out.

    By default in seconds of this process's processor time, which other work on the machine does not lengthen. Where products
    are computed elsewhere, give a clock of the wall.
    """
    fitting = [p for p in plan if p.cached + p.prefill + p.decode + 2 <= engine.max_length]
    for variant in engine.ladder:
        caller = _EngineCaller(engine, variant, clock)
        yield from time_calls(caller, fitting, repeats)
        caller.close()


class _EngineCaller:
    """Makes planned calls of one variant; the context of the last call is shortened and used again."""

    def __init__(self, engine: Engine[Any], variant: str, clock: Clock) -> None:
        self.engine, self.variant, self.clock = engine, variant, clock
        self.random = random.Random(0)
        self.context = engine.open()
        engine.extend(self.context, [1])
        self.words = engine.score([self.context], [[1]], variant)[0].shape[1]

    def __call__(self, planned: PlannedCall) -> TimedCall:
        engine, context = self.engine, self.context
        engine.rollback(context, min(planned.cached, engine.length(context)))
        if (lacking := planned.cached - engine.length(context)) > 0:
            engine.extend(context, self._tokens(lacking))
            engine.score([context], [[1]], self.variant)  # reads them into the cache
        engine.extend(context, self._tokens(planned.prefill))
        start = self.clock()
        sampling = Sampling(max_tokens=planned.decode + 1)
        (generation,) = engine.generate([context], [self.variant], [self._choices(planned.decode + 1)], sampling)
        return TimedCall(generation.usage, self.clock() - start)

    def close(self) -> None:
        """Give the context back."""
        self.engine.close(self.context)

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(self.words) for _ in range(count)]

    def _choices(self, count: int) -> Trie:
        return Choices((self.words - 2, self.words - 1), count)


class Choices(Trie):
    """`count` choices between the same tokens, one after the other: an action that takes as many passes."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: tuple[int, ...], count: int) -> None:
        super().__init__((tokens,), count)
        self._tokens = tokens

    @property
    def children(self) -> dict[int, Trie]:
        """The same tokens again, or none after the last choice."""
        return {token: Choices(self._tokens, self._depth - 1) for token in self._tokens} if self._depth else {}
