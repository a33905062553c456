"""Making a variant of a model: every block layer rounded to nearest, or calibrated front to back with GPTQ. No files here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import nn
from tqdm import tqdm

from bitroute.errors import ConfigError, DataError
from bitroute.quantization.gptq import Elimination, Hessian, gptq
from bitroute.quantization.grid import encode, fit_clipped_grid, fit_grid
from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.mixing import choose_widths, measure_costs
from bitroute.quantization.model import M, block_linears, replace, share_weights
from bitroute.quantization.scheme import Scheme
from bitroute.quantization.stages import CalibrationBatches, walk


def quantize_model(model: M, scheme: Scheme, calibration: CalibrationBatches[M] | None = None) -> M:
    """A variant of `model`: its block layers in `scheme`, everything else shared with it. `model` itself stays as it was.

    GPTQ goes front to back: a layer is calibrated on what reaches it through the layers that are already quantized; layers that
    read the same input (queries, keys, values) are done together. Where layers differ in their widths, these are chosen first.
    Raises ConfigError when calibration is needed and there is none or a layer does not divide into groups, DataError when a
    layer's weights or activations are not finite or calibration misses it.
    """
    variant = share_weights(model)
    linears = block_linears(variant)
    for name, linear in linears.items():
        if linear.in_features % scheme.group_of(linear.in_features):
            raise ConfigError(f"{name}: {linear.in_features} inputs do not divide into groups of {scheme.group} ({scheme})")
    if not scheme.calibrated:
        replace(variant, {name: _quantized(name, linear, scheme, scheme.levels[0], None) for name, linear in linears.items()})
        return variant
    if calibration is None or not calibration.batches:
        raise ConfigError(f"scheme {scheme}: {'GPTQ' if scheme.method == 'gptq' else 'a mean width'} needs calibration batches")
    if scheme.mixed:
        candidates = _candidates(model, linears, scheme, calibration)
        weights = {name: linear.weight.numel() for name, linear in linears.items()}
        widths = choose_widths(measure_costs(model, candidates, calibration), weights, scheme.bits)
    else:
        widths = dict.fromkeys(linears, scheme.levels[0])
    if scheme.method == "rtn":
        replace(variant, {name: _quantized(name, linear, scheme, widths[name], None) for name, linear in linears.items()})
        return variant
    done: dict[str, QuantizedLinear] = {}
    running = share_weights(model).to(calibration.dtype)  # the passes are made on it
    with torch.no_grad(), tqdm(desc=str(scheme), total=len(linears), unit="layer", disable=None, leave=False) as bar:
        for stage in walk(running, block_linears(running), calibration):
            solved = _eliminated(stage.names[0], stage.hessian)
            layers = {name: _quantized(name, linears[name], scheme, widths[name], solved) for name in stage.names}
            replace(running, {name: layer.materialized(calibration.dtype) for name, layer in layers.items()})
            done |= layers
            bar.update(len(stage.names))
    replace(variant, done)
    return variant


def _candidates(
    model: M, linears: Mapping[str, nn.Linear], scheme: Scheme, calibration: CalibrationBatches[M]
) -> dict[int, dict[str, QuantizedLinear]]:
    """Every layer at each width that it may have, by width and name; all are calibrated on what the whole model feeds them."""
    found: dict[int, dict[str, QuantizedLinear]] = {bits: {} for bits in scheme.levels}
    if scheme.method == "rtn":
        for (name, linear), (bits, layers) in product(linears.items(), found.items()):
            layers[name] = _quantized(name, linear, scheme, bits, None)
        return found
    with torch.no_grad():
        running = share_weights(model).to(calibration.dtype)
        for stage in walk(running, block_linears(running), calibration):
            solved = _eliminated(stage.names[0], stage.hessian)
            for name, (bits, layers) in product(stage.names, found.items()):
                layers[name] = _quantized(name, linears[name], scheme, bits, solved)
    return found


def _eliminated(name: str, hessian: Hessian) -> Elimination:
    try:
        return Elimination.of(hessian.matrix)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error


def _quantized(name: str, linear: nn.Linear, scheme: Scheme, bits: int, solved: Elimination | None) -> QuantizedLinear:
    group = scheme.group_of(linear.in_features)
    try:
        if solved is None:
            grid = fit_grid(linear.weight, bits, group)
            codes = encode(linear.weight, grid)
        else:
            grid = fit_clipped_grid(linear.weight, bits, group, solved.diagonal)
            codes = gptq(linear.weight, grid, solved)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    return QuantizedLinear.from_codes(codes, grid, scheme.planes(bits), linear.bias)
