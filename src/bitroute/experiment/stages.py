"""The whole method on ALFWorld, stage by stage: label, KL-ST, GRPO, calibrate, evaluate. Each stage's result is a file of
the run.

Who may see what: routers learn on `router-train`; every choice (tau, the epoch, thresholds) is made on `validation`; the
evaluated splits are played once, at the end, with everything frozen. A run that was stopped goes on with the first result that
is missing.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from bitroute.cost import CostModel, Rates
from bitroute.engines.loading import HIGH, identity, quantize
from bitroute.envs.alfworld.suite import (
    FAILURES,
    OFFICIAL,
    calibration_batches,
    check_tasks,
    load_player,
    official_games,
    task_at,
)
from bitroute.episode import Episode, Task
from bitroute.errors import ConfigError
from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.report import write_report
from bitroute.evaluation.results import Evaluation, Role, Run
from bitroute.experiment.config import ExperimentConfig
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.workers import Hosting, Job, Workers, workers
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.routers.encoder.dataset import Reader, read_episode
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter, load_encoder
from bitroute.routers.signals import SignalsRouter, features, fit
from bitroute.routers.views import views_of
from bitroute.store.runs import RunDirectory
from bitroute.store.traces import read_traces
from bitroute.training.calibration import calibrate
from bitroute.training.grpo import train_grpo
from bitroute.training.supervised import LabelledTrajectory, predict, train_supervised

# Trajectories of mixed policies: all-high never visits the states that low's mistakes lead to.
MIXTURE = ("always:low", "random:0.25", "random:0.5", "always:high")


@dataclass(frozen=True, slots=True)
class Policy:
    """A row of the table: how a worker builds the router, and at which threshold."""

    name: str
    family: str
    router: str
    role: Role
    seed: int = 0
    budget: float | None = None
    threshold: float | None = None


class Experiment:
    """One run: a configuration, a directory, and workers that play."""

    def __init__(self, config: ExperimentConfig, directory: RunDirectory, pool: Workers) -> None:
        self.config, self.run, self.pool = config, directory, pool
        self.path = directory.path
        self.tokenizer = Tokenizer.load(config.model)
        self.model = identity(config.model)
        self.ladder = (config.low, HIGH)
        self.reader = Reader(self.tokenizer)

    # Playing

    def job(self, split: str, count: int, router: str, policy: str = "", **options: Any) -> Job:
        """A job with the run's episode length."""
        return Job(split, count, router, policy or router, max_steps=self.config.max_steps, **options)

    def record(self, name: str, job: Job) -> list[Episode]:
        """Play into traces/`name`.jsonl, or read what stands there."""
        return self.pool.record(job, self.path / "traces" / f"{name}.jsonl", name)

    def references(self) -> dict[str, float]:
        """All-high and all-low on `validation`: success of both, and all-high's mean number of steps (the unit of cost)."""

        def play() -> dict[str, float]:
            found: dict[str, float] = {}
            for end in ("high", "low"):
                job = self.job("validation", self.config.calibration_tasks, f"always:{end}", f"all-{end}")
                episodes = self.record(f"validation-all-{end}", job)
                found |= {
                    f"{end} success": mean(e.success for e in episodes),
                    f"{end} steps": mean(len(e.steps) for e in episodes),
                }
            return found

        return self.run.once("references", play)

    # Labels and stage 1

    def label(self, name: str, split: str, tasks: int, policies: Sequence[str], start: int = 0) -> list[Episode]:
        """Labelled episodes, the tasks shared out among `policies`."""
        episodes: list[Episode] = []
        cuts = [start + round(i * tasks / len(policies)) for i in range(len(policies) + 1)]
        for number, (router, (first, end)) in enumerate(zip(policies, pairwise(cuts), strict=True)):
            job = self.job(split, end - first, router, start=first, label=True)
            episodes += self.record(f"{name}-{number}", job)
        return episodes

    def labelled(self, episodes: Sequence[Episode]) -> list[LabelledTrajectory]:
        """Episodes as the encoder's training input."""
        rows = []
        for episode in episodes:
            divergences = [s.sensitivity.kl_sum for s in episode.steps if s.sensitivity]
            if len(divergences) == len(episode.steps) > 0:
                rows.append(LabelledTrajectory(read_episode(self.reader, episode, HIGH), divergences))
        return rows

    @property
    def inputs(self) -> tuple[str, ...]:
        """Suffixes of the trained encoders: without the probe, and with it where the configuration wants both."""
        return ("", "+probe") if self.config.probe else ("",)

    def network(self, seed: int, inputs: str = "") -> EncoderNetwork:
        """An encoder that has not seen a label; its backbone has read trajectories where the configuration names one."""
        torch.manual_seed(seed)
        backbone = load_model(self.config.backbone, torch.float32) if self.config.backbone else None
        config = backbone.config if backbone else encoder_config(self.tokenizer.vocab_size)
        if backbone:
            Decoder(config)  # draws as loading did once: the head's first weights are those of all published figures
        network = EncoderNetwork(config, use_signals=self.config.use_signals, use_probe=inputs == "+probe")
        if backbone:
            network.backbone.load_state_dict(backbone.state_dict())
        return network

    def keep(self, network: EncoderNetwork, name: str, threshold: float = 0.0) -> Path:
        """Save an encoder as a router of this run."""
        path = self.path / "routers" / name
        EncoderRouter(network, self.tokenizer, self.ladder, threshold, model=self.model).save(path)
        return path

    def load(self, path: Path) -> EncoderRouter:
        """Read a router of this run."""
        return load_encoder(path, model=self.model, variants=self.ladder)

    def supervise(self) -> float:
        """Both rounds of KL-ST for every seed; returns tau (nats). Labels stay in traces/, routers go to routers/kl-st-SEED."""
        config = self.config
        first = self.label("labels-1", "router-train", config.label_tasks, MIXTURE)
        holdout = self.labelled(self.label("labels-holdout", "validation", config.holdout_tasks, MIXTURE[:3]))
        budget = max(config.budgets)

        def choose_tau() -> dict[str, Any]:
            every = np.concatenate([r.divergences for r in self.labelled(first)])
            trials: list[dict[str, Any]] = []
            for quantile in config.quantiles:
                network, tau = self.network(config.seeds[0]), float(np.quantile(every, quantile))
                curve = train_supervised(network, self.labelled(first), holdout, tau, config.supervised, budget)
                scores = predict(network, holdout)
                trials.append(
                    {"quantile": quantile, "tau": tau, "captured": max(row["captured"] for row in curve), "curve": curve}
                )
                self.keep(network, f"round-1-{quantile:g}", float(np.quantile(scores, 1 - budget)))
            return {"trials": trials, "best": max(trials, key=lambda t: t["captured"])}

        best = self.run.once("tau", choose_tau)["best"]
        own = str(self.path / "routers" / f"round-1-{best['quantile']:g}")
        second = self.label("labels-2", "router-train", config.label_tasks, [own], start=config.label_tasks)
        data = self.labelled([*first, *second])
        for seed, inputs in product(config.seeds, self.inputs):
            name = f"kl-st{inputs}-{seed}"

            def fit_encoder(seed: int = seed, inputs: str = inputs, name: str = name) -> list[dict[str, float]]:
                network = self.network(seed, inputs)
                curve = train_supervised(network, data, holdout, best["tau"], replace(config.supervised, seed=seed), budget)
                self.keep(network, name, recentre(predict(network, holdout), budget))
                return curve

            self.run.once(name, fit_encoder)

        def fit_signals() -> dict[str, float]:
            episodes = [e for e in (*first, *second) if e.steps]
            rows = np.array([features(view, HIGH, failures=FAILURES) for e in episodes for view in views_of(e)])
            labels = [s.sensitivity.kl_sum >= best["tau"] for e in episodes for s in e.steps if s.sensitivity]
            SignalsRouter(fit(rows, labels, self.ladder, self.model, failures=FAILURES)).save(
                self.path / "routers" / "signals.json"
            )
            return {"steps": float(len(labels)), "sensitive": mean(labels)}

        self.run.once("signals", fit_signals)
        return float(best["tau"])

    # Stage 2

    def reinforce(self, name: str, seed: int, start: EncoderNetwork, threshold: float) -> None:
        """GRPO from `start`, sampling around `threshold`; the router goes to routers/`name`, the curve to `name`.json."""

        def train() -> list[dict[str, float]]:
            recipe = replace(self.config.grpo, seed=seed)
            offset = 2 * self.config.label_tasks
            sampler = self.path / "routers" / f".{name}"

            numbers: dict[str, int] = {}

            def task(index: int) -> Task:
                found = task_at("router-train", offset + index)
                numbers[found.id] = offset + index
                return found

            def sample(pairs: Sequence[tuple[Task, int]]) -> list[Episode]:
                self.keep(start, sampler.name, threshold)
                seeds = tuple(dict.fromkeys(seed for _, seed in pairs))
                first, count = numbers[pairs[0][0].id], len(pairs) // len(seeds)
                job = self.job("router-train", count, str(sampler), start=first, seeds=seeds, sample=True)
                return self.pool.play([job])[0]

            curve = train_grpo(
                start,
                self.reader,
                self.ladder,
                (threshold,),
                task,
                sample,
                self.references()["high steps"],
                recipe,
                checkpoint=self.path / "checkpoints" / f"{name}.safetensors",
            )
            self.keep(start, name, threshold)
            shutil.rmtree(sampler, ignore_errors=True)
            return curve

        self.run.once(name, train)

    def both_stages(self) -> None:
        """GRPO on top of KL-ST for every seed, and GRPO alone where ablations are wanted."""
        budget = max(self.config.budgets)
        for seed, inputs in product(self.config.seeds, self.inputs):
            stage1 = self.load(self.path / "routers" / f"kl-st{inputs}-{seed}")
            self.reinforce(f"dmr{inputs}-{seed}", seed, stage1.network, stage1.thresholds[0])
        if self.config.ablations:
            for seed in self.config.seeds:
                self.reinforce(f"grpo-{seed}", seed, self.network(seed), math.log((1 - budget) / budget))

    # Budgets, tables

    def policies(self) -> list[Policy]:
        """Every policy of the table, calibrated: the thresholds of all budgets, found by playing `validation`."""
        config = self.config
        found = [
            Policy("all-high", "all-high", "always:high", Role.FIXED),
            Policy("all-low", "all-low", "always:low", Role.FIXED),
        ]
        for budget in config.budgets:
            for rule in ("random", "periodic"):
                if rule in config.baselines:
                    found.append(Policy(f"{rule}@{budget:g}", rule, f"{rule}:{budget}", Role.BASELINE, budget=budget))
        scored: list[Policy] = []
        specs = {
            "uncertainty": ("uncertainty:entropy", Role.BASELINE),
            "past-uncertainty": ("uncertainty:past-entropy", Role.BASELINE),
            "signals": (str(self.path / "routers" / "signals.json"), Role.LEARNED),
            "oracle": ("oracle", Role.ORACLE),
        }
        scored += [Policy(n, n, spec, role) for n, (spec, role) in specs.items() if n in config.baselines]
        learned = [f"dmr{inputs}" for inputs in self.inputs]
        if config.ablations:
            learned += [*(f"kl-st{inputs}" for inputs in self.inputs), "grpo"]
        scored += [
            Policy(n, n, str(self.path / "routers" / f"{n}-{seed}"), Role.LEARNED, seed)
            for n in learned
            for seed in config.seeds
        ]
        for policy in scored:
            rows = [self.calibrated(policy, budget) for budget in config.budgets]
            if policy.role is Role.LEARNED:
                save_calibration(Path(policy.router), rows)
            found += [
                replace(policy, name=f"{policy.name}@{row.budget:g}", budget=row.budget, threshold=row.threshold)
                for row in rows
            ]
        return found

    def calibrated(self, policy: Policy, budget: float) -> Calibrated:
        """The threshold at which `policy` spends `budget` on `validation`."""
        tasks = self.config.calibration_tasks

        def play(threshold: float) -> list[Episode]:
            job = self.job("validation", tasks, policy.router, policy.name, threshold=threshold)
            return self.pool.play([job], f"calibrate {policy.name} seed {policy.seed} to {budget:g}")[0]

        def search() -> dict[str, Any]:
            job = self.job("validation", min(tasks, 128), policy.router, policy.name, threshold=0.0)
            logged = self.pool.play([job], f"scores of {policy.name}")[0]
            scores = [s.decision.score for e in logged for s in e.steps if s.decision.score is not None]
            result = calibrate(budget, lambda t: share(play(t)), scores)
            return {"threshold": result.threshold, "share": result.share, "trials": result.trials}

        stored = self.run.once(f"thresholds/{policy.name}-{policy.seed}@{budget:g}", search)
        return Calibrated(budget, stored["threshold"], stored["share"])

    def tasks(self) -> dict[str, int]:
        """How many tasks of each evaluated split are played: an official split has no more than its games."""
        return {
            split: min(wanted, len(official_games(split.removeprefix(OFFICIAL)))) if split.startswith(OFFICIAL) else wanted
            for split, wanted in self.config.splits.items()
        }

    def evaluate(self) -> list[Evaluation]:
        """Play every policy on every evaluated split and compare."""
        policies = self.policies()
        results = []
        for split, count in self.run.once("tasks", self.tasks).items():
            runs = []
            for p in policies:
                # Rules that draw at random have seeds too: as many as the trained routers.
                seeds = self.config.seeds if p.family == "random" else (p.seed,)
                for seed in seeds:
                    job = self.job(split, count, p.router, p.name, threshold=p.threshold, seeds=(seed,))
                    episodes = self.record(f"{split}/{p.name}-{seed}", job)
                    runs.append(Run(p.name, seed, episodes, p.role, p.family, p.budget))
            rates = {self.config.low: Rates(call=self.config.low_call), HIGH: Rates(call=1.0)}
            cost = CostModel(unit="calls of the high variant", variants=rates)
            results.append(evaluate(runs, environment="ALFWorld", ladder=self.ladder, cost=cost))
        return results

    def report(self, results: Sequence[Evaluation]) -> None:
        """Write report.html, report.json and the figures into the run's directory."""
        labels = [
            s.sensitivity
            for path in sorted((self.path / "traces").glob("labels-[12]-*.jsonl"))
            for e in read_traces(path)
            for s in e.steps
            if s.sensitivity
        ]
        provenance = json.loads((self.path / "provenance.json").read_text())
        meta = {"title": "bitroute on ALFWorld"} | provenance | self.config.model_dump(mode="json")
        write_report(self.path, results, labels, self.examples(), meta)

    def examples(self) -> list[Episode]:
        """An episode of the first evaluated split that low lost and the router won, played again with labels; or the first
        one.
        """
        split = next(iter(self.config.splits))
        budget = max(self.config.budgets)
        policy = next(p for p in self.policies() if p.family == "dmr" and p.budget == budget)
        stored = {
            name: list(read_traces(self.path / "traces" / split / f"{name}.jsonl"))
            for name in ("all-low-0", f"{policy.name}-{policy.seed}")
        }
        low, routed = stored.values()
        saved = [i for i, (a, b) in enumerate(zip(low, routed, strict=True)) if b.success and not a.success]
        job = self.job(
            split, 1, policy.router, policy.name, threshold=policy.threshold, label=True, start=saved[0] if saved else 0
        )
        return self.record("example", job)


