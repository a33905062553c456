"""GPTQ in the open: rounding a matrix so that its outputs on calibration inputs change least. One matrix and one Hessian here.

Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(arXiv 2210.17323), algorithm 1, with the two refinements of its authors' code: columns in order of decreasing Hessian diagonal,
and grids fixed beforehand (so that this order costs nothing in storage). The grids are those of rounding to nearest; only the
choice of codes differs.
"""

from __future__ import annotations

import torch

from bitroute.quantization.grid import Grid, encode

DAMPING = 0.01  # of the mean Hessian diagonal, added to it: the paper's value
BLOCK = 128  # columns that are updated at once; later ones wait for one matrix product. Changes nothing but speed


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


def gptq(weight: torch.Tensor, grid: Grid, hessian: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Codes of `weight` [outputs, inputs] on `grid` under `hessian` [inputs, inputs]: uint8 [outputs, inputs].

    Column by column: round, and spread the error over the columns still to come so that the outputs move least. The factor
    U of the inverse Hessian (H^-1 = U^T U, upper triangular) holds in row i what the OBQ update would use at step i, with all
    earlier columns already eliminated: no inverse has to be updated. Inputs that calibration never saw active are rounded to
    nearest. Raises ValueError when the damped Hessian is not positive definite (damping 0 and dependent inputs).
    """
    outputs, inputs = weight.shape
    diagonal = hessian.diagonal()
    order = diagonal.argsort(descending=True, stable=True)
    h = hessian.double()[order][:, order]
    ridge = torch.where(h.diagonal() > 0, damping * diagonal.double().mean(), 1.0)
    h = h + torch.diag(ridge)
    factor, failed = torch.linalg.cholesky_ex(h)
    if int(failed):
        raise ValueError("the Hessian is not positive definite: use more calibration tokens")
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)

    remaining = weight.detach().double()[:, order]
    group = inputs // grid.scale.shape[-1]
    owners = order // group
    scale, offset = grid.scale[:, owners], grid.offset[:, owners]  # of each column, in the order of visit
    codes = torch.empty(outputs, inputs, dtype=torch.uint8, device=weight.device)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = remaining.new_empty(outputs, stop - start)
        for i in range(start, stop):
            column = Grid(scale[:, i : i + 1], offset[:, i : i + 1], grid.bits)
            code = encode(remaining[:, i : i + 1], column)
            point = column.offset.double() + column.scale.double() * code.double()
            error = (remaining[:, i : i + 1] - point) / upper[i, i]
            remaining[:, i + 1 : stop] -= error * upper[i, i + 1 : stop]
            codes[:, order[i]] = code[:, 0]
            errors[:, i - start] = error[:, 0]
        remaining[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes


def output_error(weight: torch.Tensor, quantized: torch.Tensor, hessian: torch.Tensor) -> float:
    """E||W x - Q x||^2 / E||W x||^2 under the input moments `hessian`: the share of a layer's output energy that is lost."""
    w, delta = weight.double(), weight.double() - quantized.double()
    return float(((delta @ hessian) * delta).sum() / ((w @ hessian) * w).sum())
