"""GPTQ in the open: rounding a matrix so that its outputs on calibration inputs change least. One matrix and one Hessian here.

Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), algorithm 1, with the two refinements of its authors' code: columns in order of decreasing Hessian diagonal,
and grids fixed beforehand (so that this order costs nothing in storage). Here the codes are chosen; the grids come from whoever
asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from bitroute.quantization.grid import Grid

DAMPING = 0.01  # of the mean Hessian diagonal, added to it: the paper's value
BLOCK = 32  # columns that are updated at once; later ones wait for one matrix product. Changes nothing but speed


class Hessian:
    """The second moment of a layer's inputs, E[x x^T], float64 [inputs, inputs]: the Hessian of E||W x - Q x||^2, halved."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self._sum = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.tokens = 0

    def add(self, x: torch.Tensor) -> None:
        """Take in activations [..., inputs]: every leading index is one token."""
        rows = x.detach().flatten(0, -2).float()
        self._sum += rows.T @ rows
        self.tokens += rows.shape[0]

    @property
    def matrix(self) -> torch.Tensor:
        """E[x x^T] over what was added. Raises ValueError when that was nothing or is not finite."""
        if self.tokens == 0:
            raise ValueError("no calibration activations")
        if not bool(self._sum.isfinite().all()):
            raise ValueError("calibration activations are not finite")
        return self._sum / self.tokens


@dataclass(frozen=True, slots=True)
class Elimination:
    """A Hessian made ready: its `diagonal` [inputs], the `order` of its columns [inputs], and in that order the factor U of its
    inverse (H^-1 = U^T U, upper triangular). It serves every matrix that reads these inputs.
    """

    diagonal: torch.Tensor
    order: torch.Tensor
    upper: torch.Tensor

    @classmethod
    def of(cls, hessian: torch.Tensor, damping: float = DAMPING) -> Self:
        """From a Hessian [inputs, inputs], columns in order of decreasing diagonal.

        Raises ValueError when the damped Hessian is not positive definite (damping 0 and dependent inputs).
        """
        diagonal = hessian.diagonal()
        order = diagonal.argsort(descending=True, stable=True)
        h = hessian.double()[order][:, order]
        ridge = torch.where(h.diagonal() > 0, damping * diagonal.double().mean(), 1.0)
        factor, failed = torch.linalg.cholesky_ex(h + torch.diag(ridge))
        if int(failed):
            raise ValueError("the Hessian is not positive definite: use more calibration tokens")
        return cls(diagonal, order, torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True))


def gptq(weight: torch.Tensor, grid: Grid, solved: Elimination) -> torch.Tensor:
    """Codes of `weight` [outputs, inputs] on `grid` under the Hessian that `solved` was made of: uint8 [outputs, inputs].

    Column by column: round, and spread the error over the columns still to come so that the outputs move least. The factor
    U holds in row i what the OBQ update would use at step i, with all earlier columns already eliminated: no inverse has to be
    updated. Inputs that calibration never saw active are rounded to nearest.
    """
    outputs, inputs = weight.shape
    order, upper = solved.order, solved.upper
    owners = order // (inputs // grid.scale.shape[-1])
    remaining = weight.detach().double().T[order]  # a column of the matrix is a row here, in one piece of memory
    codes = torch.empty_like(remaining)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        scale, offset = (part.T[owners[start:stop]].double() for part in (grid.scale, grid.offset))
        step = torch.where(scale > 0, scale, torch.inf)  # a constant group has code 0, as in `encode`
        errors = remaining.new_empty(stop - start, outputs)
        for i in range(stop - start):
            column = remaining[start + i]
            code = ((column - offset[i]) / step[i]).round_().clamp_(0, grid.top)
            error = (column - torch.addcmul(offset[i], scale[i], code)).div_(upper[start + i, start + i])
            remaining[start + i + 1 : stop].addr_(upper[start + i, start + i + 1 : stop], error, alpha=-1)
            codes[start + i], errors[i] = code, error
        remaining[stop:] -= upper[start:stop, stop:].T @ errors
    found = torch.empty(outputs, inputs, dtype=torch.uint8, device=weight.device)
    found[:, order] = codes.T.to(torch.uint8)
    return found


def output_error(weight: torch.Tensor, quantized: torch.Tensor, hessian: torch.Tensor) -> float:
    """E||W x - Q x||^2 / E||W x||^2 under the input moments `hessian`: the share of a layer's output energy that is lost."""
    w, delta = weight.double(), weight.double() - quantized.double()
    return float(((delta @ hessian) * delta).sum() / ((w @ hessian) * w).sum())
