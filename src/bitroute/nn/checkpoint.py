"""Checkpoint directories in the format of transformers: `config.json` and safetensors. Knows files, computes nothing.

Two architectures are read, Llama and Qwen3; `model_type` and `architectures` say which one it is. A configuration that asks for
something else, or for a feature that `nn/decoder.py` does not compute, is refused before a weight is read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from bitroute.errors import DataError
from bitroute.nn.decoder import Decoder, DecoderConfig, RopeScaling, rotary_tables
from bitroute.store.files import replacing

ARCHITECTURES: Final = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}  # by model_type
_INDEX: Final = "model.safetensors.index.json"
_EMBEDDING: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"  # the embedding again where both are tied, whether it is stored or not
_STORED: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # safetensors' names
_FREQUENCIES: Final = ".rotary_emb.inv_freq"  # that old checkpoints store: they are computed anyway


def read_config(directory: Path) -> DecoderConfig:
    """Read `directory/config.json`. Raises DataError when it is missing, damaged, or describes another architecture.

    What the file leaves out means what transformers takes it to mean.
    """
    path = directory / "config.json"
    try:
        values = {key: value for key, value in dict(json.loads(path.read_text(encoding="utf-8"))).items() if value is not None}
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot read the model configuration ({error})") from error
    kind, layers = _model_type(values, path), values.get("layer_types", [])
    refused = {
        "use_sliding_window": bool(values.get("use_sliding_window")),
        "layer_types": layers != ["full_attention"] * (len(layers) if isinstance(layers, list) else 1),
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "partial_rotary_factor": values.get("partial_rotary_factor", 1) != 1,
    }
    for field, is_refused in refused.items():
        if is_refused:
            raise DataError(f"{path}: {field} is {values[field]!r}; this engine does not compute that")
    values = {"tie_word_embeddings": False, **_attention(values, kind), **_rope(values, path), "qk_norm": kind == "qwen3"}
    fields = dataclasses.fields(DecoderConfig)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}")
    found = {f.name: values[f.name] for f in fields if f.name in values}
    for f in fields:
        if f.name != "rope_scaling":
            _check(f.name, found.get(f.name, f.default), str(f.type), path)
    config = DecoderConfig(**found)
    if config.num_attention_heads % config.num_key_value_heads:
        raise DataError(f"{path}: num_attention_heads is no multiple of num_key_value_heads")
    if config.head_dim % 2:
        raise DataError(f"{path}: head_dim is {config.head_dim}; rotary positions need an even one")
    return config


def config_json(config: DecoderConfig, *, end_token: int, pad_token: int) -> dict[str, Any]:
    """The `config.json` that transformers reads."""
    kind = "qwen3" if config.qk_norm else "llama"
    shape = config.to_json()
    scaling = {"rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = {"rope_type": "llama3", **shape.pop("rope_scaling")}
    shape.pop("qk_norm", None)
    return shape | {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "rope_parameters": {**scaling, "rope_theta": config.rope_theta},
        "bos_token_id": None,
        "eos_token_id": end_token,
        "pad_token_id": pad_token,
        "torch_dtype": "bfloat16",
    }


class Weights(Mapping[str, Tensor]):
    """The tensors of a checkpoint directory, as `load_model` names them. Each is read from its file when it is asked for.

    Raises DataError naming the file that is missing, truncated or no safetensors file.
    """

    def __init__(self, directory: Path) -> None:
        config = read_config(directory)
        self._files: dict[str, tuple[Path, str]] = {}  # where a tensor lies, and what it is called there
        self._open: dict[Path, Any] = {}
        for path in weight_files(directory):
            with _readable(path):
                file: Any = safe_open(path, framework="pt")
                stored = {name: (path, name) for name in file.keys()}  # noqa: SIM118  (the file is no mapping)
            self._open[path] = file
            self._files |= {name: at for name, at in stored.items() if not name.endswith(_FREQUENCIES)}
        if config.tie_word_embeddings and _EMBEDDING in self._files:
            self._files[_HEAD] = self._files[_EMBEDDING]

    def __getitem__(self, name: str) -> Tensor:
        path, stored = self._files[name]
        with _readable(path):
            tensor: Tensor = self._open[path].get_tensor(stored)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def load_model(directory: Path, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """A checkpoint directory (`config.json`, `*.safetensors`) as a model in `dtype`, ready to run.

    Raises DataError naming the file when a part is missing, truncated or of another shape.
    """
    config = read_config(directory)
    state = dict(Weights(directory))
    with torch.device("meta"):  # nothing is drawn at random only to be replaced
        model = Decoder(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise DataError(f"{directory}: weights do not fit config.json ({str(error).splitlines()[-1].strip()})") from error
    del state  # the tensors as they were stored go as each is cast
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.cos, model.sin = rotary_tables(config)
    return model.to(dtype).eval()


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: those that its index names, or `model*.safetensors` where it has none.

    Raises DataError when there is none, or the index names one that is missing.
    """
    index = directory / _INDEX
    if not index.exists() or (directory / "model.safetensors").exists():
        paths = sorted(directory.glob("model*.safetensors"))
        if not paths:
            raise DataError(f"{directory}: no model*.safetensors here")
        return paths
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{index}: cannot read which files hold the weights ({type(error).__name__}: {error})") from error
    for name in sorted(names):
        if Path(name).name != name or not (directory / name).is_file():
            raise DataError(f"{index}: names {name}, which is not in this directory")
    return [directory / name for name in sorted(names)]


