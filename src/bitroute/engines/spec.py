"""What a process loads to host the variants of one model. A value: nothing is imported, read or checked here but names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitroute.engines.engine import CacheMode
from bitroute.errors import ConfigError
from bitroute.nn.device_names import check_device, check_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """A model, its ladder, and how it is computed.

    `kind` is the engine's name in engines/registry.py and `model` the checkpoint's directory. `schemes` name the quantized
    variants, cheapest first, which lie in `variants`; `high` is what the checkpoint as it is stored is called. `device` is
    `auto` (cuda, else mps, else cpu), `cpu`, `cuda`, `cuda:N` or `mps`. `dtype` is that of products and caches, of DTYPES in
    nn/device_names.py; `auto` picks float32 or bfloat16, whichever is measured to be faster. `fingerprint` is that of the
    checkpoint where it is known already: reading a large one takes a while, and every worker would. Raises ConfigError for a
    dtype or a form of device that nobody knows, and for a ladder that names a variant twice.
    """

    model: Path
    schemes: tuple[str, ...]
    variants: Path
    kind: str = "torch"
    high: str = "bf16"
    cache_mode: CacheMode = CacheMode.OWN
    device: str = "auto"
    dtype: str = "auto"
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        check_device(self.device)
        check_dtype(self.dtype)
        if len(set(self.ladder)) < len(self.ladder):
            raise ConfigError(f"engine: a variant is named twice in {', '.join(self.ladder)}")

    @property
    def ladder(self) -> tuple[str, ...]:
        """The names of all variants, cheapest first; the last one is the checkpoint's."""
        return (*self.schemes, self.high)
