"""A GGUF file of llama.cpp's `llama` architecture as a checkpoint directory in the format of transformers. Nothing is run here.

Weights are taken out of llama.cpp's blocks one tensor at a time and stored in float16; the tokenizer (byte-level BPE) is built
from the file's metadata, chat template included. In a `llama` file the rows of queries and keys stand in another order, since
llama.cpp turns neighbouring dimensions there, not halves: they are put back.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from gguf import GGUFReader, ReaderTensor, TokenType, dequantize
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from bitroute.errors import DataError
from bitroute.nn.checkpoint import config_json, write_weights
from bitroute.nn.decoder import DecoderConfig
from bitroute.quantization.gguf import BLOCK_NAMES, TOP_NAMES
from bitroute.store.files import write_atomic

# llama.cpp's names of what cuts a text before BPE: whether each digit stands alone. Behind it comes GPT-2's own rule.
_PRE_TOKENIZERS: Final = {"gpt-2": False, "smollm": True}
_BLOCKS: Final = {name: ours for ours, name in BLOCK_NAMES.items()}
_TOP: Final = {name: ours for ours, name in TOP_NAMES.items()}
_PERMUTED: Final = re.compile(r"self_attn\.[qk]_proj")


def import_gguf(path: Path, directory: Path) -> None:
    """Write the model in `path` into `directory`: configuration, weights, and the tokenizer with its chat template.

    Raises DataError naming the file when it is no whole GGUF file or describes what this package does not run.
    """
    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path}: not a whole GGUF file ({error})") from error
    try:
        config = _config(fields, {tensor.name for tensor in reader.tensors}, path)
        backend, settings = _tokenizer(fields, path)
        end, pad = int(fields["tokenizer.ggml.eos_token_id"]), int(fields["tokenizer.ggml.padding_token_id"])
    except KeyError as error:
        raise DataError(f"{path}: lacks {error}") from error
    values = config_json(config, end_token=end, pad_token=pad) | {"torch_dtype": "float16"}
    stored = {_name(tensor, path): tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in stored.items()}
    write_weights(
        directory / "model.safetensors", shapes, torch.float16, lambda name: _weight(name, stored[name], config.head_dim)
    )
    write_atomic(directory / "config.json", json.dumps(values, indent=2) + "\n")
    write_atomic(directory / "tokenizer.json", backend.to_str() + "\n")
    write_atomic(directory / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def _config(fields: dict[str, Any], tensors: set[str], path: Path) -> DecoderConfig:
    """The network's shape. Raises DataError for another architecture, KeyError for a missing field."""
    architecture = fields["general.architecture"]
    if architecture != "llama":
        raise DataError(f"{path}: holds the architecture {architecture!r}; only llama is read")
    scaled = [name for name in fields if name.startswith("llama.rope.scaling.")]
    if scaled or "rope_freqs.weight" in tensors:
        raise DataError(f"{path}: has scaled rotary positions, which are not read from GGUF files")
    heads, width = int(fields["llama.attention.head_count"]), int(fields["llama.embedding_length"])
    return DecoderConfig(
        vocab_size=int(fields["llama.vocab_size"]),
        hidden_size=width,
        intermediate_size=int(fields["llama.feed_forward_length"]),
        num_hidden_layers=int(fields["llama.block_count"]),
        num_attention_heads=heads,
        num_key_value_heads=int(fields["llama.attention.head_count_kv"]),
        head_dim=int(fields.get("llama.attention.key_length", width // heads)),
        max_position_embeddings=int(fields["llama.context_length"]),
        rope_theta=float(fields.get("llama.rope.freq_base", 10_000.0)),
        rms_norm_eps=_decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        tie_word_embeddings="output.weight" not in tensors,
        qk_norm=False,
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
    )


def _decimal(value: float) -> float:
    """The shortest decimal number that float32 stores as `value`: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _tokenizer(fields: dict[str, Any], path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer and its `tokenizer_config.json`. Raises DataError for another kind, KeyError for a missing field."""
    kind, pre = fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        known = " or ".join(_PRE_TOKENIZERS)
        raise DataError(f"{path}: the tokenizer is {kind!r} behind {pre!r}; read is gpt2 behind {known}")
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, split]) if _PRE_TOKENIZERS[pre] else split
    backend.decoder = decoders.ByteLevel()
    special = [token for token, of in zip(tokens, kinds, strict=True) if of == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: None if number is None else tokens[number] for name, number in ids.items()},
        "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(fields["llama.context_length"]),
    }
    if template := fields.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    return backend, settings


_SPECIAL: Final = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}


def _weight(name: str, stored: ReaderTensor, head_dim: int) -> torch.Tensor:
    """A tensor in float32, under its name of transformers."""
    values = dequantize(stored.data, stored.tensor_type)
    return torch.from_numpy(np.array(_halved(values, head_dim) if _PERMUTED.search(name) else values))


def _name(tensor: ReaderTensor, path: Path) -> str:
    """The name of transformers: `blk.0.attn_q.weight` is `model.layers.0.self_attn.q_proj.weight`."""
    name, _, part = tensor.name.rpartition(".")
    match = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    found = _TOP.get(name) if match is None else _BLOCKS.get(match[2])
    if found is None:
        raise DataError(f"{path}: holds {tensor.name}, which is no part of a llama")
    return f"{found}.{part}" if match is None else f"model.layers.{match[1]}.{found}.{part}"


def _halved(rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Rows [heads * d, ...] in which neighbours were a pair, with each head's pairs as two halves: row 2i goes to i, 2i + 1 to
    i + d/2.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
