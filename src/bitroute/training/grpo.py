"""Stage 2, GRPO: trains the encoder on the outcome of whole episodes; the language model stays frozen.

Each iteration plays groups of episodes with sampled decisions on tasks where precision decides and on others (`screening`),
credits decisions with what came of them (`credit`), and updates the encoder a few times (`policy_gradient`). Thresholds keep
the share of high steps at the target, and the price is the one at which that share is right: calibration would undo a fixed
one. The recipe `PAPER` is the form of arXiv 2602.02711: fresh tasks, a fixed price, rewards divided by their group's deviation,
the same advantage for all decisions of an episode. In groups where all succeed or all fail that division cancels the price.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from tqdm import tqdm

from bitroute.episode import Episode
from bitroute.errors import ConfigError, DataError
from bitroute.rollout.workers import Job, Replay, Workers
from bitroute.routers.budgeted import EXHAUSTED
from bitroute.routers.encoder.dataset import TextReader, Trajectory, read_episode, trajectory_logits
from bitroute.routers.encoder.network import EncoderNetwork, unique
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.features import Floats
from bitroute.store.files import write_atomic
from bitroute.training.calibration import recentre, spent
from bitroute.training.credit import (
    Reward,
    choose_flip,
    credit_decisions,
    credit_episodes,
    known_flips,
    margin_of_flips,
    margin_of_groups,
)
from bitroute.training.policy_gradient import learn
from bitroute.training.recipes import GrpoRecipe
from bitroute.training.screening import ScreenedTasks

DEAREST: Final = 10.0  # bound of a measured price, in successes


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an iteration plays: (task index, seed) pairs, and how many of the first ones are deciding tasks'."""

    pairs: list[tuple[int, int]]
    deciding: int


def train_grpo(
    router: EncoderRouter,
    pool: Workers,
    job: Job,
    reference_steps: float,
    recipe: GrpoRecipe,
    *,
    sampler: Path,
    screened: ScreenedTasks | None = None,
    checkpoint: Path | None = None,
) -> tuple[EncoderRouter, list[dict[str, float]]]:
    """Train the router's network in place, sampling decisions around its thresholds; the router around the last ones.

    `pool` plays; `job` says on which split and from which task on, within which hard budget, and how long episodes may be; with
    `screened` tasks its count and start do not matter. Before each iteration the router is saved to `sampler`, where workers
    read it. `reference_steps` is the mean number of steps of an all-high episode.

    The curve comes with it, a row an iteration: reward, success and share spent (of all tasks, by the weight of those that were
    played), the price then, success on the deciding tasks, groups or flips in all and those that told something, updates so
    far, loss. With a `checkpoint` file each iteration is kept there, and a training that was stopped goes on with the next one.
    Raises ConfigError when the file is of another recipe, and for credit by decision on a ladder of more than two, DataError
    when the file is damaged.
    """
    if recipe.credit == "decision" and len(router.variants) > 2:
        raise ConfigError("credit by decision plays the other of two variants; on a longer ladder set grpo.credit to episode")
    network, first = router.network, router.thresholds
    # It remembers texts: the same tasks are played again and again.
    reader = TextReader(router.reader.tokenizer, failures=router.failures)
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    within = None if job.limit is None else (router.variants, job.limit)

    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.0)
    reward = Reward(router.variants, reference_steps, recipe)
    scale = recipe.tasks * recipe.group * reference_steps
    curve = resume(checkpoint, network, frozen, optimizer, recipe) if checkpoint and checkpoint.exists() else []
    if curve:
        router = router.with_options(threshold=thresholds_of(curve[-1], len(first)))
    with tqdm(total=recipe.iterations, initial=len(curve), desc="GRPO", unit="iteration") as bar:
        for iteration in range(len(curve), recipe.iterations):
            router.save(sampler)
            drawn = draw_tasks(job, screened, recipe, iteration)
            sampling = replace(job, router=str(sampler), sample=True)
            (episodes,) = pool.play([replace(sampling, replays=tuple(Replay(*pair) for pair in drawn.pairs))])
            weights = _weights(episodes, drawn, screened)
            trajectories = {id(e): read_episode(reader, e, router.variants[-1], within) for e in episodes if e.steps}

            def read(episode: Episode, known: Mapping[int, Trajectory] = trajectories) -> Trajectory:
                return known[id(episode)]

            if recipe.credit == "episode":
                worth, cost = margin_of_groups(episodes, reward, weights)
                price = neutral_price([*curve, {"worth": worth, "cost": cost}], recipe)
                samples, tried, alike = credit_episodes(episodes, read, reward, price, weights)
                telling = tried - alike
            else:
                flips = [choose_flip(episode, router.variants, recipe.seed) for episode in episodes]
                chosen = [(e, pair, flip) for e, pair, flip in zip(episodes, drawn.pairs, flips, strict=True) if flip]
                again = tuple(Replay(*pair, flip.step, flip.variant) for _, pair, flip in chosen)
                others = pool.play([replace(sampling, replays=again)])[0] if again else []
                pairs = known_flips([(e, flip, other) for (e, _, flip), other in zip(chosen, others, strict=True)])
                worth, cost = margin_of_flips(pairs, reward, weights)
                price = neutral_price([*curve, {"worth": worth, "cost": cost}], recipe)
                samples = credit_decisions(pairs, read, reward, price, weights)
                tried, telling = len(pairs), sum(e.success != other.success for e, _, other in pairs)
            loss = learn(network, frozen, optimizer, samples, router.thresholds, scale, recipe, first=first) if samples else 0.0
            parts = np.array([weights[e.task_id] for e in episodes])
            parts /= parts.sum()
            deciding = episodes[: drawn.deciding] or episodes
            if recipe.target is not None:  # as the network scores them now
                scores = rescored(network, [trajectories.get(id(e)) for e in episodes])
                router = router.with_options(threshold=recentred(router.thresholds, episodes, scores, parts, recipe.target))
            curve.append(
                {
                    "iteration": iteration + 1.0,
                    "updates": (iteration + 1.0) * recipe.passes,
                    "reward": float(parts @ reward.of(episodes, price)),
                    "success": float(parts @ [e.success for e in episodes]),
                    "deciding": float(np.mean([e.success for e in deciding])),
                    "share": float(parts @ [spent(e, router.variants) for e in episodes]),
                    "price": price,
                    "worth": worth,
                    "cost": cost,
                    "tried": float(tried),
                    "telling": float(telling),
                    "loss": loss,
                }
                | {f"threshold {rung}": value for rung, value in enumerate(router.thresholds)}
            )
            bar.update()
            bar.set_postfix({name: f"{curve[-1][name]:.3f}" for name in ("success", "deciding", "share", "price")})
            if checkpoint:
                keep(checkpoint, network, frozen, optimizer, recipe, curve)
    return router, curve


