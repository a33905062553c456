"""The network that only reads against the decoder that it was made from; passes in pieces against one pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bitroute.nn.decoder import Decoder, DecoderConfig, causal
from bitroute.nn.fused import FusedDecoder
from bitroute.nn.kv_cache import Cache, Part, extend_cached, pieces
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from support.networks import LLAMA, TINY, network

BIASED = replace(LLAMA, attention_bias=True, mlp_bias=True, num_attention_heads=6, num_key_value_heads=2)
PROMPTS = [[4, 5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16, 17, 18]]
CPU = torch.device("cpu")


def random_decoder(config: DecoderConfig) -> Decoder:
    """A network in which every norm and bias has a say."""
    model = network(3, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(-1.0, 1.0) if name.endswith("bias") else parameter.uniform_(0.5, 2.0)
    return model


def caches(count: int, config: DecoderConfig, dtype: torch.dtype = torch.float32) -> list[Cache]:
    return [Cache(config, dtype, CPU) for _ in range(count)]


@pytest.mark.parametrize("config", [TINY, LLAMA, BIASED], ids=["qwen3", "llama", "biased"])
@pytest.mark.parametrize("wanted", [None, [1, 1, 1], [2, 0, 5]])
@torch.inference_mode()
def test_it_computes_what_the_decoder_computes(config: DecoderConfig, wanted: list[int] | None) -> None:
    model = random_decoder(config)
    fused, mine, theirs = FusedDecoder(model), caches(3, config), caches(3, config)
    for _ in range(2):  # from nothing, and after a past
        found = extend_cached(fused, mine, PROMPTS, wanted)
        expected = extend_cached(model, theirs, PROMPTS, wanted)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4
        assert (fused.logits(found) - model.logits(expected)).abs().max() < 1e-3
        assert [cache.length for cache in mine] == [cache.length for cache in theirs]


@torch.inference_mode()
def test_rows_without_a_cache() -> None:
    model = random_decoder(LLAMA)
    tokens = torch.tensor(PROMPTS[2])

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads = torch.arange(4).view(2, 2).t().flatten()  # by group, not by kv head
        return causal(1)(layer, q[:, heads.argsort()], k, v)[:, heads]

    positions = torch.arange(len(tokens))
    found = FusedDecoder(model)(tokens, positions, attend)
    assert (found - model(tokens, positions, causal(1))).abs().max() < 1e-4


@torch.inference_mode()
def test_quantized_layers_are_read_once() -> None:
    variant = quantize_model(network(1, replace(TINY, hidden_size=64, intermediate_size=64)), Scheme.parse("w4g32-rtn"))
    fused, config = FusedDecoder(variant), variant.config
    for layer in variant.model.layers:
        del layer.mlp.up_proj.plane0  # the codes are not needed any more
    assert extend_cached(fused, caches(3, config), PROMPTS, [1, 1, 1]).isfinite().all()


@torch.inference_mode()
def test_in_bfloat16_it_is_as_near_as_the_decoder() -> None:
    exact = random_decoder(LLAMA)
    expected = extend_cached(exact, caches(3, LLAMA), PROMPTS)
    rounded = random_decoder(LLAMA).to(torch.bfloat16)
    errors = [
        (extend_cached(model, caches(3, LLAMA, torch.bfloat16), PROMPTS).float() - expected).pow(2).mean().sqrt()
        for model in (FusedDecoder(rounded), rounded)
    ]
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_pass_in_pieces_is_one_pass(size: int, dtype: torch.dtype) -> None:
    fused = FusedDecoder(random_decoder(TINY).to(dtype))
    wanted, whole, cut = [5, 1, 3], caches(3, TINY, dtype), caches(3, TINY, dtype)
    fused.piece = None
    expected = extend_cached(fused, whole, PROMPTS, wanted)
    fused.piece = size
    found = extend_cached(fused, cut, PROMPTS, wanted)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.2)
    assert [cache.length for cache in cut] == [len(tokens) for tokens in PROMPTS]


def test_pieces_hold_all_tokens_in_order() -> None:
    here, there = caches(2, TINY)
    found = pieces([Part(here, [1, 2, 3, 4, 5], 2), Part(there, [6, 7], 1)], 3)
    assert [[(part.tokens, part.wanted) for part in piece] for piece in found] == [
        [([1, 2, 3], 0)],
        [([4, 5], 2), ([6], 0)],
        [([7], 1)],
    ]
    assert [part.cache for piece in found for part in piece] == [here, here, there, there]
