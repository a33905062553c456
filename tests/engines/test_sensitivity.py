"""Divergences against closed forms, enumeration and networks without a cache; measuring leaves no trace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Sampling
from bitroute.engines.sensitivity import (
    action_logprob,
    divergence,
    exact_divergence,
    isolated,
    measure,
    step_divergences,
)
from bitroute.engines.torch import TorchEngine
from support.networks import mixed_logprobs, network, plain_generate, plain_logprobs

END = 3
NETWORKS = {"low": network(1), "high": network(2)}
COMMANDS = [[5, 6, 7, END], [5, 6, 8, END], [5, 9, END], [9, END], [10, 11, END], [10, 12, 6, END]]
TRIE = Trie.of(COMMANDS)
PROMPTS = [[20, 21, 22], [30], [12, 14, 16, 18, 12, 14, 25], [33, 34, 35, 36]]
BOTH_MODES = pytest.mark.parametrize("mode", list(CacheMode))


def engine_of(mode: CacheMode = CacheMode.OWN, models: Any = NETWORKS) -> TorchEngine:
    return TorchEngine(models, end_token=END, fingerprint="tiny", cache_mode=mode)


def told(engine: TorchEngine, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[Any]:
    contexts = [engine.open() for _ in prompts]
    for context, tokens in zip(contexts, prompts, strict=True):
        engine.extend(context, tokens)
    return contexts


def kl(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """KL of two vectors of probabilities that need not sum to one."""
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


class TestDivergence:
    @pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.9, 0.1), (0.2, 0.7), (0.999, 0.5)])
    def test_of_two_coins(self, p: float, q: float) -> None:
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert divergence(np.log([p, 1 - p]), np.log([q, 1 - q])) == pytest.approx(expected, abs=1e-12)

    def test_each_side_is_renormalised(self) -> None:
        assert divergence(np.log([0.2, 0.2]), np.log([0.1, 0.3])) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))

    def test_of_equals_is_zero_and_of_one_outcome_too(self) -> None:
        assert divergence([-3.0, -50.0, -0.1], [-3.0, -50.0, -0.1]) == 0.0
        assert divergence([-2.0], [-9.0]) == 0.0

    def test_impossible_outcomes(self) -> None:
        half = math.log(0.5)
        assert divergence([0.0, -np.inf], [half, half]) == pytest.approx(math.log(2))
        assert divergence([half, half], [0.0, -np.inf]) == math.inf
        assert divergence([half, half, -np.inf], [half, half, -np.inf]) == 0.0

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=8))
    def test_is_never_negative(self, pairs: list[tuple[float, float]]) -> None:
        assert divergence([p for p, _ in pairs], [q for _, q in pairs]) >= 0


def test_only_choices_diverge_under_a_constraint() -> None:
    high, low = (np.log(np.random.default_rng(seed).dirichlet(np.ones(40), size=4)).astype(np.float32) for seed in (0, 1))
    path = list(TRIE.walk([5, 6, 7, END]))
    found = step_divergences(high, low, path)
    nodes = [(0, [5, 9, 10]), (1, [6, 9]), (2, [7, 8])]  # the end after 7 is forced
    assert found == pytest.approx([kl(np.exp(high[i][a]), np.exp(low[i][a])) for i, a in nodes], abs=1e-5)
    free = step_divergences(high, low, None)
    assert free == pytest.approx([kl(np.exp(h), np.exp(q)) for h, q in zip(high, low, strict=True)], abs=1e-5)


@BOTH_MODES
@pytest.mark.parametrize("constrained", [True, False])
def test_labels_are_those_of_networks_without_a_cache(mode: CacheMode, constrained: bool) -> None:
    engine, limit = engine_of(mode), Sampling().max_tokens
    prompts = [*PROMPTS, *([number, 30 - number] for number in range(4, 12))]
    tries = [TRIE if constrained else None] * len(prompts)
    labels = measure(engine, told(engine, prompts), tries, lambda tokens: " ".join(map(str, tokens)))
    for prompt, trie, label in zip(prompts, tries, labels, strict=True):
        action = plain_generate(NETWORKS["high"], prompt, trie, END, limit)
        other = plain_generate(NETWORKS["low"], prompt, trie, END, limit)
        rows = {
            name: np.exp(plain_logprobs(model, [*prompt, *action])[len(prompt) - 1 : -1]) for name, model in NETWORKS.items()
        }
        free = [kl(h, q) for h, q in zip(rows["high"], rows["low"], strict=True)]
        parts = free
        if trie is not None:
            nodes = [(i, node.allowed) for i, node in enumerate(trie.walk(action)) if len(node.children) > 1]
            parts = [kl(rows["high"][i][allowed], rows["low"][i][allowed]) for i, allowed in nodes]
        assert label.action == " ".join(map(str, action))
        assert label.agrees == (action == other)
        assert label.kl_sum == pytest.approx(sum(parts), abs=1e-3)
        assert label.kl_mean == pytest.approx(sum(parts) / len(parts), abs=1e-3)
        assert label.kl_max == pytest.approx(max(parts), abs=1e-3)
        assert label.raw_sum == pytest.approx(sum(free), abs=1e-3)
    assert False in {label.agrees for label in labels}
    assert not constrained or True in {label.agrees for label in labels}


def test_a_forced_action_diverges_nowhere() -> None:
    engine = engine_of()
    (label,) = measure(engine, told(engine, [[20, 21]]), [Trie.of([[5, 6, END]])], str)
    assert (label.kl_sum, label.kl_mean, label.kl_max, label.agrees) == (0, 0, 0, True)
    assert label.raw_sum > 0


@BOTH_MODES
def test_variants_with_the_same_weights_do_not_diverge(mode: CacheMode) -> None:
    engine = engine_of(mode, {"low": NETWORKS["high"], "high": network(2)})
    contexts = told(engine)
    for label in measure(engine, contexts, [TRIE, None, TRIE, None], str):
        assert label.agrees
        assert (label.kl_sum, label.kl_max, label.raw_sum) == pytest.approx((0, 0, 0), abs=1e-9)
    assert exact_divergence(engine, contexts[0], COMMANDS) == pytest.approx(0, abs=1e-9)


def test_in_a_shared_cache_both_variants_read_the_past_as_it_was_written() -> None:
    engine = engine_of(CacheMode.SHARED)
    (context,) = told(engine, [PROMPTS[2]])
    engine.generate([context], ["low"], [TRIE], Sampling())
    read = context.caches["shared"].length  # all but what was generated last
    engine.extend(context, [30, 31, 32])
    (label,) = measure(engine, [context], [TRIE], str)
    action = engine.generate([engine.fork(context)], ["high"], [TRIE], Sampling())[0].tokens
    tokens = [*context.tokens, *action]
    rows = {
        variant: np.exp(mixed_logprobs(NETWORKS, ["low"] * read + [variant] * (len(tokens) - read), tokens))
        for variant in NETWORKS
    }
    start = len(context.tokens) - 1
    parts = [
        kl(rows["high"][start + i][node.allowed], rows["low"][start + i][node.allowed])
        for i, node in enumerate(TRIE.walk(action))
        if len(node.children) > 1
    ]
    assert label.kl_sum == pytest.approx(sum(parts), abs=1e-3)


@BOTH_MODES
def test_measuring_changes_nothing_that_is_generated_later(mode: CacheMode) -> None:
    measured, left_alone = engine_of(mode), engine_of(mode)
    ours, theirs = told(measured), told(left_alone)
    for turn, variant in enumerate(["low", "high", "high", "low"]):
        measure(measured, ours, [TRIE] * len(ours), str)
        exact_divergence(measured, ours[turn], COMMANDS)
        assert [c.tokens for c in ours] == [c.tokens for c in theirs]
        found, expected = (
            e.generate(c, [variant] * len(c), [TRIE] * len(c), Sampling()) for e, c in ((measured, ours), (left_alone, theirs))
        )
        for a, b in zip(found, expected, strict=True):
            assert a.tokens == b.tokens
            assert np.allclose(a.signals.logprobs, b.signals.logprobs, atol=1e-4)
            if mode is CacheMode.SHARED:
                assert a.usage == b.usage
        for engine, contexts in ((measured, ours), (left_alone, theirs)):
            for context in contexts:
                engine.extend(context, [15, 16 + turn])


@BOTH_MODES
def test_what_was_tried_is_undone_also_after_an_error(mode: CacheMode) -> None:
    engine = engine_of(mode)
    contexts = told(engine)
    with pytest.raises(RuntimeError, match="in the middle"), isolated(engine, contexts) as used:
        engine.generate(used, ["low"] * len(used), [None] * len(used), Sampling(max_tokens=3))
        raise RuntimeError("in the middle")
    assert [c.tokens for c in contexts] == PROMPTS


class TestWholeActions:
    @staticmethod
    def enumerated(prompt: list[int]) -> dict[str, npt.NDArray[np.float64]]:
        """Probability of each command at each variant: the product of its choices, from whole forward passes."""
        found = {}
        for name, model in NETWORKS.items():
            chances = []
            for command in COMMANDS:
                rows = np.exp(plain_logprobs(model, [*prompt, *command])[len(prompt) - 1 : -1])
                steps = zip(rows, TRIE.walk(command), command, strict=True)
                chances.append(math.prod(row[token] / row[node.allowed].sum() for row, node, token in steps))
            found[name] = np.array(chances)
        return found

    @BOTH_MODES
    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_the_exact_divergence_is_that_of_the_enumerated_commands(self, mode: CacheMode, prompt: list[int]) -> None:
        engine = engine_of(mode)
        (context,) = told(engine, [prompt])
        chances = self.enumerated(prompt)
        assert chances["high"].sum() == pytest.approx(1)
        assert exact_divergence(engine, context, COMMANDS) == pytest.approx(kl(chances["high"], chances["low"]), abs=1e-4)
        assert context.tokens == prompt

    @pytest.mark.parametrize("prompt", PROMPTS)
    def test_it_is_the_expected_sum_along_highs_actions(self, prompt: list[int]) -> None:
        engine = engine_of()
        (context,) = told(engine, [prompt])
        total = 0.0
        for command, chance in zip(COMMANDS, self.enumerated(prompt)["high"], strict=True):
            high, low = (engine.score([context], [command], variant)[0] for variant in ("high", "low"))
            total += chance * sum(step_divergences(high, low, list(TRIE.walk(command))))
        assert exact_divergence(engine, context, COMMANDS) == pytest.approx(total, abs=1e-4)

    def test_the_logarithm_of_an_action(self) -> None:
        rows = np.log(np.random.default_rng(0).dirichlet(np.ones(40), size=2)).astype(np.float32)
        p = np.exp(rows.astype(np.float64))
        assert action_logprob(rows, TRIE, [9, END]) == pytest.approx(math.log(p[0, 9] / p[0, [5, 9, 10]].sum()))