def draw_tasks(job: Job, screened: ScreenedTasks | None, recipe: GrpoRecipe, iteration: int) -> Drawn:
    """The episodes of an iteration: a group of each task, all with seeds that no other iteration uses."""
    seeds = [(recipe.seed * 1_000_003 + iteration) * recipe.group + g for g in range(recipe.group)]
    if screened is None:
        first = job.start + iteration * recipe.tasks
        return Drawn([(index, seed) for index in range(first, first + recipe.tasks) for seed in seeds], 0)
    deciding, others = screened.draw(iteration, recipe.tasks, recipe.seed)
    return Drawn([(index, seed) for index in (*deciding, *others) for seed in seeds], len(deciding) * recipe.group)


def neutral_price(rows: Sequence[Mapping[str, float]], recipe: GrpoRecipe) -> float:
    """The price at which it pays neither to spend a little more nor a little less, from the margins of the iterations so far,
    the newest counting most. Without a target it is the recipe's.

    At this price an update moves spending from where it is worth less to where it is worth more; how much is spent in all, the
    thresholds see to.
    """
    if recipe.target is None:
        return recipe.price
    fading = recipe.memory ** np.arange(len(rows))[::-1]
    worth, cost = (float(fading @ [row[key] for row in rows]) for key in ("worth", "cost"))
    return min(DEAREST, max(0.0, worth / cost)) if cost > 0 else 0.0


@torch.inference_mode()
def rescored(network: EncoderNetwork, trajectories: Sequence[Trajectory | None]) -> list[list[float]]:
    """The scores of each trajectory's decisions; none of an episode that has no steps."""
    network.eval()
    return [[] if t is None else trajectory_logits(network, [t])[0].tolist() for t in trajectories]


def recentred(
    thresholds: Sequence[float], episodes: Sequence[Episode], scores: Sequence[Sequence[float]], parts: Floats, target: float
) -> tuple[float, ...]:
    """The thresholds, all moved by as much as makes decisions with these `scores` spend `target`; `parts` are the episodes'
    weights. Of an episode each decision counts for its part of the steps, since K is a mean over episodes; one that a hard
    budget took spends nothing wherever the thresholds are.
    """
    rows = [
        (score, part / len(episode.steps), step.decision.reason != EXHAUSTED)
        for episode, row, part in zip(episodes, scores, parts, strict=True)
        for step, score in zip(episode.steps, row, strict=True)
    ]
    open_ = [(score, weight) for score, weight, free in rows if free]
    wanted = target * sum(weight for _, weight, _ in rows) / sum(weight for _, weight in open_)
    above = np.array([score for score, _ in open_])[:, None] - np.array(thresholds)
    moved = recentre(above.ravel(), min(wanted, 0.99), np.repeat([weight for _, weight in open_], len(thresholds)))
    return tuple(threshold + moved for threshold in thresholds)


def thresholds_of(row: Mapping[str, float], count: int) -> tuple[float, ...]:
    """The thresholds after an iteration, from its row of the curve."""
    return tuple(row[f"threshold {rung}"] for rung in range(count))


def _weights(episodes: Sequence[Episode], drawn: Drawn, screened: ScreenedTasks | None) -> dict[str, float]:
    """How much each task counts, by id: as many as it stands for, where a deciding one counts 1."""
    found = dict.fromkeys((e.task_id for e in episodes), 1.0)
    if screened is not None:
        weight = screened.weight(drawn.deciding, len(episodes) - drawn.deciding)
        found |= dict.fromkeys((e.task_id for e in episodes[drawn.deciding :]), weight)
    return found


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
    shapes = {f"{prefix}.{n}": t.shape for prefix in ("network", "frozen") for n, t in unique(network).items()}
    if any(name not in state or state[name].shape != shape for name, shape in shapes.items()):
        raise DataError(f"{path}: was made by another version; remove it to start anew")
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
