"""The identity of a set of weights: one hash. Knows tensors and their names; refuses to know models, files and formats."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over the sorted names, the shapes and the values of `state`, usually `model.state_dict()`.

    Half-precision values are hashed as float32: a lossless cast (a bf16 checkpoint hosted in float32) keeps the fingerprint,
    a lossy one (float32 hosted in bf16: other weights) changes it. Layout in memory and device play no part.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if tensor.dtype in {torch.float16, torch.bfloat16}:
            tensor = tensor.float()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
