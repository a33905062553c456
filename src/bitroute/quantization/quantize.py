"""Making a variant of a model: every block layer rounded to nearest, or calibrated front to back with GPTQ. No files here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bitroute.errors import ConfigError, DataError
from bitroute.quantization.gptq import Hessian, gptq
from bitroute.quantization.grid import encode, fit_grid
from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.model import M, block_linears, replace, share_weights
from bitroute.quantization.scheme import Scheme


@dataclass(frozen=True)  # slots and a subscripted generic do not go together before Python 3.12
class CalibrationBatches(Generic[M]):
    """Inputs to calibrate on, and how to run a model on one: `run(model, batch)`; its result is ignored.

    Every position of a batch counts, so batches hold no padding. `source` says in a few words where they come from.
    """

    batches: Sequence[Tensor]
    run: Callable[[M, Tensor], object]
    source: str


def quantize_model(model: M, scheme: Scheme, calibration: CalibrationBatches[M] | None = None) -> M:
    """A variant of `model`: its block layers in `scheme`, everything else shared with it. `model` itself stays as it was.

    GPTQ goes front to back: a layer is calibrated on what reaches it through the layers that are already quantized; layers that
    read the same input (queries, keys, values) are done together. Raises ConfigError when GPTQ has no calibration or a layer
    does not divide into groups, DataError when a layer's weights or activations are not finite or calibration misses it.
    """
    variant = share_weights(model)
    linears = block_linears(variant)
    for name, linear in linears.items():
        if linear.in_features % scheme.group:
            raise ConfigError(f"{name}: {linear.in_features} inputs do not divide into groups of {scheme.group} ({scheme})")
    if scheme.method == "rtn":
        replace(variant, {name: _quantized(name, linear, scheme, None) for name, linear in linears.items()})
        return variant
    if calibration is None or not calibration.batches:
        raise ConfigError(f"scheme {scheme}: GPTQ needs calibration batches")
    with torch.no_grad():
        stages = _stages(variant, linears, calibration)
        for stage in tqdm(stages, desc=str(scheme), unit="stage", disable=None, leave=False):
            hessian = _moments(variant, linears[stage[0]], calibration)
            replace(variant, {name: _quantized(name, linears[name], scheme, hessian) for name in stage})
    return variant


def _quantized(name: str, linear: nn.Linear, scheme: Scheme, hessian: Hessian | None) -> QuantizedLinear:
    try:
        grid = fit_grid(linear.weight, scheme.bits, scheme.group)
        codes = encode(linear.weight, grid) if hessian is None else gptq(linear.weight, grid, hessian.matrix)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    return QuantizedLinear.from_codes(codes, grid, scheme.widths, linear.bias)


def _stages(variant: M, linears: dict[str, nn.Linear], calibration: CalibrationBatches[M]) -> list[list[str]]:
    """Layers that are fed the same tensor, in the order in which a forward pass comes to them."""
    stages: dict[int, list[str]] = {}
    alive: list[Tensor] = []  # a freed tensor's id could come back

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not any(name in stage for stage in stages.values()):
            alive.append(args[0])
            stages.setdefault(id(args[0]), []).append(name)

    hooks = [linear.register_forward_pre_hook(partial(note, name)) for name, linear in linears.items()]
    try:
        calibration.run(variant, calibration.batches[0])
    finally:
        for hook in hooks:
            hook.remove()
    missed = linears.keys() - {name for stage in stages.values() for name in stage}
    if missed:
        raise DataError(f"{min(missed)}: calibration ({calibration.source}) never runs this layer")
    return list(stages.values())


class _Arrived(Exception):  # noqa: N818  (not an error: it ends a forward pass whose rest nobody needs)
    pass


def _moments(variant: M, linear: nn.Linear, calibration: CalibrationBatches[M]) -> Hessian:
    """Second moments of the input of `linear` over all batches; each forward pass ends there."""
    hessian = Hessian(linear.in_features, linear.weight.device)

    def collect(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        hessian.add(args[0])
        raise _Arrived

    hook = linear.register_forward_pre_hook(collect)
    try:
        for batch in calibration.batches:
            try:
                calibration.run(variant, batch)
            except _Arrived:
                continue
    finally:
        hook.remove()
    return hessian
