"""The method, stage by stage: labels, KL-ST, GRPO. Each stage's result is a file of the run.

Who may see what: routers learn on the training split; every choice (tau, the epoch, thresholds) is made on the validation
split; the evaluated splits are played once, at the end, with everything frozen.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitroute.envs.suite import Role
from bitroute.experiment.experiment import Experiment
from bitroute.experiment.labels import label_mixture, label_tasks, labelled, measure_effects, targeted
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter, load_encoder
from bitroute.routers.features import FEATURES, Floats
from bitroute.routers.signals import SignalsRouter, fit_signals
from bitroute.training.calibration import calibrate, realised_share, recentre
from bitroute.training.grpo import train_grpo
from bitroute.training.recipes import PAPER, GrpoRecipe
from bitroute.training.screening import ScreenedTasks, screen
from bitroute.training.supervised import LabelledTrajectory, predict, train_supervised
from bitroute.training.targets import EffectModel

log = logging.getLogger(__name__)


def train_routers(run: Experiment) -> None:
    """Everything up to trained routers, for each seed from its own labels on: they stand in routers/, their curves beside."""
    for seed in run.config.seeds:
        train_seed(run, seed)


def train_seed(run: Experiment, seed: int) -> None:
    """The pipeline of one seed: its tasks, labels, tau, targets and routers are its own."""
    first, holdout = label_mixture(run, seed)
    tau, own = choose_tau(run, seed, labelled(run, first), holdout)
    second = label_tasks(run, seed, "labels-2", Role.TRAIN, run.tasks(seed).second, [own])
    data, effects = labelled(run, [*first, *second]), measure_effects(run, seed)
    mix = choose_mix(run, seed, data, holdout, effects, tau)
    data, holdout = targeted(data, effects, tau, mix), targeted(holdout, effects, tau, mix)
    for inputs in inputs_of(run):
        train_kl_st(run, f"kl-st{inputs}-{seed}", seed, inputs, data, holdout, tau)
    train_signals(run, seed, data, tau)
    for inputs in inputs_of(run):
        reinforce(run, f"dmr{inputs}-{seed}", seed, load_trained(run, f"kl-st{inputs}-{seed}"), run.config.grpo)
    if "paper" in run.config.ablations:
        reinforce(run, f"dmr-paper-{seed}", seed, load_trained(run, f"kl-st-{seed}"), PAPER)
    if "grpo" in run.config.ablations:
        budget = sampled_share(run)
        untrained = as_router(run, new_network(run, seed), math.log((1 - budget) / budget))
        reinforce(run, f"grpo-{seed}", seed, untrained, run.config.grpo)


# Stage 1


def choose_tau(
    run: Experiment, seed: int, data: Sequence[LabelledTrajectory], holdout: Sequence[LabelledTrajectory]
) -> tuple[float, str]:
    """tau in nats, of the candidates the one whose router captures most of the held-out divergence; and that router's path."""
    budget = max(run.config.budgets)
    stored = run.directory.stored(f"tau-{seed}")
    if stored is None:
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


