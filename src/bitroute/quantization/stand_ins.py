"""Which of llama.cpp's types stands for which variant, where what a step costs there is asked for. Names alone.

llama.cpp has no such grids as this package's, and speed hangs on how many bits a weight takes, not on which they are: the type
nearest in width is timed instead. A variant whose layers differ in width takes each type for its part of the layers.
"""

from __future__ import annotations

from typing import Final

from bitroute.quantization.scheme import Scheme

TOP: Final = "gguf-f16"  # for the checkpoint as it is stored
_BY_BITS: Final = {2: "gguf-q2_k", 3: "gguf-q3_k", 4: "gguf-q4_0", 8: "gguf-q8_0"}


def stand_ins(scheme: str) -> dict[str, float]:
    """The types that stand for a scheme, each with its part of the layers. Raises ConfigError for an unknown scheme."""
    parsed = Scheme.parse(scheme)
    bits = parsed.bits if parsed.nested is None else parsed.nested
    low, high = parsed.levels[0], parsed.levels[-1]
    if parsed.nested is not None or low == high:
        return {_BY_BITS[int(bits)]: 1.0}
    return {_BY_BITS[low]: high - bits, _BY_BITS[high]: bits - low}
