"""Remembers what an engine generated, so that a state which comes back costs nothing. Purely token ids.

Policies that are compared on the same tasks, and the episodes of one group in training, pass through the same states again and
again: as long as the variants agree, every policy sees the same observations. With a cache per variant (`CacheMode.OWN`) a
generation is a function of variant, tokens and allowed tokens alone, so it is computed once. Usage is counted as if nothing had
been remembered. A state is computed in the company of whoever met it first, which float rounding may notice in a near-tie;
the same state then has the same action for every policy that shares the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Engine, Generation, Sampling
from bitroute.episode import Usage
from bitroute.errors import CapabilityError, ConfigError

Key = tuple[str, Sampling, int, bytes]


@dataclass(slots=True, eq=False)
class CachingContext:
    """An episode's tokens; what each variant's cache would hold of them; and the engine's own context, once it has one.

    The first `synced` tokens of `inner` are the first of `tokens`.
    """

    seed: int = 0
    tokens: list[int] = field(default_factory=list)
    cached: dict[str, int] = field(default_factory=dict)
    inner: Any = None
    synced: int = 0


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """A generation, and what was allowed at each of its tokens: under the same tokens allowed it comes out again."""

    generation: Generation
    allowed: int

    def fits(self, trie: Trie | None) -> bool:
        """Whether `trie` allows, along the generated tokens, exactly what was allowed then."""
        return self.allowed == allowed_along(trie, self.generation.tokens)


class CachingEngine:
    """An engine before `engine` (with a cache per variant) that asks it only for what it has not generated before.

    The `capacity` most recently used generations are kept (about 1 KB each). `hits` counts those that cost nothing. Raises
    ConfigError when `engine` shares one cache: there the past variants are part of the state.
    """

    def __init__(self, engine: Engine[Any], capacity: int = 200_000) -> None:
        if engine.cache_mode is not CacheMode.OWN:
            raise ConfigError("memory of generations: needs an engine with a cache per variant (cache mode 'own')")
        self.engine, self.capacity = engine, capacity
        self.ladder = engine.ladder
        self.cache_mode: CacheMode = engine.cache_mode
        self.max_length, self.fingerprint = engine.max_length, engine.fingerprint
        self.hits = self.misses = 0
        self._memory: dict[Key, StoredGeneration] = {}

    def open(self, seed: int = 0) -> CachingContext:
        """A new, empty context; `seed` is that of its sampled tokens."""
        return CachingContext(seed, cached=dict.fromkeys(self.ladder, 0))

    def extend(self, context: CachingContext, tokens: Sequence[int]) -> None:
        """Append prompt tokens."""
        context.tokens.extend(tokens)

    def length(self, context: CachingContext) -> int:
        """How many tokens the context holds."""
        return len(context.tokens)

    def fork(self, context: CachingContext) -> CachingContext:
        """An independent copy of a context."""
        inner = None if context.inner is None else self.engine.fork(context.inner)
        return CachingContext(context.seed, list(context.tokens), dict(context.cached), inner, context.synced)

    def rollback(self, context: CachingContext, length: int) -> None:
        """Shorten a context to its first `length` tokens."""
        del context.tokens[length:]
        context.cached = {variant: min(cached, length) for variant, cached in context.cached.items()}
        context.synced = min(context.synced, length)

    def close(self, context: CachingContext) -> None:
        """Give the engine's context back. This one must not be used again."""
        if context.inner is not None:
            self.engine.close(context.inner)
            context.inner = None

    def generate(
        self,
        contexts: Sequence[CachingContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        """As the engine's own `generate`; equal states in one batch are computed once.

        Raises what the engine raises, and CapabilityError for an unknown variant.
        """
        for variant in variants:
            if variant not in self.ladder:
                raise CapabilityError(f"unknown variant {variant!r}; this engine hosts {', '.join(self.ladder)}")
        keys: list[Key] = [
            (
                variant,
                sampling,
                context.seed if sampling.temperature else 0,
                blake2b(array("q", context.tokens), digest_size=16).digest(),
            )
            for context, variant in zip(contexts, variants, strict=True)
        ]
        results: list[Generation | None] = [None] * len(keys)
        rows = list(range(len(keys)))
        while rows:
            fresh: dict[Key, int] = {}
            for row in rows:
                results[row] = self._recall(keys[row], constraints[row])
                if results[row] is None:
                    fresh.setdefault(keys[row], row)
            self.hits += sum(results[row] is not None for row in rows)
            self.misses += len(fresh)
            computed = self._compute(
                [contexts[r] for r in fresh.values()],
                [variants[r] for r in fresh.values()],
                [constraints[r] for r in fresh.values()],
                sampling,
            )
            for (key, row), generation in zip(fresh.items(), computed, strict=True):
                results[row] = generation
                self._remember(key, generation, constraints[row])
            rows = [row for row in rows if results[row] is None]
        return [
            self._apply(context, variant, result)
            for context, variant, result in zip(contexts, variants, results, strict=True)
            if result is not None
        ]

    def score(
        self, contexts: Sequence[CachingContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        """As the engine's own `score`; nothing is remembered."""
        rows = self.engine.score([self._sync(c) for c in contexts], continuations, variant)
        for context in contexts:
            context.cached[variant] = len(context.tokens)
        return rows

    def _recall(self, key: Key, trie: Trie | None) -> Generation | None:
        found = self._memory.pop(key, None)
        if found is None or not found.fits(trie):
            return None
        self._memory[key] = found  # the most recently used stands last
        return found.generation

    def _remember(self, key: Key, generation: Generation, trie: Trie | None) -> None:
        self._memory[key] = StoredGeneration(generation, allowed_along(trie, generation.tokens))
        while len(self._memory) > self.capacity:
            del self._memory[next(iter(self._memory))]

    def _compute(
        self,
        contexts: Sequence[CachingContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        """What the engine generates; these contexts stay without it."""
        return self.engine.generate([self._sync(c) for c in contexts], variants, constraints, sampling) if contexts else []

    def _sync(self, context: CachingContext) -> Any:
        """The engine's context, with the same tokens."""
        if context.inner is None:
            context.inner = self.engine.open(context.seed)
        self.engine.rollback(context.inner, context.synced)
        self.engine.extend(context.inner, context.tokens[context.synced :])
        context.synced = len(context.tokens)
        return context.inner

    @staticmethod
    def _apply(context: CachingContext, variant: str, generation: Generation) -> Generation:
        """Append a generation to a context, and count what it would have cost there."""
        length = len(context.tokens)
        cached = min(context.cached[variant], length - 1)
        decode = generation.usage.decode
        context.tokens.extend(generation.tokens)
        context.cached[variant] = length + decode
        return replace(generation, usage=Usage(variant, prefill=length - cached, cached=cached, decode=decode))


def allowed_along(trie: Trie | None, tokens: Sequence[int]) -> int:
    """A hash of what `trie` allows before each of `tokens`, in order; 0 where a token is not allowed, -1 without a trie."""
    if trie is None:
        return -1
    try:
        return hash(tuple(tuple(node.children) for node in trie.walk(tokens)))
    except KeyError:
        return 0
