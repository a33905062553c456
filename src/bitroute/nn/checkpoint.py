"""Checkpoint directories in the format of transformers: `config.json` and safetensors. Knows files, computes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bitroute.errors import DataError
from bitroute.nn.decoder import Decoder, DecoderConfig


def read_config(directory: Path) -> DecoderConfig:
    """Read `directory/config.json`. Raises DataError when it is missing, damaged, or describes another architecture."""
    path = directory / "config.json"
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot read the model configuration ({error})") from error
    if values.get("model_type") != "qwen3":
        raise DataError(f"{path}: model_type is {values.get('model_type')!r}; this engine runs 'qwen3'")
    rope = values.get("rope_parameters") or {}
    refused = {
        "rope_parameters": rope.get("rope_type", "default") != "default",
        "rope_scaling": bool(values.get("rope_scaling")),
        "attention_bias": bool(values.get("attention_bias")),
        "use_sliding_window": bool(values.get("use_sliding_window")),
        "hidden_act": values.get("hidden_act", "silu") != "silu",
    }
    if any(refused.values()):
        field = next(field for field, is_refused in refused.items() if is_refused)
        raise DataError(f"{path}: {field} is {values[field]!r}; this engine does not compute that")
    if "rope_theta" in rope:
        values.setdefault("rope_theta", rope["rope_theta"])
    fields = dataclasses.fields(DecoderConfig)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}")
    found = {f.name: values[f.name] for f in fields if f.name in values}
    for f in fields:
        value = found.get(f.name, f.default)
        if f.type == "bool":
            fits = isinstance(value, bool)
        else:
            fits = type(value) in ((int,) if f.type == "int" else (int, float)) and value > 0
        if not fits:
            raise DataError(f"{path}: {f.name} is {value!r}, which is no {'' if f.type == 'bool' else 'positive '}{f.type}")
    config = DecoderConfig(**found)
    if config.num_attention_heads % config.num_key_value_heads:
        raise DataError(f"{path}: num_attention_heads is no multiple of num_key_value_heads")
    return config


def config_json(config: DecoderConfig, *, end_token: int, pad_token: int) -> dict[str, Any]:
    """The `config.json` that transformers reads."""
    return dataclasses.asdict(config) | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "bos_token_id": None,
        "eos_token_id": end_token,
        "pad_token_id": pad_token,
        "torch_dtype": "bfloat16",
    }


def load_model(directory: Path, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """A checkpoint directory (`config.json`, `*.safetensors`) as a model in `dtype`, ready to run.

    Raises DataError naming the file when a part is missing, truncated or of another shape.
    """
    model = Decoder(read_config(directory))
    paths = sorted(directory.glob("model*.safetensors"))
    if not paths:
        raise DataError(f"{directory}: no model*.safetensors here")
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            state |= load_file(path)
        except Exception as error:  # safetensors raises its own SafetensorError, an Exception, for whatever is wrong inside
            raise DataError(f"{path}: not a readable safetensors file ({error})") from error
    if model.config.tie_word_embeddings:
        state.setdefault("lm_head.weight", state.get("model.embed_tokens.weight", torch.empty(0)))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{directory}: weights do not fit config.json ({str(error).splitlines()[-1].strip()})") from error
    return model.to(dtype).eval()
