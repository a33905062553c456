"""How certain the model was of each token, from the log-probabilities that an upstream gives where the client asks for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from bitroute.episode import Signals


class Alternative(Struct):
    """A token that might have come."""

    logprob: float | None = None


class Token(Struct):
    """A token that came, with the likeliest in its place (mostly itself among them)."""

    logprob: float | None = None
    top_logprobs: list[Alternative] = []


class Certainty:
    """Gathers log-probabilities token by token."""

    def __init__(self) -> None:
        self._tokens: list[tuple[float, float, float]] | None = []  # logprob, entropy, margin; None: not of every token

    def add(self, tokens: Sequence[Token]) -> None:
        """Take in the next tokens; one without two alternatives ends all."""
        for token in tokens:
            listed = sorted((other.logprob for other in token.top_logprobs if other.logprob is not None), reverse=True)
            if self._tokens is None or token.logprob is None or len(listed) < 2:
                self._tokens = None
                return
            shares = [math.exp(min(logprob, 0.0)) for logprob in listed]  # above 0 is rounding, or no probability at all
            rest = 1.0 - sum(shares)
            entropy = -sum(share * logprob for share, logprob in zip(shares, listed, strict=True))
            entropy -= rest * math.log(rest) if rest > 0 else 0.0
            self._tokens.append((token.logprob, entropy, shares[0] - shares[1]))

    @property
    def signals(self) -> Signals | None:
        """One entry per token; None when none came, or one without two alternatives.

        The entropy is of the listed alternatives with all others lumped into one: a lower bound.
        """
        if not self._tokens:
            return None
        logprobs, entropy, margin = zip(*self._tokens, strict=True)
        return Signals(logprobs, logprobs, entropy, margin)
