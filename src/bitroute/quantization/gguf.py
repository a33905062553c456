"""A checkpoint as one GGUF file, which llama.cpp runs: weights, tokenizer and chat template. Nothing is run here.

As in every variant, the block layers alone are stored in low bits. Embeddings (they are the head as well) stay float16, norms
float32, as llama.cpp wants them. The tokenizer must be byte-level BPE behind GPT-2's pre-tokenizer, as this package's are, or
behind SmolLM's.
Schemes are llama.cpp's own types (`gguf-f16`, `gguf-q8_0`, `gguf-q4_0`, `gguf-q3_k`, `gguf-q2_k`), or a round-to-nearest scheme
of this package up to 4 bits (`gguf-w2g128-rtn`): llama.cpp has no such types, but its Q4_1 (4-bit codes, a scale and an offset
for 32 weights) holds their weights exactly, if not as small. Q3_K and Q2_K need rows of a multiple of 256 weights; a layer with
others is stored in Q4_0, as large as the type that llama.cpp's own tool falls back to.
Format: the GGUF specification of ggml, with the key and tensor names that llama.cpp reads for `qwen3` and for `llama`. In a
`llama` file the rows of queries and keys go in another order, since llama.cpp turns neighbouring dimensions there, not halves.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, TokenType, quants

from bitroute.errors import ConfigError, DataError
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder, DecoderConfig, frequencies
from bitroute.nn.fingerprint import fingerprint
from bitroute.quantization.kquants import BLOCK, q2_k, q3_k
from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.model import block_linears, quantized_linears
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.store.files import replacing

PREFIX: Final = "gguf-"
FINGERPRINT: Final = "bitroute.fingerprint"  # of the checkpoint that a file was made from

_TYPES: Final = {
    "gguf-f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "gguf-q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "gguf-q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "gguf-q3_k": (GGMLQuantizationType.Q3_K, LlamaFileType.MOSTLY_Q3_K_S),
    "gguf-q2_k": (GGMLQuantizationType.Q2_K, LlamaFileType.MOSTLY_Q2_K_S),
}
_K_QUANTS: Final = {GGMLQuantizationType.Q3_K: q3_k, GGMLQuantizationType.Q2_K: q2_k}
_FALLBACK: Final = GGMLQuantizationType.Q4_0  # of a K-quant where rows do not divide into its blocks
_HOLDER: Final = (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1)  # of this package's schemes
_BLOCK: Final = 32  # weights that share a scale

BLOCK_NAMES: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP_NAMES: Final = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True, slots=True)
class GgufScheme:
    """How block layers are stored: llama.cpp's type and its number for the whole file; `own` is the scheme that Q4_1 holds."""

    name: str
    kind: GGMLQuantizationType
    file_type: LlamaFileType
    own: Scheme | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scheme called `text`, e.g. `gguf-q4_0`. Raises ConfigError when there is none."""
        if text in _TYPES:
            return cls(text, *_TYPES[text])
        own = Scheme.parse(text.removeprefix(PREFIX)) if text.startswith(f"{PREFIX}w") else None
        if own is None or own.bits > 4 or own.nested is not None or own.calibrated:
            raise ConfigError(f"unknown scheme {text!r}: expected {', '.join(_TYPES)}, or gguf-w<2..4>g<group>-rtn")
        return cls(text, *_HOLDER, own)

    @property
    def bits_per_weight(self) -> float:
        """What one weight takes, its share of the block's scale and offset included."""
        weights, size = GGML_QUANT_SIZES[self.kind]
        return 8 * size / weights


def gguf_path(directory: Path, model: Path, scheme: str) -> Path:
    """Where the file of a scheme is kept."""
    return directory / f"{model.resolve().name}-{scheme.removeprefix(PREFIX)}.gguf"


def export_gguf(model: Path, scheme: str, out: Path) -> Path:
    """Write the checkpoint in `model` as `scheme` into the directory `out` unless that file is there already; its path.

    Equal checkpoints give equal files. Raises ConfigError for an unknown scheme, DataError when the checkpoint or its tokenizer
    cannot be read or stored so, and when the file in `out` is damaged or another model's.
    """
    form, path = GgufScheme.parse(scheme), gguf_path(out, model, scheme)
    network = load_model(model, torch.float32)
    name = fingerprint(network.state_dict())
    if path.exists():
        if read_fingerprint(path) != name:
            raise DataError(f"{path}: was made from another model than {model}; remove it to make it again")
        return path
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, _architecture(network.config, model))
        writer.add_name(model.resolve().name)
        writer.add_file_type(form.file_type)
        writer.add_quantization_version(2)
        writer.add_string(FINGERPRINT, name)
        _add_shape(writer, network)
        _add_tokenizer(writer, model, network.config.vocab_size)
        _add_weights(writer, network, form)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def read_fingerprint(path: Path) -> str:
    """The fingerprint of the checkpoint that the file at `path` was made from. Raises DataError when there is none."""
    try:
        field = GGUFReader(path).get_field(FINGERPRINT)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise DataError(f"{path}: not a whole GGUF file ({error})") from error
    if field is None:
        raise DataError(f"{path}: not made by bitroute (it has no {FINGERPRINT})")
    return str(field.contents())