def write_weights(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, tensor: Callable[[str], Tensor]
) -> None:
    """Write a safetensors file of tensors in `dtype` (float32, float16 or bfloat16), one after the other: none is kept.

    `tensor` gives each of `shapes` by its name; it is cast. The file replaces atomically; DataError when the disk refuses.
    """
    size, end = torch.empty((), dtype=dtype).element_size(), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        start, end = end, end + size * math.prod(shape)
        header |= {name: {"dtype": _STORED[dtype], "shape": list(shape), "data_offsets": [start, end]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values = tensor(name).detach().to(dtype).contiguous()
            if values.shape != shape:
                raise ValueError(f"{name}: has the shape {tuple(values.shape)}, not {shape}")
            file.write(values.flatten().view(torch.uint8).numpy().data)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong in here is the file's fault: safetensors raises its own SafetensorError, an Exception, for it."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from error


def _model_type(values: Mapping[str, Any], path: Path) -> str:
    """Which architecture a configuration describes: by `model_type`, by `architectures`, or by both, which must then agree."""
    kind, classes = values.get("model_type"), values.get("architectures")
    for name, architecture in ARCHITECTURES.items():
        if kind in (None, name) and (architecture in classes if isinstance(classes, list) else kind is not None):
            return name
    known = " and ".join(f"{architecture} ({name})" for name, architecture in ARCHITECTURES.items())
    told = f"architectures is {classes!r}, " if classes is not None else ""
    raise DataError(f"{path}: {told}model_type is {kind!r}; this engine runs {known}")


def _attention(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The configuration with the number and size of heads that a Llama's may leave out."""
    found = dict(values)
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if kind == "llama" and type(width) is int and type(heads) is int and heads > 0:
        found.setdefault("num_key_value_heads", heads)
        if width % heads == 0:
            found.setdefault("head_dim", width // heads)
    return found


def _rope(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` from whichever field tells: `rope_parameters` (transformers 5) or `rope_scaling`."""
    found: dict[str, Any] = {}
    for field in ("rope_parameters", "rope_scaling"):
        rope = values.get(field) or {}
        kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else None
        if kind not in ("default", "llama3") or rope.get("partial_rotary_factor", 1) != 1:
            raise DataError(f"{path}: {field} is {rope!r}; this engine does not compute that")
        if "rope_theta" in rope:
            found["rope_theta"] = rope["rope_theta"]
        if kind == "llama3":
            numbers = {}
            for f in dataclasses.fields(RopeScaling):
                if f.name not in rope:
                    raise DataError(f"{path}: {field} lacks {f.name}")
                _check(f"{field}.{f.name}", rope[f.name], str(f.type), path)
                numbers[f.name] = rope[f.name]
            found["rope_scaling"] = RopeScaling(**numbers)
            if found["rope_scaling"].low_freq_factor >= found["rope_scaling"].high_freq_factor:
                raise DataError(f"{path}: {field}.low_freq_factor is not below high_freq_factor")
    if "rope_theta" in values:
        found["rope_theta"] = values["rope_theta"]
    return {"rope_scaling": None, **found}


def _check(name: str, value: Any, kind: str, path: Path) -> None:
    """Refuse a value that is not what the field holds. `kind` is bool, int or float; numbers must be positive."""
    if kind == "bool":
        fits = isinstance(value, bool)
    else:
        fits = type(value) in ((int,) if kind == "int" else (int, float)) and value > 0
    if not fits:
        raise DataError(f"{path}: {name} is {value!r}, which is no {'' if kind == 'bool' else 'positive '}{kind}")
