"""The network against transformers, which computes it in another way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import DecoderConfig, frequencies, sequence_logits
from support.checkpoint import save_network
from support.networks import LLAMA, TINY, network

SHAPES = {
    "qwen3": replace(TINY, rope_theta=500.0),
    "qwen3, untied": replace(TINY, tie_word_embeddings=False),
    "qwen3, with biases, scaled": replace(TINY, attention_bias=True, rope_scaling=LLAMA.rope_scaling),
    "llama": replace(TINY, qk_norm=False),
    "llama, untied, scaled": LLAMA,
    "llama, with biases": replace(LLAMA, attention_bias=True, mlp_bias=True, rope_scaling=None),
    "llama, one kv head, wide heads": replace(LLAMA, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True),
    "llama, no groups": replace(LLAMA, num_key_value_heads=4, rms_norm_eps=1e-5),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_transformers_computes_the_same_logits(tmp_path: Path, shape: DecoderConfig) -> None:
    transformers = pytest.importorskip("transformers")
    directory = save_network(network(1, shape), tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ours = load_model(directory, torch.float32)
    tokens = torch.randint(0, shape.vocab_size, (3, 100), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(tokens).logits
        found = sequence_logits(ours, tokens)
    assert expected.std() > 0.3  # there is something to compare
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint_that_transformers_wrote_is_read(tmp_path: Path, architecture: str, shards: int) -> None:
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1000.0}
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        rope_parameters={**rope, "original_max_position_embeddings": 32} if architecture == "Llama" else None,
        bos_token_id=1,
        eos_token_id=[2, 3],
    )
    torch.manual_seed(2)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(3.0) if parameter.dim() == 2 else parameter.uniform_(0.5, 2.0)
    theirs.save_pretrained(tmp_path, max_shard_size="100MB" if shards == 1 else "16KB")
    assert (len(list(tmp_path.glob("model-*.safetensors"))) >= shards) == (shards > 1)
    ours = load_model(tmp_path, torch.float32)
    tokens = torch.arange(60).view(2, 30)
    with torch.inference_mode():
        expected = theirs(tokens).logits
        assert expected.std() > 0.3
        assert (sequence_logits(ours, tokens) - expected).abs().max() < 1e-4


def test_scaled_frequencies_are_kept_where_fast_and_slowed_where_slow() -> None:
    shape = replace(LLAMA, head_dim=16)
    plain, scaled = frequencies(replace(shape, rope_scaling=None)), frequencies(shape)
    turns = 64 * plain / (2 * torch.pi)
    ratio = plain / scaled
    assert ratio[turns > 4].tolist() == [1.0] * int((turns > 4).sum())
    assert ratio[turns < 1].tolist() == pytest.approx([8.0] * int((turns < 1).sum()))
    between = ratio[(turns > 1) & (turns < 4)]
    assert len(between) > 0
    assert ((between > 1) & (between < 8)).all()


@pytest.mark.parametrize("shape", [TINY, LLAMA])
def test_wanted_rows_are_those_of_the_whole(shape: DecoderConfig) -> None:
    model = network(0, shape)
    tokens = torch.arange(12)
    rows = torch.tensor([3, 11])

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert len(k) == len(v) == 12
        groups = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q, keys) / q.shape[2] ** 0.5
        reach = tokens if len(q) == 12 else rows
        scores = scores.masked_fill(tokens > reach.unsqueeze(1), float("-inf"))
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)

    with torch.inference_mode():
        whole, some = model(tokens, tokens, attend), model(tokens, tokens, attend, rows)
        assert torch.allclose(some, whole[rows], atol=1e-5)
        assert torch.allclose(model.logits(whole), sequence_logits(model, tokens.unsqueeze(0))[0], atol=1e-4)
