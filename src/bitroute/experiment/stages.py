"""The method, stage by stage: labels, KL-ST, GRPO. Each stage's result is a file of the run.

Who may see what: routers learn on the training split; every choice (tau, the epoch, thresholds) is made on the validation
split; the evaluated splits are played once, at the end, with everything frozen.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bitroute.envs.suite import Role
from bitroute.episode import Episode
from bitroute.experiment.experiment import Experiment
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder
from bitroute.routers.encoder.dataset import read_episode
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter, load_encoder
from bitroute.routers.features import FEATURES, features
from bitroute.routers.signals import SignalsRouter, fit_signals
from bitroute.routers.views import views_of
from bitroute.training.calibration import recentre
from bitroute.training.grpo import train_grpo
from bitroute.training.supervised import LabelledTrajectory, predict, train_supervised

# Trajectories of mixed policies: all-high never visits the states that low's mistakes lead to.
MIXTURE: Final = ("always:low", "random:0.25", "random:0.5", "always:high")


def train_routers(run: Experiment) -> None:
    """Everything up to trained routers, for each seed from its own labels on: they stand in routers/, their curves beside."""
    for seed in run.config.seeds:
        train_seed(run, seed)


def train_seed(run: Experiment, seed: int) -> None:
    """The pipeline of one seed: its tasks, labels, tau and routers are its own."""
    first, holdout = label_mixture(run, seed)
    tau, own = choose_tau(run, seed, first, holdout)
    second = label_tasks(run, seed, "labels-2", Role.TRAIN, run.tasks(seed).second, [own])
    data = labelled(run, [*first, *second])
    for inputs in inputs_of(run):
        train_kl_st(run, seed, inputs, data, holdout, tau)
    train_signals(run, seed, [*first, *second], tau)
    for inputs in inputs_of(run):
        reinforce(run, f"dmr{inputs}-{seed}", seed, load_trained(run, f"kl-st{inputs}-{seed}"))
    if run.config.ablations:
        budget = max(run.config.budgets)
        reinforce(run, f"grpo-{seed}", seed, as_router(run, new_network(run, seed), math.log((1 - budget) / budget)))


# Labels


def label_tasks(run: Experiment, seed: int, name: str, role: Role, tasks: range, policies: Sequence[str]) -> list[Episode]:
    """Labelled episodes of `tasks` of a split, shared out among `policies`; they stay in traces/seed-SEED/`name`-N.jsonl."""
    episodes: list[Episode] = []
    cuts = [tasks.start + round(i * len(tasks) / len(policies)) for i in range(len(policies) + 1)]
    for number, (router, (first, end)) in enumerate(zip(policies, pairwise(cuts), strict=True)):
        job = run.job(run.split(role), end - first, router, start=first, label=True)
        episodes += run.record(f"seed-{seed}/{name}-{number}", job)
    return episodes


def label_mixture(run: Experiment, seed: int) -> tuple[list[Episode], list[LabelledTrajectory]]:
    """The first round: labelled episodes of mixed policies to learn from, and held-out ones to choose by."""
    tasks = run.tasks(seed)
    first = label_tasks(run, seed, "labels-1", Role.TRAIN, tasks.first, MIXTURE)
    held = label_tasks(run, seed, "labels-holdout", Role.VALIDATION, tasks.holdout, MIXTURE[:3])
    return first, labelled(run, held)


def labelled(run: Experiment, episodes: Sequence[Episode]) -> list[LabelledTrajectory]:
    """Episodes as the encoder's training input; those without a label on every step are left out."""
    rows = []
    for episode in episodes:
        divergences = [s.sensitivity.kl_sum for s in episode.steps if s.sensitivity]
        if len(divergences) == len(episode.steps) > 0:
            rows.append(LabelledTrajectory(read_episode(run.reader, episode, run.ladder[-1]), divergences))
    return rows


# Stage 1


def choose_tau(
    run: Experiment, seed: int, first: Sequence[Episode], holdout: Sequence[LabelledTrajectory]
) -> tuple[float, str]:
    """tau in nats, of the candidates the one whose router captures most of the held-out divergence; and that router's path."""
    budget = max(run.config.budgets)
    stored = run.directory.stored(f"tau-{seed}")
    if stored is None:
        data = labelled(run, first)
        every = np.concatenate([row.divergences for row in data])
        trials: list[dict[str, Any]] = []
        for quantile in run.config.quantiles:
            network, tau = new_network(run, seed), float(np.quantile(every, quantile))
            curve = train_supervised(network, data, holdout, tau, replace(run.config.supervised, seed=seed), budget)
            threshold = float(np.quantile(predict(network, holdout), 1 - budget))
            as_router(run, network, threshold).save(router_path(run, f"round-1-{quantile:g}-{seed}"))
            captured = max(row["captured"] for row in curve)
            trials.append({"quantile": quantile, "tau": tau, "captured": captured, "curve": curve})
        found: dict[str, Any] = {"trials": trials, "best": max(trials, key=lambda t: t["captured"])}
        stored = run.directory.keep(f"tau-{seed}", found)
    best = stored["best"]
    return float(best["tau"]), str(router_path(run, f"round-1-{best['quantile']:g}-{seed}"))


