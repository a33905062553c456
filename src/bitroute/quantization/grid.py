"""Uniform grids for groups of weights, and rounding to the nearest point. Knows one matrix at a time; no layers, no files.

A group is `group` consecutive inputs of one output row. Its grid is asymmetric: point q lies at offset + scale * q, with
q = 0 .. 2**bits - 1, from the group's smallest weight to its largest, or within a range that loses less. `scale` and `offset`
are kept in float16, and the codes are chosen after that rounding, so what is stored is exactly what was optimised. Against an
integer zero point the float offset costs one more byte a group and spares moving the grid so that zero is a point, which at 2
bits can waste a third of the range.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

SHRUNK = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the way from the middle of a group's range to either end


@dataclass(frozen=True, slots=True)
class Grid:
    """Grids of a matrix [outputs, inputs]: float16 `scale` and `offset`, both [outputs, inputs / group]."""

    scale: torch.Tensor
    offset: torch.Tensor
    bits: int

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1


def fit_grid(weight: torch.Tensor, bits: int, group: int) -> Grid:
    """The min-max grid of each group of `weight` [outputs, inputs].

    Raises ValueError when inputs is no multiple of `group` or when a weight or a group's range leaves float16.
    A rounding error stays within scale / 2 while a group's smallest weight is at most 3 ranges away from zero (8 bits; further
    at fewer): beyond that the float16 offset itself is the coarser one, with a relative error of 2**-11.
    """
    inputs = weight.shape[-1]
    if inputs % group:
        raise ValueError(f"{inputs} inputs are no multiple of the group size {group}")
    grouped = weight.detach().double().reshape(weight.shape[0], -1, group)
    offset = grouped.amin(-1).half()
    scale = ((grouped.amax(-1) - offset.double()).clamp(min=0) / ((1 << bits) - 1)).half()
    if not (bool(offset.isfinite().all()) and bool(scale.isfinite().all()) and bool(weight.isfinite().all())):
        raise ValueError("a weight is not finite in float16")
    return Grid(scale, offset, bits)


def fit_clipped_grid(weight: torch.Tensor, bits: int, group: int, importance: torch.Tensor) -> Grid:
    """The grid of each group of `weight` [outputs, inputs] on which rounding to nearest loses least.

    What is lost is the sum of squared errors, each weighed by the `importance` [inputs] of its input (its mean square: the
    diagonal of the Hessian). Both ends of the range are moved inwards, each by one of SHRUNK; with few bits a finer grid is
    worth more than the few weights at its ends. Raises as `fit_grid` does.
    """
    best = fit_grid(weight, bits, group)
    grouped = weight.detach().float().reshape(weight.shape[0], -1, group)
    weights = importance.float().reshape(1, -1, group)
    low, high = grouped.amin(-1), grouped.amax(-1)
    middle = (low + high) / 2
    scale, offset = best.scale.clone(), best.offset.clone()
    least = torch.full_like(low, torch.inf)
    for below, above in product(SHRUNK, SHRUNK):
        start = (middle + (low - middle) * below).half()
        step = ((middle + (high - middle) * above - start.float()).clamp(min=0) / best.top).half()
        spread, origin = step.float().unsqueeze(-1), start.float().unsqueeze(-1)
        codes = ((grouped - origin) / torch.where(spread > 0, spread, 1.0)).round_().clamp_(0, best.top)
        lost = (torch.addcmul(origin, spread, codes).sub_(grouped).square_() * weights).sum(-1)
        better = lost < least
        least, scale, offset = (torch.where(better, new, old) for new, old in ((lost, least), (step, scale), (start, offset)))
    return Grid(scale, offset, bits)


def encode(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The nearest grid point of each weight: uint8 codes, shaped like `weight` [outputs, inputs]. In float64 throughout."""
    groups = grid.scale.shape[-1]
    grouped = weight.detach().double().reshape(weight.shape[0], groups, -1)
    scale = grid.scale.double().unsqueeze(-1)
    step = torch.where(scale > 0, scale, 1.0)  # a constant group: all its weights are its offset, code 0
    codes = ((grouped - grid.offset.double().unsqueeze(-1)) / step).round().clamp(0, grid.top)
    return torch.where(scale > 0, codes, 0).to(torch.uint8).flatten(-2)


def decode(codes: torch.Tensor, grid: Grid, dropped: int = 0) -> torch.Tensor:
    """float32 weights at the `codes` [outputs, inputs].

    With `dropped` > 0 the codes are only the top bits of the grid's: each stands for a cell of 2**dropped neighbouring points
    and is decoded at the cell's middle (mid-rise), which is what bounds and centres the error of a slice.
    """
    groups = grid.scale.shape[-1]
    levels = codes.float().reshape(codes.shape[0], groups, -1) * (1 << dropped) + ((1 << dropped) - 1) / 2
    return torch.addcmul(grid.offset.float().unsqueeze(-1), grid.scale.float().unsqueeze(-1), levels).flatten(-2)
