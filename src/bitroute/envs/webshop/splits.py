"""Which goals belong to which split. It knows names and shares, and no goal.

A split has whole products: what somebody is trained to buy is asked for in no other split, and where a product stands follows
from its ASIN alone, whatever the catalogue. Upstream splits by the place of a goal instead: most products of its test goals are
asked for in training as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Final

# Tenths of all products.
SPLITS: Final[Mapping[str, range]] = MappingProxyType(
    {"lm-train": range(4), "router-train": range(4, 6), "validation": range(6, 8), "test": range(8, 10)}
)
# Places in upstream's order of goals, of which the whole catalogue with its human goals has 12,087.
UPSTREAM_SPLITS: Final[Mapping[str, range]] = MappingProxyType(
    {"test": range(500), "eval": range(500, 1500), "train": range(1500, 1 << 62)}
)


@lru_cache(maxsize=1 << 14)
def split_of(asin: str) -> str:
    """The split of all goals that ask for a product."""
    tenth = int.from_bytes(blake2b(asin.encode(), digest_size=8).digest(), "big") % 10
    return next(name for name, tenths in SPLITS.items() if tenth in tenths)


def upstream_split(number: int) -> str:
    """Upstream's split of the goal at a place of its order, from 0."""
    return next(name for name, numbers in UPSTREAM_SPLITS.items() if number in numbers)
