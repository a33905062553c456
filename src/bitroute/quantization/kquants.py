"""llama.cpp's 2- and 3-bit blocks, Q2_K and Q3_K, by rounding to nearest: 256 weights a block, a scale for every 16 of them.

Arrays in, bytes out. The layouts are ggml's; its own quantiser searches better scales, which changes no size and no speed.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

BLOCK: Final = 256
_PART: Final = 16  # weights that share a scale

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def q2_k(rows: Floats) -> Bytes:
    """Rows [outputs, inputs] as blocks [outputs, 84 bytes each]: weight = d * scale * code - dmin * minimum.

    Codes have 2 bits, scales and minima 4, d and dmin are float16. Inputs are a multiple of 256.
    """
    blocks = rows.reshape(-1, BLOCK // _PART, _PART)
    minimum = np.maximum(0, -blocks.min(axis=-1))
    width = np.maximum(0, blocks.max(axis=-1) + minimum) / 3
    d, scales = _steps(width, 15)
    dmin, minima = _steps(minimum, 15)
    step = (d * scales)[..., None]
    codes = _divide(blocks + (dmin * minima)[..., None], step).round().clip(0, 3).astype(np.uint8)
    head = (scales.astype(np.uint8) | minima.astype(np.uint8) << 4).reshape(len(blocks), -1)
    tail = np.concatenate((d, dmin), axis=-1).astype(np.float16).view(np.uint8)
    return np.concatenate((head, _pairs(codes), tail), axis=-1).reshape(len(rows), -1)


def q3_k(rows: Floats) -> Bytes:
    """Rows [outputs, inputs] as blocks [outputs, 110 bytes each]: weight = d * (scale - 32) * (code - 4).

    Codes have 3 bits, the highest in a plane of its own, scales 6, d is a float16. Inputs are a multiple of 256.
    """
    blocks = rows.reshape(-1, BLOCK // _PART, _PART)
    d, scales = _steps(np.abs(blocks).max(axis=-1) / 4, 31)
    codes = (_divide(blocks, (d * scales)[..., None]).round().clip(-4, 3) + 4).astype(np.uint8)
    bits = (codes >> 2).reshape(len(blocks), 8, 32)
    plane = (bits << np.arange(8, dtype=np.uint8)[:, None]).sum(axis=1, dtype=np.uint8)
    stored = scales.astype(np.uint8) + 32
    low = stored[:, :8] & 15 | (stored[:, 8:] & 15) << 4
    high = ((stored >> 4).reshape(-1, 4, 4) << (2 * np.arange(4, dtype=np.uint8))[:, None]).sum(axis=1, dtype=np.uint8)
    tail = d.astype(np.float16).view(np.uint8)
    return np.concatenate((plane, _pairs((codes & 3).astype(np.uint8)), low, high, tail), axis=-1).reshape(len(rows), -1)


def _steps(values: Floats, most: int) -> tuple[Floats, Floats]:
    """Values [blocks, 16], none negative, as a step in float16 [blocks, 1] and whole multiples of it, `most` at most."""
    step = (values.max(axis=-1, keepdims=True) / most).astype(np.float16).astype(np.float32)
    return step, _divide(values, step).round().clip(0, most)


def _divide(values: Floats, by: Floats) -> Floats:
    """A quotient, 0 where nothing is divided by."""
    return np.divide(values, by, out=np.zeros_like(values), where=by != 0)


def _pairs(codes: Bytes) -> Bytes:
    """Codes of 2 bits [blocks, 16, 16] as bytes [blocks, 64]; of 128, byte i holds weights i, i + 32, i + 64, i + 96."""
    parts = codes.reshape(-1, 2, 4, 32)
    packed: Bytes = (parts << (2 * np.arange(4, dtype=np.uint8))[:, None]).sum(axis=2, dtype=np.uint8)
    return packed.reshape(len(codes), -1)
