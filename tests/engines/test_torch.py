"""The engine against networks that see everything at once: batches, caches, hand-offs, constraints, accounting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Generation, Sampling
from bitroute.engines.torch import TorchContext, TorchEngine
from bitroute.episode import Usage
from bitroute.errors import CapabilityError, ConfigError
from bitroute.nn.decoder import Decoder
from support.networks import LLAMA, TINY, mixed_logprobs, network, plain_generate, plain_logprobs

END = 3
TOLERANCE = 1e-4  # float32 log-probabilities, as the engine promises
NETWORKS = {"low": network(1), "high": network(2)}
LLAMAS = {"low": network(1, LLAMA), "high": network(2, LLAMA)}
BOTH_MODES = pytest.mark.parametrize("mode", list(CacheMode))
BOTH_ARCHITECTURES = pytest.mark.parametrize("models", [NETWORKS, LLAMAS], ids=["qwen3", "llama"])


def engine_of(mode: CacheMode = CacheMode.OWN, models: dict[str, Decoder] = NETWORKS, end: int = END) -> TorchEngine:
    return TorchEngine(models, end_token=end, fingerprint="tiny", cache_mode=mode)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(4, TINY.vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def context_of(engine: TorchEngine, tokens: Sequence[int]) -> TorchContext:
    context = engine.open()
    engine.extend(context, tokens)
    return context


def one(engine: TorchEngine, context: TorchContext, variant: str, trie: Trie | None = None, limit: int = 24) -> Generation:
    return engine.generate([context], [variant], [trie], Sampling(max_tokens=limit))[0]


RAGGED = [prompt(length, seed) for seed, length in enumerate((3, 40, 17, 1, 17, 64))]


class TestBatches:
    @BOTH_ARCHITECTURES
    @BOTH_MODES
    def test_ragged_scores_are_those_of_the_whole_sequence_and_of_one_at_a_time(
        self, mode: CacheMode, models: dict[str, Decoder]
    ) -> None:
        engine = engine_of(mode, models)
        continuations = [prompt(length, 100 + length) for length in (5, 1, 9, 2, 7, 12)]
        together = engine.score([context_of(engine, t) for t in RAGGED], continuations, "high")
        for tokens, continuation, rows in zip(RAGGED, continuations, together, strict=True):
            expected = plain_logprobs(models["high"], [*tokens, *continuation])[len(tokens) - 1 : -1]
            alone = engine.score([context_of(engine, tokens)], [continuation], "high")[0]
            assert rows.shape == (len(continuation), TINY.vocab_size)
            assert np.abs(rows - expected).max() < TOLERANCE
            assert np.abs(rows - alone).max() < TOLERANCE

    @BOTH_ARCHITECTURES
    @BOTH_MODES
    def test_generation_in_a_batch_of_both_variants_is_the_greedy_one(
        self, mode: CacheMode, models: dict[str, Decoder]
    ) -> None:
        engine = engine_of(mode, models)
        variants = ["low", "high"] * 3
        contexts = [context_of(engine, t) for t in RAGGED]
        generations = engine.generate(contexts, variants, [None] * 6, Sampling(max_tokens=8))
        for tokens, variant, context, generation in zip(RAGGED, variants, contexts, generations, strict=True):
            expected = plain_generate(models[variant], tokens, None, END, 8)
            assert list(generation.tokens) == expected
            assert context.tokens == [*tokens, *expected]
            assert one(engine, context_of(engine, tokens), variant, limit=8).tokens == generation.tokens

    def test_incremental_scores_equal_those_of_the_whole_sequence(self) -> None:
        engine, history = engine_of(), list(prompt(5))
        context = context_of(engine, history)
        for turn in range(8):
            one(engine, context, "high", limit=3)
            engine.extend(context, prompt(4 + turn, 50 + turn))
            rows = engine.score([context], [prompt(6, turn)], "high")[0]
            whole = plain_logprobs(NETWORKS["high"], [*context.tokens, *prompt(6, turn)])
            assert np.abs(rows - whole[len(context.tokens) - 1 : -1]).max() < TOLERANCE

    def test_scoring_leaves_the_tokens_and_a_score_of_nothing_is_empty(self) -> None:
        engine = engine_of()
        contexts = [context_of(engine, t) for t in RAGGED[:2]]
        rows = engine.score(contexts, [[], [5]], "low")
        assert [c.tokens for c in contexts] == RAGGED[:2]
        assert [r.shape for r in rows] == [(0, TINY.vocab_size), (1, TINY.vocab_size)]
        assert engine.score([], [], "low") == []
        assert engine.generate([], [], [], Sampling()) == []


class TestUsage:
    def test_each_variant_prefills_what_its_own_cache_lacks(self) -> None:
        engine = engine_of(end=-1)  # never generated: every action has `limit` tokens
        context = context_of(engine, prompt(10))
        assert one(engine, context, "low", limit=3).usage == Usage("low", prefill=10, cached=0, decode=2)
        engine.extend(context, prompt(4))  # 17 tokens; low has 12: the third generated one was never read
        assert one(engine, context, "low", limit=1).usage == Usage("low", prefill=5, cached=12, decode=0)
        engine.extend(context, prompt(2))  # 20 tokens; high has none, low 17
        assert one(engine, context, "high", limit=2).usage == Usage("high", prefill=20, cached=0, decode=1)
        assert one(engine, context, "low", limit=1).usage == Usage("low", prefill=5, cached=17, decode=0)
        assert one(engine, context, "high", limit=1).usage == Usage("high", prefill=2, cached=21, decode=0)

    def test_a_variant_that_was_away_generates_what_it_would_have_generated_alone(self) -> None:
        engine = engine_of()
        context = context_of(engine, prompt(10))
        for turn, variant in enumerate(["low", "low", "high", "low", "high", "high", "low"]):
            expected = plain_generate(NETWORKS[variant], context.tokens, None, END, 5)
            assert list(one(engine, context, variant, limit=5).tokens) == expected
            engine.extend(context, prompt(3, turn))

    def test_a_shared_cache_is_prefilled_once(self) -> None:
        engine = engine_of(CacheMode.SHARED, end=-1)
        context = context_of(engine, prompt(10))
        assert one(engine, context, "low", limit=3).usage == Usage("low", prefill=10, cached=0, decode=2)
        engine.extend(context, prompt(4))
        assert one(engine, context, "high", limit=2).usage == Usage("high", prefill=5, cached=12, decode=1)

    def test_a_shared_cache_holds_what_each_variant_read(self) -> None:
        engine = engine_of(CacheMode.SHARED, end=-1)
        context = context_of(engine, prompt(6))
        owners: list[str] = []
        for turn, variant in enumerate(["low", "high", "low", "high"]):
            one(engine, context, variant, limit=3)
            owners += [variant] * (len(context.tokens) - 1 - len(owners))
            engine.extend(context, prompt(5, turn))
        rows = engine.score([context], [prompt(4, 9)], "low")[0]
        owners += ["low"] * (len(context.tokens) + 4 - len(owners))
        mixed = mixed_logprobs(NETWORKS, owners, [*context.tokens, *prompt(4, 9)])[len(context.tokens) - 1 : -1]
        alone = plain_logprobs(NETWORKS["low"], [*context.tokens, *prompt(4, 9)])[len(context.tokens) - 1 : -1]
        assert np.abs(rows - mixed).max() < TOLERANCE
        assert np.abs(rows - alone).max() > 0.01  # the other variant's keys are seen

    def test_the_last_token_is_read_again_when_nothing_was_added(self) -> None:
        engine = engine_of(end=-1)
        context = context_of(engine, prompt(8))
        engine.score([context], [[5, 6]], "high")
        assert one(engine, context, "high", limit=1).usage == Usage("high", prefill=1, cached=7, decode=0)


class TestForksAndRollback:
    @BOTH_MODES
    def test_a_fork_goes_its_own_way(self, mode: CacheMode) -> None:
        engine = engine_of(mode, end=-1)
        context = context_of(engine, prompt(12))
        one(engine, context, "high", limit=2)
        fork = engine.fork(context)
        engine.extend(fork, prompt(5, 1))
        one(engine, fork, "high", limit=4)
        engine.extend(context, prompt(5, 2))
        for c in (context, fork):
            usage = one(engine, c, "high", limit=1).usage
            assert usage.cached == (13 if c is context else 22)
            rows = engine.score([c], [[7]], "high")[0]
            assert np.abs(rows - plain_logprobs(NETWORKS["high"], c.tokens)[-1]).max() < TOLERANCE

    @BOTH_MODES
    def test_closing_a_fork_leaves_the_original(self, mode: CacheMode) -> None:
        engine = engine_of(mode)
        context = context_of(engine, prompt(12))
        expected = engine.score([context], [[5, 6]], "low")[0]
        fork = engine.fork(context)
        engine.close(fork)
        assert np.abs(engine.score([context], [[5, 6]], "low")[0] - expected).max() < TOLERANCE

    @BOTH_MODES
    def test_after_a_rollback_another_continuation_is_read(self, mode: CacheMode) -> None:
        engine = engine_of(mode, end=-1)
        context = context_of(engine, prompt(20))
        one(engine, context, "low", limit=6)
        engine.rollback(context, 15)
        assert context.tokens == prompt(20)[:15]
        engine.extend(context, prompt(3, 8))
        generation = one(engine, context, "low", limit=4)
        assert generation.usage == Usage("low", prefill=3, cached=15, decode=3)
        assert list(generation.tokens) == plain_generate(NETWORKS["low"], [*prompt(20)[:15], *prompt(3, 8)], None, -1, 4)

    def test_caches_grow_past_their_first_size(self) -> None:
        wide = {"high": network(5, replace(TINY, max_position_embeddings=1200))}
        engine = engine_of(models=wide)
        context = context_of(engine, prompt(200))
        for turn in range(4):
            one(engine, context, "high", limit=1)
            engine.extend(context, prompt(230, turn))
        rows = engine.score([context], [[9]], "high")[0]
        assert np.abs(rows[0] - plain_logprobs(wide["high"], context.tokens)[-1]).max() < TOLERANCE


SETS = st.lists(st.lists(st.integers(4, 9), min_size=1, max_size=5), min_size=1, max_size=8)


class TestConstraint:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(SETS, st.integers(1, 20), st.sampled_from(["low", "high"]))
    def test_the_output_is_the_greedy_walk_and_signals_are_those_of_its_choices(
        self, bodies: list[list[int]], length: int, variant: str
    ) -> None:
        commands = [[*body, END] for body in bodies]
        engine, trie = engine_of(), Trie.of(commands)
        generation = one(engine, context_of(engine, prompt(length)), variant, trie)
        assert list(generation.tokens) in commands
        assert list(generation.tokens) == plain_generate(NETWORKS[variant], prompt(length), trie, END, 24)
        rows = plain_logprobs(NETWORKS[variant], [*prompt(length), *generation.tokens])[length - 1 :]
        expected: list[tuple[float, float, float, float]] = []
        for row, node, token in zip(rows, trie.walk(generation.tokens), generation.tokens, strict=False):
            if len(node.children) > 1:
                p = np.exp(row[node.allowed]) / np.exp(row[node.allowed]).sum()
                best = sorted(p, reverse=True)
                chosen = math.log(p[node.allowed.index(token)])
                expected.append((row[token], chosen, float(-(p * np.log(p)).sum()), best[0] - best[1]))
        signals = generation.signals
        found = list(zip(signals.logprobs, signals.constrained, signals.entropy, signals.margin, strict=True))
        assert len(found) == len(expected)
        assert np.allclose(np.array(found), np.array(expected), atol=TOLERANCE, rtol=0)

    def test_forced_tokens_reveal_nothing_and_are_decoded_only_before_a_choice(self) -> None:
        engine = engine_of()
        context = context_of(engine, prompt(7))
        trie = Trie.of([[10, 11, 12, 13, END], [10, 11, 14, END]])
        generation = one(engine, context, "high", trie)
        assert generation.tokens[:2] == (10, 11)
        assert len(generation.signals.logprobs) == 1
        assert generation.usage == Usage("high", prefill=7, cached=0, decode=2)

    def test_a_single_command_is_forced_as_a_whole(self) -> None:
        engine = engine_of()
        generation = one(engine, context_of(engine, prompt(7)), "low", Trie.of([[10, 11, END]]))
        assert generation.tokens == (10, 11, END)
        assert generation.signals.logprobs == ()
        assert generation.usage == Usage("low", prefill=7, cached=0, decode=0)

    def test_without_a_constraint_every_token_is_a_choice(self) -> None:
        engine = engine_of(end=-1)
        generation = one(engine, context_of(engine, prompt(7)), "low", limit=5)
        assert len(generation.tokens) == len(generation.signals.logprobs) == 5
        assert generation.signals.logprobs == pytest.approx(generation.signals.constrained, abs=1e-5)

    def test_max_tokens_bounds_an_action_inside_the_trie(self) -> None:
        engine = engine_of()
        generation = one(engine, context_of(engine, prompt(7)), "low", Trie.of([[10, 11, 12, END]]), limit=2)
        assert generation.tokens == (10, 11)

    def test_the_end_token_ends_a_free_action(self) -> None:
        logprobs = plain_logprobs(NETWORKS["low"], prompt(7))[-1]
        engine = engine_of(end=int(logprobs.argmax()))
        assert one(engine, context_of(engine, prompt(7)), "low").tokens == (int(logprobs.argmax()),)


class TestSampling:
    def test_frequencies_match_the_tempered_probabilities(self) -> None:
        engine, draws, temperature = engine_of(), 500, 3.0
        trie = Trie.of([[5, END], [6, END], [7, END], [8, END]])
        logits = plain_logprobs(NETWORKS["high"], prompt(9))[-1][[5, 6, 7, 8]] / temperature
        expected = np.exp(logits) / np.exp(logits).sum()
        context = context_of(engine, prompt(9))
        counts = np.zeros(4)
        for seed in range(draws):
            context.seed = seed
            generation = engine.generate([context], ["high"], [trie], Sampling(temperature, 2))[0]
            counts[generation.tokens[0] - 5] += 1
            engine.rollback(context, 9)
        deviation = np.sqrt(expected * (1 - expected) / draws)
        assert (np.abs(counts / draws - expected) < 4 * deviation).all()
        assert (expected > 0.02).all()  # each is really drawn

    def test_a_draw_depends_on_seed_and_tokens_alone(self) -> None:
        engine, sampling = engine_of(), Sampling(temperature=1.5, max_tokens=6)
        together = engine.generate([context_of(engine, t) for t in RAGGED], ["high"] * 6, [None] * 6, sampling)
        for tokens, generation in zip(RAGGED, together, strict=True):
            alone = engine.generate([context_of(engine, tokens)], ["high"], [None], sampling)[0]
            assert alone.tokens == generation.tokens

    def test_equal_contexts_of_one_batch_draw_each_for_itself(self) -> None:
        engine, sampling = engine_of(), Sampling(temperature=1.5, max_tokens=6)
        contexts = [engine.open(seed) for seed in range(8)]
        for context in contexts:
            engine.extend(context, prompt(9))
        forks = [engine.fork(context) for context in contexts]
        drawn, again = (engine.generate(c, ["high"] * 8, [None] * 8, sampling) for c in (contexts, forks))
        assert len({g.tokens for g in drawn}) > 4
        assert [g.tokens for g in drawn] == [g.tokens for g in again]


class TestRefusals:
    def test_an_unknown_variant_is_named_and_nothing_happens(self) -> None:
        engine = engine_of()
        contexts = [context_of(engine, prompt(4)), context_of(engine, prompt(5))]
        with pytest.raises(CapabilityError, match="unknown variant 'middle'; this engine hosts low, high"):
            engine.generate(contexts, ["low", "middle"], [None, None], Sampling())
        with pytest.raises(CapabilityError, match="'middle'"):
            engine.score(contexts[:1], [[5]], "middle")
        assert [len(c.tokens) for c in contexts] == [4, 5]
        assert one(engine, contexts[0], "low").usage.cached == 0

    def test_a_context_that_outgrows_the_positions_is_refused(self) -> None:
        engine = engine_of()
        context = context_of(engine, prompt(129))
        with pytest.raises(ConfigError, match="129 tokens exceeds the model's 128 positions"):
            one(engine, context, "low")
        engine.rollback(context, 128)
        assert len(one(engine, context, "low", limit=1).tokens) == 1

    def test_a_score_may_fill_the_positions_but_not_exceed_them(self) -> None:
        engine = engine_of()
        context = context_of(engine, prompt(126))
        assert len(engine.score([context], [[5, 6, 7]], "low")[0]) == 3
        with pytest.raises(ConfigError, match="129 tokens"):
            engine.score([context], [[5, 6, 7, 8]], "low")

    def test_an_empty_context_and_one_given_twice_are_refused(self) -> None:
        engine = engine_of()
        with pytest.raises(ValueError, match="at least one token"):
            one(engine, engine.open(), "low")
        context = context_of(engine, prompt(4))
        with pytest.raises(ValueError, match="twice in one batch"):
            engine.generate([context, context], ["low", "low"], [None, None], Sampling())

    def test_variants_must_be_of_one_network(self) -> None:
        with pytest.raises(ConfigError, match="0 variants"):
            TorchEngine({}, end_token=END, fingerprint="")
        other = network(1, replace(TINY, num_hidden_layers=1))
        with pytest.raises(ConfigError, match="2 variants of 2 shapes"):
            TorchEngine({"low": other, "high": NETWORKS["high"]}, end_token=END, fingerprint="")
        with pytest.raises(ConfigError, match="2 variants of 2 shapes"):
            TorchEngine({"low": network(1).bfloat16(), "high": NETWORKS["high"]}, end_token=END, fingerprint="")


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["extend", "generate", "generate", "score", "rollback", "fork", "close"]),
        st.integers(0, 7),
        st.sampled_from(["low", "high"]),
    ),
    min_size=4,
    max_size=16,
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_whatever_happens_to_contexts_each_says_what_its_tokens_say(operations: list[tuple[str, int, str]]) -> None:
    """Random operations on up to a few contexts, all generated in one batch, against networks without a cache."""
    engine = engine_of()
    contexts = [context_of(engine, prompt(5, 77))]
    trie = Trie.of([[5, 6, 7, END], [5, 6, 8, END], [9, END], [10, 11, END]])
    for number, (operation, size, variant) in enumerate(operations):
        context = contexts[size % len(contexts)]
        match operation:
            case "extend":
                engine.extend(context, prompt(size, number))
            case "rollback":
                engine.rollback(context, max(1, len(context.tokens) - size))
            case "fork":
                contexts.append(engine.fork(context))
            case "close" if len(contexts) > 1:
                contexts.remove(context)
                engine.close(context)
            case "score":
                rows = engine.score([context], [prompt(3, number)], variant)[0]
                whole = plain_logprobs(NETWORKS[variant], [*context.tokens, *prompt(3, number)])
                assert np.abs(rows - whole[len(context.tokens) - 1 : -1]).max() < TOLERANCE
            case "generate":
                before = [list(c.tokens) for c in contexts]
                tries = [trie if (i + size) % 2 else None for i in range(len(contexts))]
                generations = engine.generate(contexts, [variant] * len(contexts), tries, Sampling(max_tokens=4))
                for tokens, limits, generation in zip(before, tries, generations, strict=True):
                    assert list(generation.tokens) == plain_generate(NETWORKS[variant], tokens, limits, END, 4)
                    assert generation.usage.prefill + generation.usage.cached == len(tokens)
        for c in contexts:
            engine.rollback(c, 90)


@BOTH_MODES
def test_drafts_change_no_choice_and_no_count(mode: CacheMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that comes back has its own answer as a draft; sampled ones of the first round are wrong from some token on."""
    trie = Trie.of([[5, 6, 7, 8, END], [5, 6, 9, END], [10, 11, END]])
    passes: list[int] = []

    def play(engine: TorchEngine) -> list[Generation]:
        found = []
        logprobs = engine._logprobs
        monkeypatch.setattr(engine, "_logprobs", lambda *given: passes.append(1) or logprobs(*given))
        for round_ in range(3):
            contexts = [context_of(engine, [*prompt(3, seed), *prompt(32, 9 + seed)]) for seed in range(2)]
            for turn, (variant, allowed) in enumerate((("low", None), ("high", None), ("low", trie))):
                found += engine.generate(contexts, [variant] * 2, [allowed] * 2, Sampling(0.0 if round_ else 0.7, max_tokens=9))
                for seed, context in enumerate(contexts):
                    engine.extend(context, prompt(32, 50 + 2 * turn + seed))
            passes.append(0)
        return found

    drafted = play(engine_of(mode))
    assert passes[-5:] == [0, 1, 1, 1, 0] and sum(passes) > 20  # the third round knows all answers of the second
    monkeypatch.setattr("bitroute.engines.torch.DRAFTS", 0)
    plain = play(engine_of(mode))
    assert [(g.tokens, g.usage) for g in drafted] == [(g.tokens, g.usage) for g in plain]
    assert np.allclose([g.signals.logprobs[0] for g in drafted], [g.signals.logprobs[0] for g in plain], atol=TOLERANCE)


def test_a_draft_that_is_wrong_is_read_once_and_none_is_longer_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitroute.engines.torch.LONGEST_DRAFT", 5)
    engine = engine_of()
    read: list[int] = []
    logprobs = engine._logprobs
    monkeypatch.setattr(engine, "_logprobs", lambda *given: read.append(sum(map(len, given[1]))) or logprobs(*given))
    for seed in range(2):  # other beginnings, the same end
        one(engine, context_of(engine, [*prompt(3, seed), *prompt(32, 9)]), "low", limit=12)
        assert len(read) == 12 and read[1:] == [1] * 11 and read[0] == 35 + 4 * seed
        read.clear()
