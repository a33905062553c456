"""An adapter as a directory: `adapter.safetensors` in bfloat16, and `adapter.json`, which says what it belongs to and how it
was made. Knows files; of networks it knows how to write one with the adapter merged in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from bitroute.errors import DataError
from bitroute.nn.checkpoint import Weights, read_config, write_weights
from bitroute.nn.lora import LoraShape, merged
from bitroute.store.files import write_atomic

WEIGHTS: Final = "adapter.safetensors"
INFO: Final = "adapter.json"


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter belongs to: the name and the fingerprint of its base, its shape, and what is told of its training."""

    base: str
    fingerprint: str
    shape: LoraShape
    training: Mapping[str, Any]

    @classmethod
    def load(cls, directory: Path) -> AdapterInfo:
        """What `adapter.json` says. Raises DataError when it is missing or damaged."""
        path = directory / INFO
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            shape = LoraShape(int(values["rank"]), float(values["alpha"]))
            return cls(str(values["base"]), str(values["fingerprint"]), shape, dict(values["training"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: cannot be read as an adapter ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, slots=True)
class Adapter:
    """The matrices of an adapter by name (see nn/lora.py), and what they belong to."""

    info: AdapterInfo
    matrices: Mapping[str, Tensor]

    def save(self, directory: Path) -> None:
        """Write both files; each replaces atomically."""
        info = self.info
        small = {name: matrix.detach().to(torch.bfloat16).contiguous().cpu() for name, matrix in self.matrices.items()}
        write_atomic(directory / WEIGHTS, to_bytes(small, metadata={"format": "pt"}))
        values = {"base": info.base, "fingerprint": info.fingerprint, **asdict(info.shape), "training": info.training}
        write_atomic(directory / INFO, json.dumps(values, indent=2) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Adapter:
        """The adapter in a directory. Raises DataError when a file is missing or damaged."""
        info, path = AdapterInfo.load(directory), directory / WEIGHTS
        try:
            return cls(info, load_file(path))
        except Exception as error:  # safetensors raises its own SafetensorError, an Exception
            raise DataError(f"{path}: not a readable safetensors file ({error})") from error

    def merge(self, base: Path, out: Path) -> None:
        """Write the checkpoint in `base` with the adapter merged in, in bfloat16, into the directory `out`.

        Raises DataError when the adapter has a matrix for a layer that the base has not, or of another shape.
        """
        read_config(base)
        weights = Weights(base)
        stored = [name for name in weights if name != "lm_head.weight" or not read_config(base).tie_word_embeddings]
        unknown = {name.partition(".lora_")[0] + ".weight" for name in self.matrices} - set(stored)
        if unknown:
            raise DataError(f"adapter of {self.info.base}: is for {min(unknown)}, which {base} has not")
        shapes = {name: tuple(weights[name].shape) for name in stored}
        write_weights(
            out / "model.safetensors",
            shapes,
            torch.bfloat16,
            lambda name: merged(name, weights[name], self.matrices, self.info.shape),
        )
        values = json.loads((base / "config.json").read_text(encoding="utf-8")) | {"torch_dtype": "bfloat16"}
        write_atomic(out / "config.json", json.dumps(values, indent=2) + "\n")
        for path in [*base.glob("tokenizer*.json"), *base.glob("generation_config.json")]:
            shutil.copyfile(path, out / path.name)
