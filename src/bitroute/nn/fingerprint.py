"""The identity of a set of weights: one hash. Knows tensors and their names; refuses to know models, files and formats."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import torch

CHUNK: Final = 1 << 24  # values that are cast at a time


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over the sorted names, the shapes and the values of `state`, usually `model.state_dict()`.

    Half-precision values are hashed as float32: a lossless cast (a bf16 checkpoint hosted in float32) keeps the fingerprint,
    a lossy one (float32 hosted in bf16: other weights) changes it. Layout in memory and device play no part. One tensor at a
    time is asked of `state`, in the order of the names, and none is kept: a mapping that reads files costs no memory.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        _add(digest, name, state[name])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    """Hash one tensor, of which no more than CHUNK values are cast or brought to the processor at a time."""
    half = tensor.dtype in {torch.float16, torch.bfloat16}
    digest.update(f"{name} {torch.float32 if half else tensor.dtype} {tuple(tensor.shape)}\n".encode())
    for values in torch.split(tensor.detach().reshape(-1), CHUNK):
        part = values.float().cpu() if half else values.cpu()
        digest.update(part.contiguous().view(torch.uint8).numpy().data)
