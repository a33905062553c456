"""Products of rows with a constant weight, and what usually follows them in one operation. Knows the machine, no network.

On a processor oneDNN takes a weight that is laid out for it once, and does what follows (SiLU, a factor, a sum) while a part of
the result is at hand: twice as fast for a few rows in bfloat16, and a third faster over a feed-forward layer. In float32 MKL's
own products are as fast or faster on some processors and much slower on others, so there it is measured.
"""

from __future__ import annotations

from functools import lru_cache, partial
from statistics import median
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.device import elapsed

ROWS: Final = 64  # of the products that are measured, and for which weights are laid out
COLUMNS: Final = 512
CLEARLY: Final = 1.2  # times faster: less might come out otherwise at the next start, and with it the last digits of results


class Product(Protocol):
    """y = x W^T + b for rows x [n, inputs]; y [n, outputs]."""

    def __call__(self, x: Tensor) -> Tensor:
        """y"""
        ...

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of y."""
        ...

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """y times `factor` [n, outputs], which may be overwritten."""
        ...

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        """y plus `term` [n, outputs]."""
        ...


def make_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """The fastest product with `weight` [outputs, inputs] on its device and in its dtype. `weight` may be kept or copied."""
    packed = weight.device.type == "cpu" and packs(weight.dtype)
    return PackedProduct(weight, bias) if packed else PlainProduct(weight, bias)


class PlainProduct:
    """A product by torch's own choice, on any device."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(F.linear(x, self.weight, self.bias), inplace=True)

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).mul_(factor)

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).add_(term)


class PackedProduct:
    """A product by oneDNN, whose weight is laid out for it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS), bias

    def __call__(self, x: Tensor) -> Tensor:
        return self._then(x, "none")

    def silu(self, x: Tensor) -> Tensor:
        return self._then(x, "swish")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        return self._with(x, factor, "mul")

    def plus(self, x: Tensor, term: Tensor) -> Tensor:
        return self._with(x, term, "add")

    def _then(self, x: Tensor, name: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, name, [], "")
        return y

    def _with(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, name)
        return y


@lru_cache
def packs(dtype: torch.dtype) -> bool:
    """Whether products in `dtype` on this processor are made with laid out weights."""
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32 and gain() > CLEARLY


def gain(repeats: int = 9) -> float:
    """How many times faster a float32 product is with a laid out weight (the median of a few runs, in turns)."""
    x, weight = torch.ones(ROWS, COLUMNS), torch.ones(COLUMNS, COLUMNS)
    candidates = PlainProduct(weight), PackedProduct(weight)
    device = torch.device("cpu")
    times = [[elapsed(partial(candidate, x), device) for candidate in candidates] for _ in range(1 + repeats)][1:]
    plain, packed = (median(column) for column in zip(*times, strict=True))
    return float(plain / packed)
