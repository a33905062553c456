"""Variants on disk: one safetensors file with packed planes, grids, and JSON metadata in its header. No rounding here.

Only the quantized layers are stored; where they differ in their widths, the header says which has which. The rest comes from
the model that the variant was made from, which is recognised by its fingerprint: a variant of another model with the same
shapes is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bitroute.errors import CapabilityError, ConfigError, DataError
from bitroute.nn.fingerprint import fingerprint
from bitroute.quantization.grid import Grid
from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.model import M, block_linears, quantized_linears, replace, share_weights
from bitroute.quantization.packing import row_bytes
from bitroute.quantization.scheme import Scheme, top_planes
from bitroute.store.files import write_atomic

FORMAT = "bitroute-variant-1"


@dataclass(frozen=True, slots=True)
class VariantInfo:
    """What a file says about itself. `model` is the fingerprint of the unquantized model; `size` is in bytes on disk.

    `widths` are the bits of each layer by name, where a scheme leaves them open (else it is empty). `bits_per_weight` is what
    a weight of the quantized layers takes in the file, scales and offsets included.
    """

    scheme: Scheme
    model: str
    calibration: str
    size: int
    widths: Mapping[str, int]
    bits_per_weight: float

    def width(self, name: str) -> int:
        """The bits of a layer."""
        return self.widths[name] if self.scheme.mixed else self.scheme.levels[0]


def save_variant(path: Path, variant: nn.Module, scheme: Scheme, *, model: str, calibration: str = "") -> VariantInfo:
    """Write `variant`, made with `scheme` from the model of fingerprint `model`, to `path`, directories included; whole or not
    at all.

    `calibration` says in a few words what GPTQ was calibrated on. Raises ConfigError when `variant` is not stored as `scheme`
    says, DataError when the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    layers = quantized_linears(variant)
    for name, layer in layers.items():
        group = scheme.group_of(layer.in_features)
        if layer.grid_bits not in scheme.levels or (layer.widths, layer.group) != (scheme.planes(layer.grid_bits), group):
            raise ConfigError(f"{name}: planes of {layer.widths} bits in groups of {layer.group} do not match scheme {scheme}")
        tensors |= {f"{name}.{key}": tensor for key, tensor in _parts(layer).items()}
    if not tensors:
        raise ConfigError(f"{type(variant).__name__} has no quantized layers to save")
    about: dict[str, Any] = {"format": FORMAT, "scheme": str(scheme), "model": model, "calibration": calibration}
    if scheme.mixed:
        about["widths"] = {name: layer.grid_bits for name, layer in layers.items()}
    write_atomic(path, save(tensors, metadata={"bitroute": json.dumps(about)}))
    return read_info(path)


def read_info(path: Path) -> VariantInfo:
    """What the variant file at `path` holds, from its header. Raises DataError when that is not a variant."""
    with _Reader(path) as reader:
        return reader.info


def load_variant(path: Path, base: M, bits: int | None = None, *, model: str | None = None) -> M:
    """The variant at `path` of the model `base`, which it shares everything but the block layers with.

    `model` is the fingerprint of `base`; where it is not given, it is computed.

    With `bits` below the scheme's, the slice of a nested store: only its planes are read. Raises DataError when the file is
    missing, truncated, not a variant, or a variant of another model; CapabilityError when it has no slice of `bits` bits.
    """
    with _Reader(path) as reader:
        info = reader.info
        if (model or fingerprint(base.state_dict())) != info.model:
            raise DataError(f"{path}: made from another model than this {type(base).__name__} (fingerprint {info.model[:12]})")
        variant = share_weights(base)
        replace(variant, {name: reader.layer(name, linear, bits) for name, linear in block_linears(variant).items()})
    return variant


def _parts(layer: QuantizedLinear) -> dict[str, Tensor]:
    planes = {f"plane{index}": plane for index, plane in enumerate(layer.planes)}
    return planes | {"scale": layer.scale, "offset": layer.offset}


def _open(path: Path) -> Any:
    return safe_open(path, framework="pt")  # untyped, and so Any


class _Reader:
    """An open variant file: safetensors' own errors become one-line DataErrors that name the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        try:
            self._file = _open(path)
            about = json.loads((self._file.metadata() or {})["bitroute"])
            if about["format"] != FORMAT:
                raise DataError(f"{path}: format {about['format']!r} is not {FORMAT!r}")
            self.info = self._info(about)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a whole variant file ({error})") from error
        except ConfigError as error:
            raise DataError(f"{path}: {error}") from error

    def __enter__(self) -> _Reader:
        self._file.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__(None, None, None)

    def layer(self, name: str, linear: nn.Linear, bits: int | None) -> QuantizedLinear:
        """The stored form of `linear`, on its device; with `bits` its slice, from the planes of that alone."""
        outputs, inputs, scheme = linear.out_features, linear.in_features, self.info.scheme
        try:
            whole = self.info.width(name)
            widths = top_planes(scheme.planes(whole), whole if bits is None else bits)
        except KeyError:
            raise DataError(f"{self._path}: does not say how wide {name} is") from None
        except CapabilityError as error:
            raise CapabilityError(f"{self._path}: {error}") from error
        planes = [self._tensor(f"{name}.plane{i}", (outputs, row_bytes(inputs, width))) for i, width in enumerate(widths)]
        groups = inputs // scheme.group_of(inputs)
        scale, offset = (self._tensor(f"{name}.{part}", (outputs, groups)) for part in ("scale", "offset"))
        return QuantizedLinear(planes, widths, Grid(scale, offset, whole), inputs, linear.bias).to(linear.weight.device)

    def _info(self, about: dict[str, Any]) -> VariantInfo:
        """The header as a value, and what the tensors take: rows are counted to the byte."""
        scheme, widths = Scheme.parse(about["scheme"]), about.get("widths", {})
        weights = size = 0
        for key in self._file.keys():  # noqa: SIM118  (no dictionary)
            (name, _, part), (rows, columns) = key.rpartition("."), self._file.get_slice(key).get_shape()
            size += rows * columns * (1 if part.startswith("plane") else 2)
            if part == "plane0":
                weights += rows * (columns * 8 // scheme.planes(widths.get(name, scheme.levels[0]))[0])
        return VariantInfo(
            scheme=scheme,
            model=about["model"],
            calibration=about["calibration"],
            size=self._path.stat().st_size,
            widths=widths,
            bits_per_weight=8 * size / weights,
        )

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise DataError(f"{self._path}: lacks {name} ({error})") from error
        if tuple(tensor.shape) != shape:
            raise DataError(f"{self._path}: {name} has shape {tuple(tensor.shape)}, this model needs {shape}")
        return tensor
