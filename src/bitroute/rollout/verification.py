"""What the highest variant says of a draft that the lowest one wrote: one pass over its tokens, and where it would leave it.

Knows tokens and log-probabilities. What the pass costs is counted as if high's cache kept what it has read, the draft included,
as an implementation for use would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.episode import Usage


@dataclass(frozen=True, slots=True)
class Verification:
    """`gaps` has an entry for each choice of the draft: by how many nats high prefers its own choice, 0 where it is the same.

    The first `agreed` tokens are those that high would have written too; `usage` is what the pass cost.
    """

    gaps: tuple[float, ...]
    agreed: int
    usage: Usage


def verify(rows: npt.NDArray[np.float32], draft: Sequence[int], trie: Trie | None, usage: Usage) -> Verification:
    """Compare `draft` with the greedy choices of log-probabilities `rows` [tokens, vocabulary], under the constraint `trie`."""
    nodes = [None] * len(draft) if trie is None else list(trie.walk(draft))
    gaps: list[float] = []
    agreed: int | None = None
    for number, (row, token, node) in enumerate(zip(rows, draft, nodes, strict=True)):
        if node is not None and len(node.children) < 2:
            continue  # forced: nobody chose it
        best = row.max() if node is None else row[node.allowed].max()
        gaps.append(float(best - row[token]))
        if gaps[-1] > 0 and agreed is None:
            agreed = number
    return Verification(tuple(gaps), len(draft) if agreed is None else agreed, usage)
