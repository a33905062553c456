"""Memory of generations: the same results and the same usage as without it, and nothing computed twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.engines.caching import CachingContext, CachingEngine
from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Generation, Sampling
from bitroute.engines.torch import TorchContext, TorchEngine
from bitroute.errors import CapabilityError, ConfigError
from support.networks import network

END = 3
NETWORKS = {"low": network(1), "high": network(2)}
TRIE = Trie.of([[5, 6, 7, END], [5, 6, 8, END], [9, END], [10, 11, END]])
SHORT = Sampling(max_tokens=4)


def torch_engine(mode: CacheMode = CacheMode.OWN) -> TorchEngine:
    return TorchEngine(NETWORKS, end_token=END, fingerprint="tiny", cache_mode=mode)


def told(engine: CachingEngine, tokens: list[int], seed: int = 0) -> CachingContext:
    context = engine.open(seed)
    engine.extend(context, tokens)
    return context


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["extend", "generate", "generate", "score", "rollback", "fork", "close"]),
        st.integers(0, 5),
        st.sampled_from(["low", "high"]),
    ),
    min_size=4,
    max_size=20,
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(OPERATIONS, st.integers(0, 3))
def test_random_operations_give_the_same_with_and_without_memory(operations: list[tuple[str, int, str]], capacity: int) -> None:
    plain = torch_engine()
    memory = CachingEngine(torch_engine(), capacity=10**capacity)
    pairs = [(plain.open(), memory.open())]
    for operation, size, variant in [("extend", 3, ""), *operations]:
        left, right = pairs[size % len(pairs)]
        match operation:
            case "extend":
                for engine, context in ((plain, left), (memory, right)):
                    engine.extend(context, list(range(12, 13 + size)))
            case "rollback":
                for engine, context in ((plain, left), (memory, right)):
                    engine.rollback(context, max(1, len(context.tokens) - size))
            case "fork":
                pairs.append((plain.fork(left), memory.fork(right)))
            case "close" if len(pairs) > 1:
                pairs.remove((left, right))
                plain.close(left)
                memory.close(right)
            case "score":
                rows = [engine.score([c], [[5, 6]], variant)[0] for engine, c in ((plain, left), (memory, right))]
                assert np.abs(rows[0] - rows[1]).max() < 1e-4
            case "generate":
                tries = [TRIE if (i + size) % 2 else None for i in range(len(pairs))]
                variants = [variant] * len(pairs)
                expected = plain.generate([p for p, _ in pairs], variants, tries, SHORT)
                found = memory.generate([m for _, m in pairs], variants, tries, SHORT)
                for a, b in zip(expected, found, strict=True):
                    assert (a.tokens, a.usage) == (b.tokens, b.usage)
                    assert np.allclose(a.signals.constrained, b.signals.constrained, atol=1e-4)
        for a, b in pairs:
            assert a.tokens == b.tokens
            plain.rollback(a, 60)
            memory.rollback(b, 60)


class Counting(TorchEngine):
    """Notes how many contexts each call was given."""

    def __init__(self) -> None:
        super().__init__(NETWORKS, end_token=END, fingerprint="tiny")
        self.calls: list[int] = []

    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        self.calls.append(len(contexts))
        return super().generate(contexts, variants, constraints, sampling)


def test_a_state_that_comes_back_is_not_computed_again() -> None:
    engine = CachingEngine(inner := Counting())
    contexts = [told(engine, [20, 21]) for _ in range(5)]
    first = engine.generate(contexts, ["high"] * 5, [TRIE] * 5, SHORT)
    assert (inner.calls, engine.misses, engine.hits) == ([1], 1, 4)
    assert len(set(first)) == 1
    engine.generate([told(engine, [20, 21]), told(engine, [20, 22])], ["high"] * 2, [TRIE] * 2, SHORT)
    assert (inner.calls, engine.misses, engine.hits) == ([1, 1], 2, 5)


def test_another_variant_sampling_or_constraint_is_another_state() -> None:
    engine = CachingEngine(inner := Counting())

    def generate(variant: str = "high", trie: Trie | None = TRIE, sampling: Sampling = SHORT) -> tuple[int, ...]:
        return engine.generate([told(engine, [20, 21])], [variant], [trie], sampling)[0].tokens

    chosen = generate()
    assert generate(trie=Trie.of([[*chosen], [30, END]])) == chosen or len(inner.calls) == 2
    assert len(inner.calls) == 2
    generate(variant="low")
    generate(trie=None)
    generate(sampling=Sampling(max_tokens=3))
    generate(sampling=Sampling(temperature=1.0, max_tokens=4))
    assert len(inner.calls) == 6


def test_the_seed_of_a_context_is_part_of_the_state_where_tokens_are_sampled() -> None:
    engine = CachingEngine(inner := Counting())

    def generate(sampling: Sampling) -> list[tuple[int, ...]]:
        contexts = [told(engine, [20, 21], seed) for seed in range(6)]
        return [g.tokens for g in engine.generate(contexts, ["low"] * 6, [None] * 6, sampling)]

    assert (len(set(generate(SHORT))), inner.calls) == (1, [1])
    drawn = generate(Sampling(temperature=2.0, max_tokens=4))
    assert len(set(drawn)) > 3
    assert inner.calls == [1, 6]
    assert generate(Sampling(temperature=2.0, max_tokens=4)) == drawn
    assert inner.calls == [1, 6]


def test_two_constraints_on_one_state_in_one_batch_are_told_apart() -> None:
    engine = CachingEngine(torch_engine())
    tries = [Trie.of([[5, END]]), Trie.of([[6, END]]), Trie.of([[5, END]])]
    found = engine.generate([told(engine, [20, 21]) for _ in tries], ["low"] * 3, tries, SHORT)
    assert [g.tokens[0] for g in found] == [5, 6, 5]


def test_only_the_most_recent_are_kept() -> None:
    engine = CachingEngine(inner := Counting(), capacity=2)
    for last in (20, 21, 20, 22, 20, 21):  # 21 is the least recently used when 22 comes
        engine.generate([told(engine, [last])], ["low"], [TRIE], SHORT)
    assert len(inner.calls) == 4
    assert (engine.hits, engine.misses) == (2, 4)


def test_a_shared_cache_is_refused_and_an_unknown_variant_named() -> None:
    with pytest.raises(ConfigError, match="cache mode 'own'"):
        CachingEngine(torch_engine(CacheMode.SHARED))
    engine = CachingEngine(torch_engine())
    with pytest.raises(CapabilityError, match="unknown variant 'middle'"):
        engine.generate([told(engine, [20])], ["middle"], [None], SHORT)
