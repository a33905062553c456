"""Our engines keep the contract, and an engine that breaks a promise of it is told which."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitroute.engines.caching import CachingEngine
from bitroute.engines.conformance import Case, check_engine
from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Engine, Generation, Sampling
from bitroute.engines.torch import TorchContext, TorchEngine
from bitroute.errors import CapabilityError
from bitroute.nn.kv_cache import Cache
from support.engine import LADDER_OF_THREE, FakeEngine
from support.networks import network
from support.toy import ASSISTANT, COLOURS, COMMANDS, END, USER, WORDS

PROMPTS = [[4, 5, 6], [7, 8, 9, 10, 11, 12, 13], [14], [15, 16]]
COMPLETIONS = [[5, 6, 7, 3], [5, 6, 8, 3], [9, 3], [10, 11, 3]]
NETWORKS = {"low": network(1), "high": network(2)}
BOTH_MODES = pytest.mark.parametrize("mode", list(CacheMode))


def case(engine: Engine[Any]) -> Case:
    return Case(engine, PROMPTS, COMPLETIONS)


def torch_engine(kind: type[TorchEngine] = TorchEngine, mode: CacheMode = CacheMode.OWN) -> TorchEngine:
    return kind(NETWORKS, end_token=3, fingerprint="tiny", cache_mode=mode)


@BOTH_MODES
def test_the_torch_engine(mode: CacheMode) -> None:
    check_engine(case(torch_engine(mode=mode)))


def test_the_engine_that_remembers() -> None:
    engine = CachingEngine(torch_engine())
    check_engine(case(engine))
    assert engine.hits > 0


@BOTH_MODES
def test_the_engine_of_the_tests(mode: CacheMode) -> None:
    engine = FakeEngine(LADDER_OF_THREE, mode)
    screens = [("easy", "red"), ("hard", "blue"), ("brutal", "green")]
    prompts = [[USER, WORDS.index(level), WORDS.index(colour), ASSISTANT] for level, colour in screens]
    prompts[1] = [WORDS.index("goal"), WORDS.index("win"), *prompts[1]]
    completions = [[*(WORDS.index(word) for word in command.split()), END] for command in COMMANDS]
    check_engine(Case(engine, prompts, completions), sampled=False)
    assert (len(COLOURS), engine.alive) == (3, 0)


class WithoutLadder(TorchEngine):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ladder = ("low", "low")


class AnyVariant(TorchEngine):
    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        known = [variant if variant in self.ladder else "high" for variant in variants]
        return super().generate(contexts, known, constraints, sampling)


class WrongError(TorchEngine):
    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        try:
            return super().score(contexts, continuations, variant)
        except CapabilityError as error:
            raise KeyError(variant) from error


class OneTooLong(TorchEngine):
    def length(self, context: TorchContext) -> int:
        return len(context.tokens) + 1


class KeepsContinuations(TorchEngine):
    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        rows = super().score(contexts, continuations, variant)
        for context, tokens in zip(contexts, continuations, strict=True):
            context.tokens.extend(tokens[:-1])
        return rows


class Logits(TorchEngine):
    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        return [rows + np.float32(1.0) for rows in super().score(contexts, continuations, variant)]


class Late(TorchEngine):
    """Each row is the next one's."""

    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        return [np.roll(rows, -1, axis=0) for rows in super().score(contexts, continuations, variant)]


class Reversed(TorchEngine):
    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        return super().generate(contexts, variants, constraints, sampling)[::-1]


class Unlimited(TorchEngine):
    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        return super().generate(contexts, variants, [None] * len(contexts), sampling)


class Unlikely(TorchEngine):
    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        hot = replace(sampling, temperature=50.0)
        return super().generate(contexts, variants, constraints, hot)


class Changed(TorchEngine):
    """Generates as it should, and tells something else of it."""

    def change(self, generation: Generation) -> Generation:
        raise NotImplementedError

    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        return [self.change(g) for g in super().generate(contexts, variants, constraints, sampling)]


class Silent(Changed):
    def change(self, generation: Generation) -> Generation:
        signals = generation.signals
        return replace(generation, signals=replace(signals, logprobs=(), constrained=(), entropy=(), margin=()))


class Nervous(Changed):
    def change(self, generation: Generation) -> Generation:
        signals = generation.signals
        return replace(generation, signals=replace(signals, entropy=tuple(e + 0.1 for e in signals.entropy)))


class Free(Changed):
    def change(self, generation: Generation) -> Generation:
        return replace(generation, usage=replace(generation.usage, prefill=1, cached=0))


class Alone(TorchEngine):
    """In a batch the first context's constraint is everybody's."""

    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        return super().generate(contexts, variants, [*constraints[:1]] * len(contexts), sampling)


class SharedCopies(TorchEngine):
    def fork(self, context: TorchContext) -> TorchContext:
        return TorchContext(context.caches, context.seed, list(context.tokens))


class Forgetful(TorchEngine):
    """Takes tokens back, and leaves what was read of them."""

    def rollback(self, context: TorchContext, length: int) -> None:
        del context.tokens[length:]


class OneCache(TorchEngine):
    """Says that each variant has a cache of its own, and gives all of them the same."""

    def open(self, seed: int = 0) -> TorchContext:
        context = super().open(seed)
        cache = Cache(self._config, self._dtype, self._device)
        context.caches = dict.fromkeys(self.ladder, cache)
        return context


class Dice(TorchEngine):
    def open(self, seed: int = 0) -> TorchContext:
        return super().open(random.Random(len(self.ladder)).randrange(1) + next(self.seeds))

    seeds = iter(range(10**6))


class Constant(TorchEngine):
    def open(self, seed: int = 0) -> TorchContext:
        return super().open(0)


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (WithoutLadder, "ladder: names, each once"),
        (AnyVariant, "an unknown variant is not refused"),
        (OneTooLong, "a refused call changes the context"),
        (KeepsContinuations, "score: the context has changed"),
        (Logits, "score: rows do not sum to one"),
        (Late, "score: row 0 is not what the tokens before it give"),
        (Reversed, "generate: a batch gives other tokens"),
        (Unlimited, "generate: a token that the constraint does not allow"),
        (Unlikely, "generate: a token that is not the likeliest"),
        (Silent, "signals: not those of the choice"),
        (Nervous, "signals: not those of the choice"),
        (Free, "usage: prefill and cached are not the prompt"),
        (Alone, "generate: a batch gives other tokens"),
        (SharedCopies, "fork: "),
        (Forgetful, "is still read"),
        (OneCache, "generate: a token that is not the likeliest|signals: not those of the choice"),
        (Dice, "sampling: the same seed and tokens give another action"),
        (Constant, "sampling: sixteen seeds give one action"),
    ],
)
def test_a_broken_promise_is_named(kind: type[TorchEngine], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_engine(case(torch_engine(kind)))


def test_another_error_for_an_unknown_variant_goes_through() -> None:
    with pytest.raises(KeyError, match="no-such-variant"):
        check_engine(case(torch_engine(WrongError)))
