"""Playing, labelling and training make every tensor where the network is: run on a device without values that watches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitroute.engines.caching import CachingEngine
from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Sampling
from bitroute.engines.sensitivity import exact_divergence, measure
from bitroute.engines.torch import TorchEngine
from bitroute.episode import Signals, View
from bitroute.nn import decoder, kv_cache
from bitroute.nn.decoder import Decoder, sequence_logits
from bitroute.nn.kv_cache import Cache, extend_cached
from bitroute.nn.tokenizer import Tokenizer
from bitroute.nn.weighted import WeightedSequence
from bitroute.quantization.model import materialize
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.routers.encoder.dataset import Trajectory, trajectory_logits
from bitroute.routers.encoder.network import SIGNAL_FEATURES, EncoderNetwork
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.features import FEATURES
from bitroute.training import language_model
from bitroute.training.policy_gradient import Sample, learn
from bitroute.training.recipes import GrpoRecipe, SupervisedRecipe
from bitroute.training.supervised import LabelledTrajectory, predict, supervised_loss, train_supervised
from support.accelerator import DEVICE, Accelerator
from support.checkpoint import TOKENIZER
from support.networks import TINY, network

END = 3
TRIE = Trie.of([[5, 6, 7, END], [5, 6, 8, END], [9, END], [10, 11, END]])
PROMPTS = [[4, 5, 6], [7, 8, 9, 10, 11], [12]]
SIGNALS = Signals((-0.1,), (-0.1,), (0.2,), (0.7,))


@pytest.fixture(autouse=True)
def accelerator() -> Iterator[Accelerator]:
    """Everything in a test of this file runs there; that something did is checked."""
    with Accelerator() as there:
        yield there
    assert there.operations > 0


def decoder_there(seed: int) -> Decoder:
    return network(seed).to(DEVICE)


def encoder_there(**options: Any) -> EncoderNetwork:
    torch.manual_seed(0)
    return EncoderNetwork(replace(TINY, vocab_size=768), use_signals=True, **options).to(DEVICE)


def trajectories() -> list[Trajectory]:
    signals, row = [0.5] * SIGNAL_FEATURES, [0.5] * len(FEATURES)
    return [
        Trajectory([4, 5, 6, 7, 8, 9], [1, 3], [signals, signals], [row, row], [2, 4, 5]),
        Trajectory([4, 5, 6], [2], [signals], [row], []),
    ]


class TestNetworks:
    def test_a_pass_over_whole_sequences(self) -> None:
        logits = sequence_logits(decoder_there(0), torch.ones(2, 7, dtype=torch.long, device=DEVICE))
        assert (logits.device, tuple(logits.shape)) == (DEVICE, (2, 7, TINY.vocab_size))

    @pytest.mark.parametrize("wanted", [None, [1, 1, 1], [2, 3, 1]])
    def test_a_pass_over_caches(self, wanted: list[int] | None) -> None:
        model = decoder_there(0)
        caches = [Cache(TINY, torch.float32, DEVICE) for _ in PROMPTS]
        with torch.inference_mode():
            for _ in range(2):
                hidden = extend_cached(model, caches, PROMPTS, wanted)
        assert (hidden.device, len(hidden)) == (DEVICE, sum(wanted or [3, 5, 1]))
        assert {cache.copy().store.device for cache in caches} == {DEVICE}

    def test_a_forgotten_device_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, tokens = decoder_there(0), torch.ones(1, 5, dtype=torch.long, device=DEVICE)
        with pytest.raises(AssertionError, match=r"embedding: a tensor of shape \(5,\) is on cpu"):
            sequence_logits(model, tokens.cpu())
        with pytest.raises(AssertionError, match=r"index: a tensor of shape \(5,\) is on cpu"):
            model(tokens[0], torch.arange(5), decoder.causal(1))
        monkeypatch.setattr(kv_cache, "causal_mask", lambda count, end, reach, groups, like: torch.zeros(count * groups, reach))
        with pytest.raises(AssertionError, match="is on cpu"), torch.inference_mode():
            extend_cached(model, [Cache(TINY, torch.float32, DEVICE)], [[4, 5, 6]])

    def test_quantizing_and_running_a_variant(self) -> None:
        model = network(0, replace(TINY, intermediate_size=64)).to(DEVICE)
        batch = torch.ones(1, 6, dtype=torch.long, device=DEVICE)
        variant = quantize_model(model, Scheme.parse("w4g32-rtn"))
        assert sequence_logits(variant, batch).device == DEVICE
        materialize(variant, torch.bfloat16)
        assert sequence_logits(variant.to(torch.bfloat16), batch).dtype == torch.bfloat16


def engine_there(mode: CacheMode = CacheMode.OWN) -> TorchEngine:
    models = {"low": decoder_there(1), "high": decoder_there(2)}
    return TorchEngine(models, end_token=END, fingerprint="tiny", cache_mode=mode)


def contexts_of(engine: Any) -> list[Any]:
    contexts = [engine.open(seed) for seed in range(len(PROMPTS))]
    for context, tokens in zip(contexts, PROMPTS, strict=True):
        engine.extend(context, tokens)
    return contexts


class TestPlaying:
    @pytest.mark.parametrize("mode", list(CacheMode))
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_every_call_of_the_engine(self, mode: CacheMode, temperature: float) -> None:
        engine = engine_there(mode)
        contexts = contexts_of(engine)
        sampling = Sampling(temperature, max_tokens=4)
        for tries in ([None] * 3, [TRIE] * 3):
            generations = engine.generate(contexts, ["low", "high", "low"], tries, sampling)
            assert all(generation.tokens for generation in generations)
        (rows,) = engine.score([engine.fork(contexts[0])], [[5, 6, END]], "high")
        assert (type(rows), rows.shape, rows.dtype) == (np.ndarray, (3, TINY.vocab_size), np.float32)
        engine.rollback(contexts[1], 3)
        engine.extend(contexts[1], [9, 9])
        engine.score(contexts, [[5]] * 3, "low")
        for context in contexts:
            engine.close(context)

    def test_a_memory_of_generations(self) -> None:
        engine = CachingEngine(engine_there())
        for _ in range(2):
            engine.generate(contexts_of(engine), ["high"] * 3, [TRIE] * 3, Sampling())
        assert engine.hits == 3

    @pytest.mark.parametrize("mode", list(CacheMode))
    def test_labels(self, mode: CacheMode) -> None:
        engine = engine_there(mode)
        contexts = contexts_of(engine)
        labels = measure(engine, contexts, [TRIE, None, TRIE], lambda tokens: " ".join(map(str, tokens)))
        assert [label.kl_sum for label in labels] == [0.0] * 3
        assert exact_divergence(engine, contexts[0], [[5, 6, 7, END], [9, END]]) == 0.0

    def test_the_router(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.load(TOKENIZER)
        network = EncoderNetwork(replace(TINY, vocab_size=768), use_signals=True, use_probe=True, features=FEATURES)
        router = EncoderRouter(network, tokenizer, ("low", "high"), model="tiny").to("meta")
        views = [View(("look",), probe=SIGNALS), View(("look", "go"), ("left",), ("low",), (SIGNALS,), probe=SIGNALS)]
        states = [router.begin(seed) for seed in range(2)]
        for _ in range(2):
            assert {d.variant for d in router.decide(views, states)} <= {"low", "high"}
        router.save(tmp_path)


class TestTraining:
    def test_supervised(self) -> None:
        data = [LabelledTrajectory(t, [0.1, 2.0][: len(t.decisions)]) for t in trajectories()]
        scores, hidden = trajectory_logits(encoder_there(), trajectories())
        assert {scores.device, hidden.device} == {DEVICE}
        assert supervised_loss(encoder_there(), data, 1.0, (0.5, 0.5), 0.3).device == DEVICE
        assert predict(encoder_there(), data).shape == (3,)
        curve = train_supervised(encoder_there(), data, data, 1.0, SupervisedRecipe(epochs=2), 0.3)
        assert [row["epoch"] for row in curve] == [0, 1, 2]

    def test_grpo(self) -> None:
        policy, frozen = encoder_there(), encoder_there()
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
        samples = [
            Sample(t, list(range(n)), [1] * n, [0.5] * n, [1.0] * n) for t in trajectories() for n in (len(t.decisions),)
        ]
        loss = learn(policy, frozen, optimizer, samples, (0.0, 1.0), 4.0, GrpoRecipe())
        assert np.isfinite(loss)

    def test_the_language_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = torch.autocast

        def autocast(kind: str, dtype: torch.dtype) -> torch.autocast:
            assert kind == DEVICE.type  # which autocast does not know
            return real("cpu", dtype)

        def adamw(*arguments: Any, fused: bool, **options: Any) -> torch.optim.AdamW:
            return plain(*arguments, **options)  # a fused one has no kernel for this device

        plain = torch.optim.AdamW
        monkeypatch.setattr(torch, "autocast", autocast)
        monkeypatch.setattr(torch.optim, "AdamW", adamw)

        def train(tokens: int) -> Decoder:
            recipe = language_model.LanguageModelRecipe(tokens=tokens, batch_tokens=32, pool=4)
            source = WeightedSequence([1, 2, 3, 4], [1.0] * 4)
            return language_model.train_language_model(
                TINY, recipe, lambda _: source, tmp_path, end_token=END, pad_token=0, device=DEVICE
            )

        for tokens in (8, 40):  # the second goes on from the first's checkpoint
            assert train(tokens).cos.device == DEVICE
