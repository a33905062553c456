"""What an engine is: it hosts the variants of one LLM and continues token contexts with any of them. Purely token ids here.

An engine knows no text, no environment and no router. All calls are batched: lists in, lists out, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.episode import Signals, Usage


class CacheMode(StrEnum):
    """Whose KV cache a context holds."""

    OWN = "own"  # one per variant; a variant that was away prefills the tokens it missed (the paper's setting)
    SHARED = "shared"  # one, continued by whichever variant comes next


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is picked: greedy at temperature 0, else sampled with the context's seed. `max_tokens` bounds an
    action.
    """

    temperature: float = 0.0
    max_tokens: int = 24


@dataclass(frozen=True, slots=True)
class Generation:
    """A generated action: its tokens (the end token included), what they revealed, and what they cost."""

    tokens: tuple[int, ...]
    signals: Signals
    usage: Usage


C = TypeVar("C")  # what an engine keeps of one episode: its tokens and their KV state; opaque to everybody else


class Engine(Protocol[C]):
    """Hosts `ladder`, the variants of one model, cheapest first (the last one is the reference, 'high').

    `generate` and `score` raise CapabilityError for a variant that is not hosted.
    """

    ladder: tuple[str, ...]
    cache_mode: CacheMode
    max_length: int  # positions of a context
    fingerprint: str  # of the model's weights: caches and routers of another model are refused by it

    def open(self, seed: int = 0) -> C:
        """A new, empty context; `seed` is that of its sampled tokens."""
        ...

    def extend(self, context: C, tokens: Sequence[int]) -> None:
        """Append prompt tokens. Nothing is computed before a variant generates or scores: it then prefills what it lacks."""
        ...

    def length(self, context: C) -> int:
        """How many tokens the context holds, those that no variant has read yet included."""
        ...

    def generate(
        self,
        contexts: Sequence[C],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        """Continue each context with its variant up to the end token; the generated tokens become part of the context."""
        ...

    def score(
        self, contexts: Sequence[C], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        """Teacher-force `continuations` after each context: raw log-probabilities [tokens, vocabulary] (row i predicts
        token i). The contexts' tokens stay as they were (the prefill of missing prompt tokens is kept in the cache)."""
        ...

    def fork(self, context: C) -> C:
        """An independent copy of a context, KV state included."""
        ...

    def rollback(self, context: C, length: int) -> None:
        """Shorten a context to its first `length` tokens; the KV state of those is kept."""
        ...

    def close(self, context: C) -> None:
        """Give the context's memory back."""
        ...
