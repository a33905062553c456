"""Cross entropy with a trimmed head: exact where asked, the softmax over the tokens in use elsewhere, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.trimmed_head import TrimmedHead

VOCABULARY, WIDTH = 50, 8
USED = [3, 7, 8, 20, 41]


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    hidden = torch.randn(6, WIDTH, generator=generator).requires_grad_()
    return weight, hidden, torch.tensor([3, 7, 41, 8, 20, 30])  # the last one is not in use


def test_exact_losses_are_those_of_the_whole_softmax() -> None:
    weight, hidden, targets = case()
    losses, hits = TrimmedHead(weight, USED, torch.float32).cross_entropy(hidden, targets, torch.ones(6, dtype=torch.bool))
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    (ours,) = torch.autograd.grad(losses.sum(), hidden, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.sum(), hidden)
    torch.testing.assert_close(ours, theirs)
    best = (hidden @ weight[USED].T).argmax(-1)
    assert hits.tolist() == [USED[b] == t for b, t in zip(best.tolist(), targets.tolist(), strict=True)]


def test_other_losses_are_over_the_tokens_in_use_alone() -> None:
    weight, hidden, targets = case()
    head = TrimmedHead(weight, USED, torch.float32)
    exact = torch.tensor([False, True, False, True, False, True])
    losses, _ = head.cross_entropy(hidden, targets, exact)
    whole = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    trimmed = F.cross_entropy(
        hidden @ weight[USED].T, torch.tensor([USED.index(t) if t in USED else 0 for t in targets.tolist()]), reduction="none"
    )
    torch.testing.assert_close(losses, torch.where(exact, whole, trimmed))
    assert head.holds(targets).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("used", [USED, list(range(VOCABULARY))])
def test_in_bfloat16_only_the_rest_is_rounded(used: list[int]) -> None:
    weight, hidden, targets = case()
    losses, _ = TrimmedHead(weight, used, torch.bfloat16).cross_entropy(hidden, targets, torch.ones(6, dtype=torch.bool))
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(losses, expected, atol=0.03 if used is USED else 1e-5, rtol=0)
