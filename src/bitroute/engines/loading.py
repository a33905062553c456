"""From a model directory and names of variants to an engine that hosts them. Knows checkpoints and schemes, no text, no
tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from bitroute.engines.spec import EngineSpec
from bitroute.engines.torch import TorchEngine
from bitroute.errors import DataError
from bitroute.nn.checkpoint import Weights, load_model, read_config, weight_files
from bitroute.nn.decoder import Decoder, sequence_logits
from bitroute.nn.device import pick_device, pick_dtype
from bitroute.nn.fingerprint import fingerprint
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.quantization.stages import CalibrationBatches
from bitroute.quantization.store import load_variant, read_info, save_variant
from bitroute.store.files import write_atomic


def variant_path(directory: Path, scheme: str) -> Path:
    """Where a quantized variant of a model is kept."""
    return directory / f"{scheme}.safetensors"


def identity(model_directory: Path) -> str:
    """The fingerprint of a checkpoint: what its variants and its routers were made for.

    Its files are read once, tensor by tensor, and again only when they have changed. Raises DataError when one is missing,
    truncated, or not what its name promises.
    """
    read_config(model_directory)
    files = [model_directory / "config.json", *weight_files(model_directory)]
    return _identity(model_directory, tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=8)
def _identity(model_directory: Path, _: tuple[tuple[Path, int, int], ...]) -> str:
    return fingerprint(Weights(model_directory))


def quantize(
    model_directory: Path,
    scheme: str,
    out: Path,
    calibration: Callable[[], tuple[Sequence[Tensor], str]],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the variant `scheme` of a model into `out` unless it is there already; its path.

    A variant that lies with the model is copied. `calibration` gives token batches [1, t] and says where they come from; GPTQ
    and mean widths alone ask for them, and make their passes in `dtype`. Raises ConfigError for an unknown scheme, DataError
    when the model cannot be read and when the file in `out` is damaged or another model's.
    """
    parsed = Scheme.parse(scheme)
    path = variant_path(out, scheme)
    name = identity(model_directory)
    for stored in (path, variant_path(model_directory, scheme)):
        if stored.exists():
            if read_info(stored).model != name:
                raise DataError(f"{stored}: was made from another model than {model_directory}; remove it to make it again")
            if stored != path:
                write_atomic(path, stored.read_bytes())
            return path
    model = load_model(model_directory, torch.float32)
    if parsed.calibrated:
        batches, source = calibration()
        variant = quantize_model(model, parsed, CalibrationBatches(batches, sequence_logits, source, dtype))
        save_variant(path, variant, parsed, model=name, calibration=source)
    else:
        save_variant(path, quantize_model(model, parsed), parsed, model=name)
    return path


def dtype_of(spec: EngineSpec) -> torch.dtype:
    """The arithmetic that `spec` asks for: measured where it says `auto`."""
    config = read_config(spec.model)
    return pick_dtype(spec.dtype, pick_device(spec.device), config.hidden_size, config.intermediate_size)


def load_torch(spec: EngineSpec, end_token: int) -> TorchEngine:
    """An engine with the ladder of `spec`: quantized variants read from `spec.variants`, and the checkpoint on top.

    A nested scheme stands for its slice (`w8n4g64-rtn` runs at 4 bits). Weights are read from low-bit storage and held a second
    time in the spec's dtype, so that play runs at the speed of dense products whatever the width; what a variant really
    occupies is reported by `quantization`. Raises DataError when a file is missing, damaged or another model's, CapabilityError
    when the device is not there.
    """
    device, dtype = pick_device(spec.device), dtype_of(spec)
    model = load_model(spec.model, dtype).to(device)
    name = spec.fingerprint or identity(spec.model)
    ladder: dict[str, Decoder] = {}
    for scheme in spec.schemes:
        path = variant_path(spec.variants, scheme)
        ladder[scheme] = load_variant(path, model, Scheme.parse(scheme).nested, model=name)
    ladder[spec.high] = model
    return TorchEngine(ladder, end_token=end_token, fingerprint=name, cache_mode=spec.cache_mode)