def choose_mix(
    run: Experiment,
    seed: int,
    data: Sequence[LabelledTrajectory],
    holdout: Sequence[LabelledTrajectory],
    effects: EffectModel | None,
    tau: float,
) -> float:
    """How much of the targets is measured effect: of the candidates the one whose router wins most of the seed's calibration
    tasks at the lower median of the budgets. Each candidate's success and share go to targets-SEED.json.
    """
    mixes = run.config.mixes if effects is not None else (0.0,)
    if len(mixes) == 1:
        return mixes[0]
    stored = run.directory.stored(f"targets-{seed}")
    if stored is None:
        budget = sorted(run.config.budgets)[(len(run.config.budgets) - 1) // 2]
        trials: list[dict[str, float]] = []
        for mix in mixes:
            name = f"kl-st-mix-{mix:g}-{seed}"
            rows, held = targeted(data, effects, tau, mix), targeted(holdout, effects, tau, mix)
            train_kl_st(run, name, seed, "", rows, held, tau)
            trials.append({"mix": mix, "budget": budget} | success_at(run, seed, name, budget, predict_held(run, name, held)))
        found: dict[str, Any] = {"trials": trials, "best": max(trials, key=lambda t: t["success"])}
        stored = run.directory.keep(f"targets-{seed}", found)
    return float(stored["best"]["mix"])


def predict_held(run: Experiment, name: str, holdout: Sequence[LabelledTrajectory]) -> Floats:
    """Scores of a trained encoder on held-out steps."""
    return predict(load_trained(run, name).network, holdout)


def success_at(run: Experiment, seed: int, name: str, budget: float, scores: Sequence[float] | Floats) -> dict[str, float]:
    """Success and share of a trained encoder on the seed's calibration tasks at the threshold that spends `budget` there."""
    tasks, successes = run.tasks(seed).calibration, {}

    def realised(threshold: float) -> float:
        options = {"threshold": threshold, "start": tasks.start, "limit": run.config.limit(budget)}
        job = run.job(run.split(Role.VALIDATION), len(tasks), str(router_path(run, name)), name, **options)
        (episodes,) = run.pool.play([job], f"{name} at {budget:g}")
        successes[threshold] = float(np.mean([e.success for e in episodes]))
        return realised_share(episodes, run.ladder)

    found = calibrate(budget, realised, list(scores), trials=5)
    return {"success": successes[found.threshold], "share": found.share}


def train_kl_st(
    run: Experiment,
    name: str,
    seed: int,
    inputs: str,
    data: Sequence[LabelledTrajectory],
    holdout: Sequence[LabelledTrajectory],
    tau: float,
) -> None:
    """The encoder of one seed, with the probe or without (`inputs`), its threshold where sampled decisions spend what stage 2
    aims at.
    """
    if run.directory.stored(name) is None:
        network, budget = new_network(run, seed, inputs), max(run.config.budgets)
        curve = train_supervised(network, data, holdout, tau, replace(run.config.supervised, seed=seed), budget)
        as_router(run, network, recentre(predict(network, holdout), sampled_share(run))).save(router_path(run, name))
        run.directory.keep(name, curve)


def train_signals(run: Experiment, seed: int, data: Sequence[LabelledTrajectory], tau: float) -> None:
    """The logistic regression on features of the trajectory, from the same labels."""
    if run.directory.stored(f"signals-{seed}") is None:
        rows = np.array([row for r in data for row in r.trajectory.features])
        labels = [label for r in data for label in r.labels(tau)]
        fitted = fit_signals(rows, labels, run.ladder, run.model, failures=run.suite.failures)
        SignalsRouter(fitted).save(router_path(run, f"signals-{seed}.json"))
        found = {"steps": float(len(labels)), "sensitive": float(np.mean(labels))}
        run.directory.keep(f"signals-{seed}", found)


# Stage 2


def sampled_share(run: Experiment) -> float:
    """The share of high steps around which stage 2 begins to sample."""
    return run.config.grpo.target or max(run.config.budgets)


def reinforce(run: Experiment, name: str, seed: int, start: EncoderRouter, recipe: GrpoRecipe) -> None:
    """GRPO from `start`, sampling around its threshold; the router goes to routers/`name`, the curve to `name`.json.

    Where precision decides none of the screened tasks the router stays as it is, and the curve is empty.
    """
    if run.directory.stored(name) is not None:
        return
    sampler = router_path(run, f".{name}")
    tasks = run.tasks(seed).reinforced
    found = screened(run, seed) if recipe.screen and recipe.iterations else None
    if found is not None and not found.deciding:
        log.warning(
            "%s: of %d screened tasks high wins none that low loses: stage 2 has nothing to learn (grpo.screen, low)",
            name,
            len(found.others),
        )
        recipe = replace(recipe, iterations=0)
    limit = run.config.limit(sampled_share(run))
    job = run.job(run.split(Role.TRAIN), len(tasks), str(sampler), start=tasks.start, limit=limit)
    trained, curve = train_grpo(
        start,
        run.pool,
        job,
        references(run, seed)["high steps"],
        replace(recipe, seed=seed),
        sampler=sampler,
        screened=found,
        checkpoint=run.path / "checkpoints" / f"{name}.safetensors",
    )
    trained.save(router_path(run, name))
    shutil.rmtree(sampler, ignore_errors=True)
    run.directory.keep(name, curve)


def screened(run: Experiment, seed: int) -> ScreenedTasks:
    """The seed's tasks for stage 2, those apart where precision decides; they stay in screened-SEED.json."""
    stored = run.directory.stored(f"screened-{seed}")
    if stored is None:
        tasks = run.tasks(seed).reinforced
        found = screen(run.pool, run.job(run.split(Role.TRAIN), run.config.grpo.screen, "always:low", start=tasks.start))
        stored = run.directory.keep(f"screened-{seed}", {"deciding": found.deciding, "others": found.others})
    return ScreenedTasks(tuple(stored["deciding"]), tuple(stored["others"]))


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
