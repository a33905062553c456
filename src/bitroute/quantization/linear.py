"""A linear layer whose weight is packed codes. Knows its own planes and grid; nothing of the model around it or of files.

The codes lie in one plane, or in a nested store in two: the top bits in the first plane, the rest in the second. A slice holds
the first plane alone, shares it with the full layer, and decodes each cell at its middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows it by)

from bitroute.quantization.grid import Grid, decode
from bitroute.quantization.packing import pack, unpack
from bitroute.quantization.scheme import top_planes


class QuantizedLinear(nn.Module):
    """y = x W^T + bias with W [outputs, inputs] decoded from its planes at each call, or once by `materialize`.

    `planes` hold the codes' most significant bits first, `widths` bits each; `grid_bits` is the width of a whole code, larger
    than the sum of `widths` in a slice. Scale and offset stay float16 whatever dtype the module is moved to.
    """

    scale: Tensor
    offset: Tensor
    dense: Tensor | None

    def __init__(
        self, planes: Sequence[Tensor], widths: Sequence[int], grid: Grid, inputs: int, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.grid_bits = grid.bits
        self.out_features, self.in_features = planes[0].shape[0], inputs
        for index, plane in enumerate(planes):
            self.register_buffer(f"plane{index}", plane)
        self.register_buffer("scale", grid.scale)
        self.register_buffer("offset", grid.offset)
        self.register_buffer("dense", None, persistent=False)
        self.bias = bias

    @classmethod
    def from_codes(cls, codes: Tensor, grid: Grid, widths: Sequence[int], bias: nn.Parameter | None = None) -> Self:
        """Pack `codes` [outputs, inputs] (grid.bits each) into planes of `widths` bits, which add up to grid.bits."""
        planes, left = [], grid.bits
        for width in widths:
            left -= width
            planes.append(pack((codes >> left) & ((1 << width) - 1), width))
        return cls(planes, widths, grid, codes.shape[1], bias)

    @property
    def planes(self) -> list[Tensor]:
        """The packed planes, uint8 [outputs, inputs * width / 8, rounded up] each."""
        return [self.get_buffer(f"plane{index}") for index in range(len(self.widths))]

    @property
    def bits(self) -> int:
        """Bits a weight is decoded from."""
        return sum(self.widths)

    @property
    def group(self) -> int:
        """Inputs that share a scale and an offset."""
        return self.in_features // self.scale.shape[1]

    @property
    def codes(self) -> Tensor:
        """The codes, `bits` each: uint8 [outputs, inputs]."""
        codes = unpack(self.planes[0], self.widths[0], self.in_features)
        for plane, width in zip(self.planes[1:], self.widths[1:], strict=True):
            codes = (codes << width) | unpack(plane, width, self.in_features)
        return codes

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The decoded weight [outputs, inputs]: computed in float32, then rounded to `dtype`."""
        grid = Grid(self.scale, self.offset, self.grid_bits)
        return decode(self.codes, grid, self.grid_bits - self.bits).to(dtype)

    def materialize(self, dtype: torch.dtype) -> None:
        """Keep the decoded weight in memory: faster, and no longer small. It counts in `memory_bytes`; files leave it out."""
        self.dense = self.dequantize(dtype)

    def materialized(self, dtype: torch.dtype) -> nn.Linear:
        """A plain layer with the decoded weight, in `dtype`."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.dequantize(dtype), requires_grad=False)
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.to(dtype), requires_grad=False)
        return plain

    def slice(self, bits: int) -> QuantizedLinear:
        """The layer of the top `bits` bits, on the same storage. Raises CapabilityError where no plane ends there."""
        widths = top_planes(self.widths, bits)
        grid = Grid(self.scale, self.offset, self.grid_bits)
        return QuantizedLinear(self.planes[: len(widths)], widths, grid, self.in_features, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] -> [..., outputs], in the dtype of x."""
        return F.linear(x, self.dequantize(x.dtype) if self.dense is None else self.dense, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, planes of {self.widths} bits on a grid of {self.grid_bits} bits"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves to another dtype pass the grid by: in bf16 it would lose bits, in float32 it would double."""
        grid = {"scale": self.scale, "offset": self.offset}
        move: Any = super()._apply
        move(fn, recurse)
        for name, tensor in grid.items():
            setattr(self, name, tensor.to(getattr(self, name).device))
        return self
