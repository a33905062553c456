"""Stage 1, KL-ST: trains the encoder on steps labelled sensitive or not, by class-weighted cross entropy.

A step is sensitive when KL(high || low) of its action is at least tau (arXiv 2602.02711); or it brings a target of its own, 0
to 1, which counts for both classes (`targets`). A small auxiliary loss, predicting the action that follows, teaches so small a
network to read: what makes a step sensitive lies in the action that is about to be chosen. Knows trajectories and labels; no
environment and no language model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from bitroute.errors import ConfigError
from bitroute.evaluation.ranking import auc, captured
from bitroute.routers.encoder.dataset import Trajectory, pad, trajectory_logits
from bitroute.routers.encoder.network import EncoderNetwork
from bitroute.routers.signals import fit_balanced
from bitroute.training.recipes import SupervisedRecipe

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledTrajectory:
    """A trajectory, the divergence of each of its steps in nats, and what is learned instead of it, if anything (0..1)."""

    trajectory: Trajectory
    divergences: list[float]
    targets: list[float] | None = None

    def labels(self, tau: float) -> list[float]:
        """What is learned: the targets, or whether the divergences reach `tau`."""
        return [float(d >= tau) for d in self.divergences] if self.targets is None else self.targets


@torch.inference_mode()
def predict(network: EncoderNetwork, data: Sequence[LabelledTrajectory], batch: int = 64) -> Floats:
    """Scores of all steps, in order."""
    network.eval()
    order = sorted(range(len(data)), key=lambda i: len(data[i].trajectory.tokens))
    parts: dict[int, Floats] = {}
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        logits, _ = trajectory_logits(network, [data[i].trajectory for i in rows])
        splits = np.cumsum([len(data[i].divergences) for i in rows])[:-1]
        parts.update(zip(rows, np.split(logits.cpu().numpy().astype(np.float64), splits), strict=True))
    return np.concatenate([parts[i] for i in range(len(data))])


def train_supervised(
    network: EncoderNetwork,
    train: Sequence[LabelledTrajectory],
    holdout: Sequence[LabelledTrajectory],
    tau: float,
    recipe: SupervisedRecipe,
    budget: float,
) -> list[dict[str, float]]:
    """Train `network` in place and keep the epoch that captures the most divergence of `holdout` at share `budget`, or the most
    of its targets where it has some.

    It begins as a linear rule on the numbers beside the text: epoch 0 of the curve. Returns the curve: per epoch the loss, the
    AUC for the label (a target of at least one half) and the captured share. Raises ConfigError when no step, or every step,
    reaches `tau`.
    """
    begin_with_rule(network, train, tau)
    positives = float(np.mean([label for r in train for label in r.labels(tau)]))
    class_weights = (0.5 / (1 - positives), 0.5 / positives)
    generator = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    held = np.concatenate([r.divergences if r.targets is None else r.targets for r in holdout])
    positive = np.concatenate([r.labels(tau) for r in holdout]) >= 0.5
    batches = list(range(0, len(train), recipe.batch))
    total = recipe.epochs * len(batches)
    best_state = copy.deepcopy(network.state_dict())
    curve = [{"epoch": 0.0, **ranked(network, holdout, held, positive, budget)}]
    best = curve[0]["captured"]
    done = 0
    with tqdm(total=total, desc="KL-ST", unit="batch") as bar:
        for epoch in range(recipe.epochs):
            network.train()
            shuffled = bucketed(train, recipe.batch, generator)
            losses = []
            for rows in shuffled:
                factor = min(1.0, (done + 1) / (0.05 * total), max(0.02, 1.3 * (1 - done / total)))
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate * factor
                loss = supervised_loss(network, [train[i] for i in rows], tau, class_weights, recipe.auxiliary)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
                done += 1
                bar.update()
            row = {"epoch": epoch + 1.0, "loss": float(np.mean(losses)), **ranked(network, holdout, held, positive, budget)}
            curve.append(row)
            bar.set_postfix(auc=f"{row['auc']:.3f}", captured=f"{row['captured']:.3f}")
            if row["captured"] > best:
                best, best_state = row["captured"], copy.deepcopy(network.state_dict())
    network.load_state_dict(best_state)
    return curve


def begin_with_rule(network: EncoderNetwork, train: Sequence[LabelledTrajectory], tau: float) -> None:
    """Let `network` begin as the best linear rule on the numbers beside the text: it need only learn what the text adds.

    Raises ConfigError when no step, or every step, reaches `tau`.
    """
    labels = [label for r in train for label in r.labels(tau)]
    if (positives := float(np.mean(labels))) in (0.0, 1.0):
        raise ConfigError(
            f"tau {tau:g}: {positives:.0%} of the labelled steps reach it; choose it within the range of divergences"
        )
    signals = [row for r in train for row in r.trajectory.signals]
    rows = [row for r in train for row in r.trajectory.features]
    network.standardise(signals, rows)
    numbers = network.standardised(*(torch.tensor(part, device=network.device) for part in (signals, rows)))
    theta = fit_balanced(numbers.cpu().numpy().astype(np.float64), labels)
    network.begin_with(theta[:-1], float(theta[-1]))


def ranked(
    network: EncoderNetwork, holdout: Sequence[LabelledTrajectory], held: Floats, positive: npt.NDArray[np.bool_], budget: float
) -> dict[str, float]:
    """How well `network` ranks held-out steps: AUC for the `positive` ones, and what part of `held` a `budget` captures."""
    scores = predict(network, holdout)
    return {"auc": auc(scores, positive), "captured": captured(scores, held, budget)}


def bucketed(data: Sequence[LabelledTrajectory], batch: int, generator: np.random.Generator) -> list[list[int]]:
    """Random batches of indices whose episodes are of about equal length."""
    order = generator.permutation(len(data))
    noisy = sorted(order, key=lambda i: len(data[i].trajectory.tokens) * generator.uniform(0.8, 1.25))
    groups = [[int(i) for i in noisy[first : first + batch]] for first in range(0, len(noisy), batch)]
    return [groups[i] for i in generator.permutation(len(groups))]


def supervised_loss(
    network: EncoderNetwork,
    rows: Sequence[LabelledTrajectory],
    tau: float,
    class_weights: tuple[float, float],
    auxiliary: float,
) -> Tensor:
    """Class-weighted binary cross entropy over all steps (a target between counts for both classes, in parts), plus `auxiliary`
    times the cross entropy of the actions' tokens.
    """
    logits, hidden = trajectory_logits(network, [r.trajectory for r in rows])
    labels = torch.tensor([label for r in rows for label in r.labels(tau)], device=network.device)
    negative, positive = class_weights
    loss = -(positive * labels * F.logsigmoid(logits) + negative * (1 - labels) * F.logsigmoid(-logits)).mean()
    if auxiliary:
        tokens = pad([r.trajectory.tokens for r in rows], network.device)
        index = torch.tensor([(row, at) for row, r in enumerate(rows) for at in r.trajectory.actions], device=network.device)
        predicted = network.backbone.logits(hidden[index[:, 0], index[:, 1] - 1])
        loss = loss + auxiliary * F.cross_entropy(predicted, tokens[index[:, 0], index[:, 1]])
    return loss
