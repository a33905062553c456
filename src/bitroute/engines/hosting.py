"""From a model directory and names of variants to an engine that hosts them. Knows checkpoints and schemes, no text, no
tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bitroute.engines.engine import CacheMode
from bitroute.engines.qwen3 import Qwen3, load_model, sequence_logits
from bitroute.engines.torch import TorchEngine
from bitroute.quantization.fingerprint import fingerprint
from bitroute.quantization.model import materialize
from bitroute.quantization.quantize import Calibration, quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.quantization.store import load_variant, save_variant

HIGH = "bf16"  # the checkpoint as it is: bfloat16 weights


def variant_path(directory: Path, scheme: str) -> Path:
    """Where a quantized variant of a model is kept."""
    return directory / f"{scheme}.safetensors"


def quantize(model_directory: Path, scheme: str, out: Path, calibration: Callable[[], tuple[Sequence[Tensor], str]]) -> Path:
    """Write the variant `scheme` of a model into `out` unless it is there already; its path.

    `calibration` gives token batches [1, t] and says where they come from; GPTQ alone asks for them.
    """
    path = variant_path(out, scheme)
    if path.exists():
        return path
    parsed = Scheme.parse(scheme)
    model = load_model(model_directory, torch.float32)
    identity = fingerprint(model.state_dict())
    if parsed.method == "gptq":
        batches, source = calibration()
        variant = quantize_model(model, parsed, Calibration(batches, sequence_logits, source))
        save_variant(path, variant, parsed, model=identity, calibration=source)
    else:
        save_variant(path, quantize_model(model, parsed), parsed, model=identity)
    return path


def host(
    model_directory: Path,
    schemes: Sequence[str],
    variants: Path,
    *,
    end_token: int,
    cache_mode: CacheMode = CacheMode.OWN,
    dtype: torch.dtype = torch.float32,
) -> TorchEngine:
    """An engine with the ladder `schemes` (cheapest first), quantized variants read from `variants`, and the checkpoint on top.

    Weights are read from low-bit storage and held a second time in `dtype`, so that play runs at the speed of dense products
    whatever the width; what a variant really occupies is reported by `quantization`.
    """
    model = load_model(model_directory, torch.float32)
    identity = fingerprint(model.state_dict())
    ladder: dict[str, Qwen3] = {}
    for scheme in schemes:
        variant = load_variant(variant_path(variants, scheme), model).to(dtype)
        materialize(variant, dtype)
        ladder[scheme] = variant.eval()
    ladder[HIGH] = model.to(dtype).eval()
    return TorchEngine(ladder, end_token=end_token, fingerprint=identity, cache_mode=cache_mode)
