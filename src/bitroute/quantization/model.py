"""Models with quantized layers: which layers, how they are put in, and what memory they take. Knows nn.Module, no architecture.

The layers that are quantized are the `nn.Linear` of the blocks: those below an `nn.ModuleList` or `nn.Sequential`, which have a
number in their name (`model.layers.3.mlp.up_proj`). Embeddings, norms and the head stay as they are, and every variant
shares them with the model that it was made from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from bitroute.errors import ConfigError
from bitroute.quantization.linear import QuantizedLinear

M = TypeVar("M", bound=nn.Module)


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers to quantize, by name, in the order of definition. Raises ConfigError when there is none."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split("."))
    }
    if not found:
        raise ConfigError(f"{type(model).__name__} has no linear layers inside numbered blocks: nothing to quantize")
    return found


def quantized_linears(model: nn.Module) -> dict[str, QuantizedLinear]:
    """The quantized layers of a variant, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def share_weights(model: M) -> M:
    """A copy of `model` with modules of its own on the same tensors, frozen and in eval mode.

    Replacing a layer or casting the copy leaves the original alone; writing into a tensor in place does not.
    """
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach()
    return copy.deepcopy(model, memo).eval()


def replace(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put `layers` in the place of the submodules of the same names."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)


def slice_model(model: M, bits: int) -> M:
    """The variant of the top `bits` bits of a nested variant; it takes no memory of its own.

    Raises CapabilityError when the planes of `model` do not end there.
    """
    sliced = share_weights(model)
    replace(sliced, {name: layer.slice(bits) for name, layer in quantized_linears(sliced).items()})
    return sliced


def materialize(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep every decoded weight of a variant in memory, in `dtype`."""
    for layer in quantized_linears(model).values():
        layer.materialize(dtype)


def memory_bytes(*models: nn.Module) -> int:
    """Bytes of all parameters and buffers of `models` together, materialized weights included; shared storage counts once."""
    storages: dict[tuple[torch.device, int], int] = {}
    for model in models:
        for tensor in chain(model.parameters(), model.buffers()):
            storage = tensor.untyped_storage()
            storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
