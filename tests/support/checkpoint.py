"""A model directory small enough to make in a test: random weights of the reference architecture, the agent's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from bitroute.nn.checkpoint import config_json
from bitroute.nn.decoder import Decoder, DecoderConfig
from bitroute.nn.tokenizer import Tokenizer

TOKENIZER = Path(__file__).parents[2] / "models" / "alfworld-agent"
CONFIG = DecoderConfig(
    vocab_size=768,
    hidden_size=128,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=64,
)


def write_checkpoint(directory: Path, seed: int = 0) -> Path:
    """Write the files of a checkpoint into `directory`; every width is a multiple of 128, the group of the default scheme."""
    tokenizer = Tokenizer.load(TOKENIZER)
    tokenizer.save(directory)
    torch.manual_seed(seed)
    weights = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in Decoder(CONFIG).named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = config_json(CONFIG, end_token=tokenizer.end, pad_token=tokenizer.pad)
    (directory / "config.json").write_text(json.dumps(config))
    return directory
