"""How a variant's weights are stored: a name such as `w2g64-rtn` and what it means. Knows no tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, cast

from bitroute.errors import CapabilityError, ConfigError

Method = Literal["rtn", "gptq"]
BITS = (2, 3, 4, 8)
GROUPS = (32, 64, 128)
SLICES = {8: (4,), 4: (2, 3), 3: (2,), 2: ()}  # nested: both planes, the slice and the rest, must have a packable width

_FORM = re.compile(r"w(\d+)(?:n(\d+))?g(\d+)-([a-z]+)")
_HELP = "expected w<bits>g<group>-<method> such as w4g64-gptq, or w8n4g64-rtn for a nested store"


@dataclass(frozen=True, slots=True)
class Scheme:
    """`bits` a weight in groups of `group` inputs, rounded to nearest ("rtn") or with error feedback ("gptq").

    With `nested` the store keeps its codes as two bit planes, and the variant of `nested` bits is the top plane alone.
    Raises ConfigError for a combination that is not offered.
    """

    bits: int
    group: int
    method: Method
    nested: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ConfigError(f"scheme {self}: {self.bits} bits are not offered, choose one of {_listed(BITS)}")
        if self.group not in GROUPS:
            raise ConfigError(f"scheme {self}: groups of {self.group} are not offered, choose one of {_listed(GROUPS)}")
        if self.method not in {"rtn", "gptq"}:
            raise ConfigError(f"scheme {self}: unknown method {self.method!r}, choose rtn or gptq")
        if self.nested is not None and self.nested not in SLICES[self.bits]:
            offered = _listed(SLICES[self.bits]) or "none"
            raise ConfigError(f"scheme {self}: {self.nested} bits cannot be nested in {self.bits}, offered: {offered}")

    def __str__(self) -> str:
        nested = "" if self.nested is None else f"n{self.nested}"
        return f"w{self.bits}{nested}g{self.group}-{self.method}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scheme that `str` wrote. Raises ConfigError naming what is wrong with `text`."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(f"unknown scheme {text!r}: {_HELP}")
        bits, nested, group, method = match.groups()
        return cls(int(bits), int(group), cast(Method, method), None if nested is None else int(nested))

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits of each plane, the most significant plane first: (8,), or (4, 4) for 4 nested in 8."""
        return (self.bits,) if self.nested is None else (self.nested, self.bits - self.nested)

    @property
    def bits_per_weight(self) -> float:
        """What one weight takes, its share of the group's float16 scale and offset included."""
        return self.bits + 32 / self.group


def top_planes(widths: tuple[int, ...], bits: int) -> tuple[int, ...]:
    """The leading planes that hold the top `bits` bits. Raises CapabilityError where no plane ends there."""
    for count in range(1, len(widths) + 1):
        if sum(widths[:count]) == bits:
            return widths[:count]
    raise CapabilityError(f"planes of {'+'.join(map(str, widths))} bits have no slice of {bits} bits")


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))
