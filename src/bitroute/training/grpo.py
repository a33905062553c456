"""Stage 2, GRPO: trains the encoder on the outcome of whole episodes; the language model stays frozen.

For each task a group of G episodes is played with sampled decisions; reward = outcome - lambda * cost; advantage = reward -
group mean. Differences from the paper (arXiv 2602.02711), each with its reason: advantages are not divided by the group's
deviation (in groups where all succeed or all fail that would cancel lambda; `normalise` restores it), every decision weighs the
same (one constant instead of each episode's own length, which would favour long failures), and groups without variance are
skipped and counted.
"""

from __future__ import annotations

import copy
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from bitroute.episode import Episode
from bitroute.errors import ConfigError, DataError
from bitroute.rollout.workers import Job, Workers
from bitroute.routers.encoder.dataset import TextReader, Trajectory, read_episode, trajectory_logits
from bitroute.routers.encoder.network import EncoderNetwork, unique
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.store.files import write_atomic
from bitroute.training.calibration import spent
from bitroute.training.recipes import GrpoRecipe

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SampledEpisode:
    """One sampled episode, ready to learn from. `rungs` and `propensities` are the decisions and their probabilities, per
    step.
    """

    trajectory: Trajectory
    rungs: list[int]
    propensities: list[float]
    advantage: float


def rewards(episodes: Sequence[Episode], variants: Sequence[str], reference_steps: float, recipe: GrpoRecipe) -> Floats:
    """outcome - lambda * cost [episodes].

    Cost, in 0..1, is what the episode's steps spend (one at the highest variant 1, at the lowest 0, evenly between) relative to
    all-high's mean number of steps.
    """
    values = []
    for episode in episodes:
        cost = min(1.0, spent(episode, variants) * len(episode.steps) / reference_steps)
        charged = cost if episode.success or not recipe.cost_on_success else 0.0
        outcome = float(episode.success) if recipe.outcome == "success" else episode.score
        values.append(outcome - recipe.price * charged)
    return np.array(values)


def advantages(values: Floats, normalise: bool) -> Floats:
    """Rewards of one group, centred; divided by their deviation in the paper's form."""
    centred: Floats = values - values.mean()
    scale = float(values.std()) + 1e-6 if normalise else 1.0
    return centred / scale


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
    logprobs: Tensor, reference: Tensor, rungs: Tensor, old: Tensor, advantage: Tensor, scale: float, recipe: GrpoRecipe
) -> Tensor:
    """The clipped objective, KL to the stage-1 policy and the entropy floor; sums over decisions divided by `scale`.

    `logprobs` and `reference` [n, variants], `rungs` [n] taken, `old` [n] their log-probabilities when sampled, `advantage`
    [n].
    """
    ratio = torch.exp(logprobs.gather(1, rungs.unsqueeze(1)).squeeze(1) - old)
    clipped = ratio.clamp(1 - recipe.clip, 1 + recipe.clip)
    gain = torch.minimum(ratio * advantage, clipped * advantage).sum() / scale
    drift = F.kl_div(reference, logprobs, log_target=True, reduction="batchmean")
    entropy = -(logprobs.exp() * logprobs).sum(dim=1).mean()
    return recipe.anchor * drift - gain + F.relu(recipe.entropy_floor - entropy)


def train_grpo(
    router: EncoderRouter,
    pool: Workers,
    job: Job,
    reference_steps: float,
    recipe: GrpoRecipe,
    *,
    sampler: Path,
    checkpoint: Path | None = None,
) -> list[dict[str, float]]:
    """Train the router's network in place, sampling decisions around its thresholds.

    `pool` plays; `job` says on which split and from which task on, and how long episodes may be. Before each iteration the
    router is saved to `sampler`, where workers read it. `reference_steps` is the mean number of steps of an all-high episode.
    Returns the curve, a row an iteration: reward, success, share spent, groups in all and without variance, loss. With a
    `checkpoint` file each iteration is kept there, and a training that was stopped goes on with the next one; ConfigError when
    the file is of another recipe, DataError when it is damaged.
    """
    network, variants, thresholds = router.network, router.variants, router.thresholds
    # It remembers texts: the same tasks are played again and again.
    reader = TextReader(router.reader.tokenizer, failures=router.failures)
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.0)
    scale = recipe.tasks * recipe.group * reference_steps
    curve = resume(checkpoint, network, frozen, optimizer, recipe) if checkpoint and checkpoint.exists() else []
    for iteration in tqdm(range(len(curve), recipe.iterations), desc="GRPO", unit="iteration"):
        router.save(sampler)
        seeds = tuple((recipe.seed * 1_000_003 + iteration) * recipe.group + g for g in range(recipe.group))
        first = job.start + iteration * recipe.tasks
        group_job = replace(job, router=str(sampler), start=first, count=recipe.tasks, seeds=seeds, sample=True)
        (episodes,) = pool.play([group_job])
        samples, groups, skipped = learnable(episodes, reader, variants, reference_steps, recipe)
        loss = learn(network, frozen, optimizer, samples, thresholds, scale, recipe) if samples else 0.0
        row = {
            "iteration": iteration + 1.0,
            "reward": float(rewards(episodes, variants, reference_steps, recipe).mean()),
            "success": float(np.mean([e.success for e in episodes])),
            "share": float(np.mean([spent(e, variants) for e in episodes])),
            "groups": float(groups),
            "skipped": float(skipped),
            "loss": loss,
        }
        curve.append(row)
        if checkpoint:
            keep(checkpoint, network, frozen, optimizer, recipe, curve)
    return curve