def train_kl_st(
    run: Experiment,
    seed: int,
    inputs: str,
    data: Sequence[LabelledTrajectory],
    holdout: Sequence[LabelledTrajectory],
    tau: float,
) -> None:
    """The encoder of one seed, with the probe or without (`inputs`), its threshold where sampled decisions spend the budget."""
    name, budget = f"kl-st{inputs}-{seed}", max(run.config.budgets)
    if run.directory.stored(name) is None:
        network = new_network(run, seed, inputs)
        curve = train_supervised(network, data, holdout, tau, replace(run.config.supervised, seed=seed), budget)
        as_router(run, network, recentre(predict(network, holdout), budget)).save(router_path(run, name))
        run.directory.keep(name, curve)


def train_signals(run: Experiment, seed: int, episodes: Sequence[Episode], tau: float) -> None:
    """The logistic regression on features of the trajectory, from the same labels."""
    if run.directory.stored(f"signals-{seed}") is None:
        played = [e for e in episodes if e.steps]
        failures = run.suite.failures
        rows = np.array([features(view, run.ladder[-1], failures=failures) for e in played for view in views_of(e)])
        sensitive = [s.sensitivity.kl_sum >= tau for e in played for s in e.steps if s.sensitivity]
        fitted = fit_signals(rows, sensitive, run.ladder, run.model, failures=failures)
        SignalsRouter(fitted).save(router_path(run, f"signals-{seed}.json"))
        found = {"steps": float(len(sensitive)), "sensitive": float(np.mean(sensitive))}
        run.directory.keep(f"signals-{seed}", found)


# Stage 2


def reinforce(run: Experiment, name: str, seed: int, start: EncoderRouter) -> None:
    """GRPO from `start`, sampling around its threshold; the router goes to routers/`name`, the curve to `name`.json."""
    if run.directory.stored(name) is not None:
        return
    sampler = router_path(run, f".{name}")
    tasks = run.tasks(seed).reinforced
    curve = train_grpo(
        start,
        run.pool,
        run.job(run.split(Role.TRAIN), len(tasks), str(sampler), start=tasks.start),
        references(run, seed)["high steps"],
        replace(run.config.grpo, seed=seed),
        sampler=sampler,
        checkpoint=run.path / "checkpoints" / f"{name}.safetensors",
    )
    start.save(router_path(run, name))
    shutil.rmtree(sampler, ignore_errors=True)
    run.directory.keep(name, curve)


def references(run: Experiment, seed: int) -> dict[str, float]:
    """All-high and all-low on a seed's calibration tasks: success of both, and their mean numbers of steps (high's is the unit
    of cost).
    """
    stored: dict[str, float] | None = run.directory.stored(f"references-{seed}")
    if stored is not None:
        return stored
    found: dict[str, float] = {}
    tasks = run.tasks(seed).calibration
    for end in ("high", "low"):
        job = run.job(run.split(Role.VALIDATION), len(tasks), f"always:{end}", f"all-{end}", start=tasks.start)
        episodes = run.record(f"seed-{seed}/validation-all-{end}", job)
        found |= {
            f"{end} success": float(np.mean([e.success for e in episodes])),
            f"{end} steps": float(np.mean([len(e.steps) for e in episodes])),
        }
    return run.directory.keep(f"references-{seed}", found)


# Encoders of this run


def inputs_of(run: Experiment) -> tuple[str, ...]:
    """Suffixes of the trained encoders: without the probe, and with it where the configuration wants both."""
    return ("", "+probe") if run.config.probe else ("",)


def new_network(run: Experiment, seed: int, inputs: str = "") -> EncoderNetwork:
    """An encoder that has not seen a label; its backbone has read trajectories where the configuration names one."""
    torch.manual_seed(seed)
    backbone = load_model(run.backbone, torch.float32) if run.backbone else None
    config = backbone.config if backbone else encoder_config(run.reader.tokenizer.vocab_size)
    if backbone:
        Decoder(config)  # draws as loading did once: the head's first weights are those of all published figures
    network = EncoderNetwork(
        config,
        use_signals=run.config.use_signals,
        use_probe=inputs == "+probe",
        features=FEATURES if run.config.use_features else (),
    )
    if backbone:
        network.backbone.load_state_dict(backbone.state_dict())
    return network.to(run.device)


def as_router(run: Experiment, network: EncoderNetwork, threshold: float = 0.0) -> EncoderRouter:
    """The network as a router of this run's model."""
    failures = run.suite.failures
    return EncoderRouter(network, run.reader.tokenizer, run.ladder, threshold, model=run.model, failures=failures)


def load_trained(run: Experiment, name: str) -> EncoderRouter:
    """An encoder that this run saved."""
    return load_encoder(router_path(run, name), model=run.model, variants=run.ladder).to(str(run.device))


def router_path(run: Experiment, name: str) -> Path:
    """Where a router of this run is saved."""
    return run.path / "routers" / name
