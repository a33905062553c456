"""How a variant's weights are stored: a name such as `w3g64-gptq` and what it means. Knows no tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

from bitroute.errors import CapabilityError, ConfigError

Method = Literal["rtn", "gptq"]
BITS = (2, 3, 4, 8)
MIXED = (2, 4)  # a mean of two neighbouring widths lies between these
GROUPS = (32, 64, 128, 192)
SLICES = {8: (4,), 4: (2, 3), 3: (2,), 2: ()}  # nested: both planes, the slice and the rest, must have a packable width

_FORM = re.compile(r"w(\d+|\d\.\d?[1-9])(?:n(\d+))?(?:g(\d+)|row)-([a-z]+)")
_HELP = (
    "expected w<bits>g<group>-<method> such as w4g64-gptq, w3row-gptq for one group a row, w2.5g64-gptq for a mean of two "
    "widths, or w8n4g64-rtn for a nested store"
)


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` a weight in groups of `group` inputs, rounded to nearest ("rtn") or with error feedback ("gptq").

    A `group` of None is the whole row. `bits` that are no whole number are a mean over all weights: each layer has one of the
    two neighbouring widths. With `nested` the store keeps its codes as two bit planes, and the variant of `nested` bits is the
    top plane alone. Raises ConfigError for a combination that is not offered.
    """

    bits: float
    group: int | None
    method: Method
    nested: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS and not (self.mixed and MIXED[0] < self.bits < MIXED[1]):
            means = f"or a mean between {MIXED[0]} and {MIXED[1]}"
            raise ConfigError(f"scheme {self}: {self.bits} bits are not offered, choose one of {_listed(BITS)}, {means}")
        if self.group is not None and self.group not in GROUPS:
            raise ConfigError(f"scheme {self}: groups of {self.group} are not offered, choose one of {_listed(GROUPS)}, or row")
        if self.method not in {"rtn", "gptq"}:
            raise ConfigError(f"scheme {self}: unknown method {self.method!r}, choose rtn or gptq")
        slices = () if self.mixed else SLICES[int(self.bits)]
        if self.nested is not None and self.nested not in slices:
            offered = _listed(slices) or "none"
            raise ConfigError(f"scheme {self}: {self.nested} bits cannot be nested in {self.bits}, offered: {offered}")

    def __str__(self) -> str:
        nested = "" if self.nested is None else f"n{self.nested}"
        group = "row" if self.group is None else f"g{self.group}"
        return f"w{self.bits:g}{nested}{group}-{self.method}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scheme that `str` wrote. Raises ConfigError naming what is wrong with `text`."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(f"unknown scheme {text!r}: {_HELP}")
        bits, nested, group, method = match.groups()
        return cls(
            float(bits) if "." in bits else int(bits),
            None if group is None else int(group),
            cast(Method, method),
            None if nested is None else int(nested),
        )

    @property
    def mixed(self) -> bool:
        """Whether layers differ in their widths."""
        return not float(self.bits).is_integer()

    @property
    def levels(self) -> tuple[int, ...]:
        """The widths that a layer may have, ascending: one, or the two neighbours of a mean."""
        return tuple(sorted({math.floor(self.bits), math.ceil(self.bits)}))

    @property
    def calibrated(self) -> bool:
        """Whether text is needed to make a variant: for error feedback, and to choose the layers of each width."""
        return self.mixed or self.method != "rtn"

    def planes(self, bits: int) -> tuple[int, ...]:
        """Bits of each plane of a layer of width `bits`, the most significant plane first: (8,), or (4, 4) for 4 in 8."""
        return (bits,) if self.nested is None else (self.nested, bits - self.nested)

    def group_of(self, inputs: int) -> int:
        """How many inputs of a row of `inputs` share a grid."""
        return self.group or inputs

    def bits_per_weight(self, inputs: int) -> float:
        """What one weight of a row of `inputs` takes on average, its share of the group's float16 scale and offset included."""
        return self.bits + 32 / self.group_of(inputs)


def top_planes(widths: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """The leading planes that hold the top `bits` bits. Raises CapabilityError where no plane ends there."""
    for count in range(1, len(widths) + 1):
        if sum(widths[:count]) == bits:
            return widths[:count]
    raise CapabilityError(f"planes of {'+'.join(map(str, widths))} bits have no slice of {bits} bits")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