def learnable(
    episodes: Sequence[Episode], reader: TextReader, variants: Sequence[str], reference_steps: float, recipe: GrpoRecipe
) -> tuple[list[SampledEpisode], int, int]:
    """What can be learnt from, the number of groups, and how many of them were skipped: rewards alike teach nothing.

    Episodes that broke are left out: their outcome is not the router's doing.
    """
    groups: dict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        if episode.failure is None:
            groups[episode.task_id].append(episode)
    samples: list[SampledEpisode] = []
    skipped = 0
    for group in groups.values():
        values = rewards(group, variants, reference_steps, recipe)
        if np.ptp(values) < 1e-9:
            skipped += 1
            continue
        for episode, advantage in zip(group, advantages(values, recipe.normalise), strict=True):
            rungs = [variants.index(s.decision.variant) for s in episode.steps]
            chances = [s.decision.propensity for s in episode.steps]
            samples.append(SampledEpisode(read_episode(reader, episode, variants[-1]), rungs, chances, float(advantage)))
    return samples, len(groups), skipped


def learn(
    network: EncoderNetwork,
    frozen: EncoderNetwork,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[SampledEpisode],
    thresholds: Sequence[float],
    scale: float,
    recipe: GrpoRecipe,
    chunk: int = 32,
) -> float:
    """`passes` updates from the same samples, gradients accumulated over chunks of episodes; returns the mean loss."""
    ordered = sorted(samples, key=lambda s: len(s.trajectory.tokens))
    chunks = [ordered[i : i + chunk] for i in range(0, len(ordered), chunk)]
    network.train()
    number = partial(torch.tensor, device=network.device)
    total = 0.0
    for _ in range(recipe.passes):
        optimizer.zero_grad(set_to_none=True)
        for rows in chunks:
            scores, _ = trajectory_logits(network, [s.trajectory for s in rows])
            with torch.no_grad():
                before, _ = trajectory_logits(frozen, [s.trajectory for s in rows])
            loss = policy_loss(
                rung_logprobs(scores, thresholds),
                rung_logprobs(before, thresholds),
                number([r for s in rows for r in s.rungs]),
                number([p for s in rows for p in s.propensities]).log(),
                number([s.advantage for s in rows for _ in s.rungs]),
                scale / len(chunks),
                recipe,
            )
            torch.autograd.backward(loss / len(chunks))
            total += loss.item() / len(chunks)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return total / recipe.passes


def keep(
    path: Path,
    network: EncoderNetwork,
    frozen: EncoderNetwork,
    optimizer: torch.optim.Optimizer,
    recipe: GrpoRecipe,
    curve: list[dict[str, float]],
) -> None:
    """Write the state of a training: both networks, the optimizer's moments, and the curve so far."""
    tensors = {f"network.{name}": t for name, t in unique(network).items()}
    tensors |= {f"frozen.{name}": t for name, t in unique(frozen).items()}
    for name, parameter in network.named_parameters():
        tensors |= {f"{key}.{name}": value for key, value in optimizer.state[parameter].items()}
    write_atomic(path, save(tensors, {"recipe": json.dumps(asdict(recipe)), "curve": json.dumps(curve)}))


def resume(
    path: Path, network: EncoderNetwork, frozen: EncoderNetwork, optimizer: torch.optim.Optimizer, recipe: GrpoRecipe
) -> list[dict[str, float]]:
    """Read what `keep` wrote into networks and optimizer; the curve so far."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the file is no mapping)
        curve: list[dict[str, float]] = json.loads(meta["curve"])
        before = json.loads(meta["recipe"])
    except Exception as error:  # OS, JSON, key and safetensors errors all mean the same to the user
        raise DataError(f"{path}: cannot continue from this checkpoint ({error}); remove it to start anew") from error
    if before != asdict(recipe):
        raise ConfigError(f"{path}: was made with another recipe; remove it to start anew")
    for prefix, target in (("network", network), ("frozen", frozen)):
        with torch.no_grad():
            for name, tensor in unique(target).items():
                tensor.copy_(state[f"{prefix}.{name}"])
    for name, parameter in network.named_parameters():
        found = {key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in state}
        optimizer.state[parameter] = {  # the count of steps stays where AdamW keeps it, on the processor
            key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
        }
    return curve
