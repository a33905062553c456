"""Integers of 1, 2, 3, 4 or 8 bits in uint8 tensors, with no bit wasted. Knows bits only: no scales, no weights, no layers.

A row is one little-endian bit stream: value k of a row occupies its bits [k * bits, (k + 1) * bits), so 8 values of 3 bits fill
3 bytes exactly. A row that ends within a byte leaves the rest of it 0: every row starts on a byte.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812  (the name everybody knows it by)

WIDTHS = (1, 2, 3, 4, 8)
CHUNK = 8  # values that are packed together: they fill `bits` whole bytes, and up to 4 bits an int32 holds them


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [..., n] of values below 2**bits -> uint8 [..., row_bytes(n, bits)].

    Raises ValueError for another width and for values that do not fit.
    """
    _check(bits)
    if values.numel() and int(values.max()) >= 1 << bits:
        raise ValueError(f"a value of {int(values.max())} does not fit in {bits} bits")
    if bits == 8:
        return values.to(torch.uint8).contiguous()
    whole = F.pad(values.to(torch.int32), (0, -values.shape[-1] % CHUNK))
    chunks = whole.reshape(*values.shape[:-1], -1, CHUNK)
    words = (chunks << _shifts(CHUNK, bits, values.device)).sum(-1, dtype=torch.int32)  # disjoint bits: the sum is their union
    packed = (words.unsqueeze(-1) >> _shifts(bits, 8, values.device)) & 0xFF
    return packed.to(torch.uint8).flatten(-2)[..., : row_bytes(values.shape[-1], bits)].contiguous()


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The inverse of `pack`: uint8 [..., row_bytes(count, bits)] -> uint8 [..., count]. Raises ValueError for another size."""
    _check(bits)
    if packed.shape[-1] != row_bytes(count, bits):
        raise ValueError(f"{count} values of {bits} bits take {row_bytes(count, bits)} bytes, not {packed.shape[-1]}")
    if bits == 8:
        return packed
    whole = F.pad(packed.to(torch.int32), (0, -packed.shape[-1] % bits))
    chunks = whole.reshape(*packed.shape[:-1], -1, bits)
    words = (chunks << _shifts(bits, 8, packed.device)).sum(-1, dtype=torch.int32)
    values = (words.unsqueeze(-1) >> _shifts(CHUNK, bits, packed.device)) & ((1 << bits) - 1)
    return values.to(torch.uint8).flatten(-2)[..., :count]


def row_bytes(count: int, bits: int) -> int:
    """Bytes of a packed row of `count` values."""
    return -(-count * bits // 8)


def _shifts(count: int, width: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * width


def _check(bits: int) -> None:
    if bits not in WIDTHS:
        raise ValueError(f"values of {bits} bits cannot be packed: the widths are {', '.join(map(str, WIDTHS))}")
