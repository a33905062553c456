"""Cross entropy over a large vocabulary of which the texts use a small part. Knows embeddings and token ids, no text.

The exact softmax sums over all tokens. Here the tokens that the texts use are summed in float32 for every prediction, and all
others, in the network's dtype, for those predictions that ask for it: what they add is small, so that rounding it costs
nothing, and skipping it is wrong by the probability that the model gives to tokens that never occur.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


class TrimmedHead:
    """The head of a model whose texts use the token ids `used`; `weight` [vocabulary, hidden] is the whole one, not trained."""

    def __init__(self, weight: Tensor, used: Sequence[int], dtype: torch.dtype) -> None:
        rest = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        rest[list(used)] = False
        self.weight = weight.detach().clone()
        self.used = torch.tensor(sorted(used), device=weight.device)
        self.inside = self.weight[self.used].float()
        self.outside = self.weight[rest].to(dtype)

    def cross_entropy(self, hidden: Tensor, targets: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [n] in nats of predicting `targets` [n] from `hidden` [n, hidden], and whether the target came first among
        the tokens in use [n].

        Where `exact` [n] is set the softmax is over the whole vocabulary; elsewhere over the tokens in use, among which the
        target must be.
        """
        hidden = hidden.float()
        logits = hidden @ self.inside.T
        wanted = (hidden * self.weight[targets].float()).sum(-1)
        total = torch.logsumexp(logits, -1)
        if len(self.outside) and bool(exact.any()):
            further = torch.logsumexp(F.linear(hidden[exact].to(self.outside.dtype), self.outside).float(), -1)
            total = total.masked_scatter(exact, torch.logaddexp(total[exact], further))
        return total - wanted, self.used[logits.argmax(-1)] == targets

    def holds(self, targets: Tensor) -> Tensor:
        """Which of `targets` [n] are among the tokens in use [n]."""
        return torch.isin(targets, self.used)
