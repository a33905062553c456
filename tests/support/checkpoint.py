"""A model directory small enough to make in a test: random weights of the reference architecture, the agent's tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from bitroute.envs.models import find_model
from bitroute.nn.checkpoint import config_json
from bitroute.nn.decoder import Decoder, DecoderConfig, RopeScaling
from bitroute.nn.tokenizer import Tokenizer

TOKENIZER = find_model("alfworld-agent")
CONFIG = DecoderConfig(
    vocab_size=768,
    hidden_size=128,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=64,
)
LLAMA_CONFIG = replace(
    CONFIG,
    num_hidden_layers=2,
    max_position_embeddings=2048,
    tie_word_embeddings=False,
    qk_norm=False,
    attention_bias=True,
    rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256),
)


def save_network(model: Decoder, directory: Path) -> Path:
    """Write weights and config.json of a network; a tied head is not stored twice."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config_json(model.config, end_token=3, pad_token=0)))
    weights = {name: tensor.detach().contiguous() for name, tensor in model.named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_checkpoint(directory: Path, seed: int = 0, config: DecoderConfig = CONFIG) -> Path:
    """Write the files of a checkpoint into `directory`; every width is a multiple of 128, the group of the default scheme."""
    tokenizer = Tokenizer.load(TOKENIZER)
    tokenizer.save(directory)
    torch.manual_seed(seed)
    weights = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in Decoder(config).named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    values = config_json(config, end_token=tokenizer.end, pad_token=tokenizer.pad)
    (directory / "config.json").write_text(json.dumps(values))
    return directory
