"""A token sequence with a weight for each token: what a language model is trained on. It knows numbers alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightedSequence:
    """Tokens and, for each, what its prediction weighs in the loss (0 is context only); equally many of both."""

    tokens: list[int]
    weights: list[float]
