"""Integers of 1, 2, 3, 4 or 8 bits in uint8 tensors, with no bit wasted. Knows bits only: no scales, no weights, no layers.

A row is one little-endian bit stream: value k of a row occupies its bits [k * bits, (k + 1) * bits), so 8 values of 3 bits fill
3 bytes exactly. Rows are multiples of 8 values long, which makes every row end on a byte.
"""

from __future__ import annotations

import torch

WIDTHS = (1, 2, 3, 4, 8)
CHUNK = 8  # values that are packed together: they fill `bits` whole bytes, and up to 4 bits an int32 holds them


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 [..., n] of values below 2**bits -> uint8 [..., n * bits / 8].

    Raises ValueError for another width, for n that is no multiple of 8, and for values that do not fit.
    """
    _check(bits)
    if values.shape[-1] % CHUNK:
        raise ValueError(f"rows of {values.shape[-1]} values cannot be packed: not a multiple of {CHUNK}")
    if values.numel() and int(values.max()) >= 1 << bits:
        raise ValueError(f"a value of {int(values.max())} does not fit in {bits} bits")
    if bits == 8:
        return values.to(torch.uint8).contiguous()
    chunks = values.to(torch.int32).reshape(*values.shape[:-1], -1, CHUNK)
    words = (chunks << _shifts(CHUNK, bits, values.device)).sum(-1, dtype=torch.int32)  # disjoint bits: the sum is their union
    packed = (words.unsqueeze(-1) >> _shifts(bits, 8, values.device)) & 0xFF
    return packed.to(torch.uint8).flatten(-2)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `pack`: uint8 [..., n * bits / 8] -> uint8 [..., n]. Raises ValueError where no n fits."""
    _check(bits)
    if packed.shape[-1] % bits:
        raise ValueError(f"rows of {packed.shape[-1]} bytes hold no whole number of {CHUNK} values of {bits} bits")
    if bits == 8:
        return packed
    chunks = packed.to(torch.int32).reshape(*packed.shape[:-1], -1, bits)
    words = (chunks << _shifts(bits, 8, packed.device)).sum(-1, dtype=torch.int32)
    values = (words.unsqueeze(-1) >> _shifts(CHUNK, bits, packed.device)) & ((1 << bits) - 1)
    return values.to(torch.uint8).flatten(-2)


def _shifts(count: int, width: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * width


def _check(bits: int) -> None:
    if bits not in WIDTHS:
        raise ValueError(f"values of {bits} bits cannot be packed: the widths are {', '.join(map(str, WIDTHS))}")