def _architecture(config: DecoderConfig, model: Path) -> str:
    """llama.cpp's name of it. Raises DataError for one that llama.cpp does not compute."""
    if not config.qk_norm:
        return "llama"
    if config.attention_bias or config.mlp_bias or config.rope_scaling is not None:
        raise DataError(f"{model / 'config.json'}: llama.cpp's qwen3 has neither biases nor scaled rotary positions")
    return "qwen3"


def _add_shape(writer: GGUFWriter, network: Decoder) -> None:
    config = network.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, model: Path, size: int) -> None:
    """Tokens, merges, special tokens and chat template; ids up to `size` that the tokenizer does not use are filled up."""
    spec, settings = _read_json(model / "tokenizer.json"), _read_json(model / "tokenizer_config.json")
    try:
        bpe, pre = spec["model"], _pre_tokenizer(spec["pre_tokenizer"])
        if bpe["type"] != "BPE" or pre is None:
            raise DataError(f"{model / 'tokenizer.json'}: not byte-level BPE behind GPT-2's pre-tokenizer or SmolLM's")
        special = {token["content"]: token["id"] for token in spec["added_tokens"]}
        ids: dict[str, int] = bpe["vocab"] | special
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
        end, pad, template = ids[settings["eos_token"]], ids[settings["pad_token"]], settings["chat_template"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{model}: the tokenizer's files lack {error}") from error
    if not set(ids.values()) <= set(range(size)):
        raise DataError(f"{model / 'tokenizer.json'}: has token ids beyond the model's {size}")
    tokens = [f"[unused {number}]" for number in range(size)]
    kinds = [TokenType.UNUSED] * size
    for token, number in ids.items():
        tokens[number], kinds[number] = token, TokenType.CONTROL if token in special else TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(pad)
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)


def _pre_tokenizer(split: Any) -> str | None:
    """llama.cpp's name of what cuts a text before BPE, None for one that it does not have: GPT-2's rule, or SmolLM's, by which
    each digit stands alone besides.
    """
    parts = split["pretokenizers"] if split["type"] == "Sequence" else [split]
    *first, last = parts
    if (last["type"], last["add_prefix_space"], last["use_regex"]) != ("ByteLevel", False, True):
        return None
    return {(): "gpt-2", (("Digits", True),): "smollm"}.get(tuple((p["type"], p.get("individual_digits")) for p in first))


def _add_weights(writer: GGUFWriter, network: Decoder, form: GgufScheme) -> None:
    config = network.config
    low = block_linears(network)
    grids = quantized_linears(quantize_model(network, form.own)) if form.own else {}
    state = network.state_dict()
    if config.tie_word_embeddings:
        del state["lm_head.weight"]  # llama.cpp takes the embeddings
    if config.rope_scaling is not None:
        slowed = frequencies(replace(config, rope_scaling=None)) / frequencies(config)
        writer.add_tensor("rope_freqs.weight", slowed.numpy(), raw_dtype=GGMLQuantizationType.F32)
    for key, tensor in state.items():
        (name, _, part), values = key.rpartition("."), tensor.numpy()
        kind = GGMLQuantizationType.F32 if values.ndim == 1 else form.kind if name in low else GGMLQuantizationType.F16
        if kind in _K_QUANTS and values.shape[-1] % BLOCK:
            kind = _FALLBACK
        try:
            with np.errstate(over="raise"):
                data = _blocks(grids[name]) if name in grids and part == "weight" else _stored(values, kind)
        except (FloatingPointError, quants.QuantError) as error:
            raise DataError(f"{key}: cannot be stored as {kind.name} ({error})") from error
        if not config.qk_norm and name.endswith(("q_proj", "k_proj")):
            data = _interleaved(data, config.head_dim)
        writer.add_tensor(f"{_gguf_name(name)}.{part}", data, raw_dtype=kind)


def _stored(values: npt.NDArray[np.float32], kind: GGMLQuantizationType) -> npt.NDArray[Any]:
    return _K_QUANTS[kind](values) if kind in _K_QUANTS else quants.quantize(values, kind)


def _interleaved(rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Rows [heads * d, ...] with the two halves of each head's d taken in turn: row i and row i + d/2 become neighbours."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _blocks(layer: QuantizedLinear) -> npt.NDArray[np.uint8]:
    """Q4_1 blocks, uint8 [outputs, bytes]: for every 32 weights scale and offset in float16, then the codes; byte i holds those
    of weights i and i + 16. Raises QuantError where rows do not divide into such blocks.
    """
    if layer.in_features % _BLOCK:
        raise quants.QuantError(f"rows of {layer.in_features} do not divide into blocks of {_BLOCK}")
    codes = layer.codes.numpy().reshape(layer.out_features, -1, 2, _BLOCK // 2)
    grid = torch.stack((layer.scale, layer.offset), dim=-1).repeat_interleave(layer.group // _BLOCK, dim=1).numpy()
    return np.concatenate((grid.view(np.uint8), codes[:, :, 0] | codes[:, :, 1] << 4), axis=-1).reshape(len(codes), -1)


def _gguf_name(name: str) -> str:
    """llama.cpp's name of a layer: `model.layers.0.self_attn.q_proj` is `blk.0.attn_q`."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    return TOP_NAMES[name] if match is None else f"blk.{match[1]}.{BLOCK_NAMES[match[2]]}"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