def share(episodes: Sequence[Episode], high: str = HIGH) -> float:
    """K: mean over episodes of the share of steps at high precision."""
    return mean(mean(s.decision.variant == high for s in e.steps) for e in episodes if e.steps)


def mean(values: Any) -> float:
    """Mean of an iterable of numbers or booleans."""
    return float(np.mean(list(values)))


def recentre(scores: Sequence[float] | Any, budget: float) -> float:
    """The threshold around which sampled decisions spend `budget`: mean sigmoid(score - threshold) = budget."""
    values = np.asarray(scores, dtype=np.float64)
    spread = 30.0
    return float(
        brentq(lambda t: float(np.mean(1 / (1 + np.exp(t - values)))) - budget, values.min() - spread, values.max() + spread)
    )


@contextmanager
def experiment(config: ExperimentConfig, out: Path, cores: int | None = None) -> Iterator[Experiment]:
    """Open or continue the run in `out`: makes the low variant, starts the workers. Bad input raises before anything is
    written.
    """
    identity(config.model)
    words = Tokenizer.load(config.model).vocab_size
    if config.backbone and (held := load_model(config.backbone, torch.float32).config.vocab_size) < words:
        raise ConfigError(
            f"{config.backbone}: has {held} tokens, the tokenizer of {config.model} {words}; want another backbone"
        )
    for split in config.splits:
        check_tasks(split, 1)
    with RunDirectory(out, config.model_dump(mode="json")) as directory:
        quantize(config.model, config.low, out / "variants", lambda: calibration_batches(config.model))
        hosting = Hosting(config.model, (config.low,), out / "variants", config.cache_mode, config.dtype)
        with workers(load_player, hosting, cores) as pool:
            yield Experiment(config, directory, pool)
