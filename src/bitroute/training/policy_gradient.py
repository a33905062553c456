"""One step of stage 2: from decisions and their advantages to updates of the encoder. Purely trajectories and numbers here.

The objective is PPO's clipped one, with KL to the stage-1 policy and a floor under the entropy. Who earned which advantage is
not its business (`credit`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.routers.encoder.dataset import Trajectory, trajectory_logits
from bitroute.routers.encoder.network import EncoderNetwork
from bitroute.training.recipes import GrpoRecipe


@dataclass(frozen=True, slots=True)
class Sample:
    """What is learned from one episode: at each of `steps` (one may stand there twice) a rung, the probability that it had when
    the episode was sampled, and its advantage, which carries whatever weight it has.
    """

    trajectory: Trajectory
    steps: list[int]
    rungs: list[int]
    propensities: list[float]
    advantages: list[float]


def rung_logprobs(scores: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Log-probabilities [n, variants] of the ordered logit model: P(at least rung i) = sigmoid(score - threshold i).

    A rung between two thresholds has sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): no cancellation, and
    exact at the ends. Between equal thresholds there is nothing: about -70, so that gradients stay finite.
    """
    edges = scores.unsqueeze(1) - torch.tensor(thresholds, device=scores.device)
    above = torch.cat((torch.zeros_like(edges[:, :1]), F.logsigmoid(edges)), dim=1)
    below = torch.cat((F.logsigmoid(-edges), torch.zeros_like(edges[:, :1])), dim=1)
    gaps = [math.log(-math.expm1(min(lower - upper, -1e-30))) for lower, upper in pairwise(thresholds)]
    return above + below + torch.tensor([0.0, *gaps, 0.0], device=scores.device)


def policy_loss(
    logprobs: Tensor,
    reference: Tensor,
    rungs: Tensor,
    old: Tensor,
    advantage: Tensor,
    scale: float,
    recipe: GrpoRecipe,
    credited: Tensor | None = None,
) -> Tensor:
    """The clipped objective, KL to the stage-1 policy and the entropy floor; sums over decisions divided by `scale`.

    `logprobs` and `reference` [n, variants] are of all decisions. `credited` [m] says which of these `rungs` [m] were taken at,
    all in order where it is None; `old` [m] are their log-probabilities when sampled, `advantage` [m].
    """
    chosen = logprobs if credited is None else logprobs[credited]
    ratio = torch.exp(chosen.gather(1, rungs.unsqueeze(1)).squeeze(1) - old)
    clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
    gain = torch.minimum(ratio * advantage, clipped * advantage).sum() / scale
    drift = F.kl_div(reference, logprobs, log_target=True, reduction="batchmean")
    entropy = -(logprobs.exp() * logprobs).sum(dim=1).mean()
    return recipe.anchor * drift - gain + F.relu(recipe.entropy_floor - entropy)


def learn(
    network: EncoderNetwork,
    frozen: EncoderNetwork,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    thresholds: Sequence[float],
    scale: float,
    recipe: GrpoRecipe,
    chunk: int = 32,
    first: Sequence[float] | None = None,
) -> float:
    """`passes` updates from the same samples, gradients accumulated over chunks of episodes; returns the mean loss.

    `thresholds` are those that the samples were drawn around, `first` those of the stage-1 policy where they are others.
    """
    ordered = sorted(samples, key=lambda s: len(s.trajectory.tokens))
    chunks = [ordered[i : i + chunk] for i in range(0, len(ordered), chunk)]
    network.train()
    number = partial(torch.tensor, device=network.device)
    with torch.no_grad():
        scored = [trajectory_logits(frozen, [s.trajectory for s in rows])[0] for rows in chunks]
        before = [rung_logprobs(scores, first or thresholds) for scores in scored]
    total = 0.0
    for _ in range(recipe.passes):
        optimizer.zero_grad(set_to_none=True)
        for rows, reference in zip(chunks, before, strict=True):
            scores, _ = trajectory_logits(network, [s.trajectory for s in rows])
            firsts = accumulate((len(s.trajectory.decisions) for s in rows), initial=0)
            loss = policy_loss(
                rung_logprobs(scores, thresholds),
                reference,
                number([r for s in rows for r in s.rungs]),
                number([p for s in rows for p in s.propensities]).log(),
                number([a for s in rows for a in s.advantages]),
                scale / len(chunks),
                recipe,
                number([first + step for first, s in zip(firsts, rows, strict=False) for step in s.steps]),
            )
            torch.autograd.backward(loss / len(chunks))
            total += loss.item() / len(chunks)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return total / recipe.passes
