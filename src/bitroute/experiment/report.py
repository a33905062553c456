"""The end of a run: every policy played on the evaluated splits, compared, and reported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from bitroute.envs.suite import Role
from bitroute.episode import Episode
from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.figures import png
from bitroute.evaluation.learning import learning
from bitroute.evaluation.report import write_report
from bitroute.evaluation.results import Evaluation, PolicyRun
from bitroute.experiment.costs import cost_model
from bitroute.experiment.experiment import Experiment
from bitroute.experiment.policies import PolicyRow, policies
from bitroute.store.files import write_atomic
from bitroute.store.traces import read_traces


def evaluate_policies(run: Experiment) -> list[Evaluation]:
    """Play every policy on every evaluated split and compare."""
    rows = policies(run)
    cost = cost_model(run, rows)
    return [
        evaluate(
            [played for policy in rows for played in play_policy(run, split, count, policy)],
            environment=run.suite.title,
            ladder=run.ladder,
            cost=cost,
            action_kind=run.suite.action_kind,
        )
        for split, count in evaluated(run).items()
    ]


def evaluated(run: Experiment) -> dict[str, int]:
    """How many tasks of each evaluated split are played: a published split has no more than its own."""
    stored: dict[str, int] | None = run.directory.stored("tasks")
    if stored is None:
        sizes = {split: run.suite.size(split) for split in run.config.splits}
        stored = run.directory.keep("tasks", {s: min(n, sizes[s] or n) for s, n in run.config.splits.items()})
    return stored


def play_policy(run: Experiment, split: str, count: int, policy: PolicyRow) -> list[PolicyRun]:
    """One policy's runs on a split. Rules that draw at random have seeds too: as many as the trained routers."""
    runs = []
    for seed in run.config.seeds if policy.family == "random" else (policy.seed,):
        options = {"threshold": policy.threshold, "limit": policy.limit, "seeds": (seed,)}
        job = run.job(split, count, policy.router, policy.name, **options)
        name = f"{split}/{policy.name}-{seed}"
        if policy.scheme is None:
            episodes = run.record(name, job)
        else:
            with run.hosts(policy.scheme) as pool:
                episodes = replace(run, pool=pool).record(name, job)
        runs.append(PolicyRun(policy.name, seed, episodes, policy.role, policy.family, policy.budget))
    return runs


def write_run_report(run: Experiment, results: Sequence[Evaluation]) -> None:
    """Write report.html, report.json and the figures into the run's directory."""
    labels = [
        step.sensitivity
        for path in sorted((run.path / "traces").glob("seed-*/labels-[12]-*.jsonl"))
        for episode in read_traces(path)
        for step in episode.steps
        if step.sensitivity
    ]
    provenance = json.loads((run.path / "provenance.json").read_text())
    meta = {"title": f"bitroute on {run.suite.title}"} | provenance | run.config.model_dump(mode="json")
    curves = {
        name: curve
        for name in sorted(p.stem for p in run.path.glob("*.json") if p.stem.startswith(("dmr", "grpo")))
        if (curve := run.directory.stored(name))
    }
    if curves:
        write_atomic(run.path / "figures" / "learning.png", png(learning(curves), (8, 7)))
    write_report(run.path, results, labels, example_episode(run), meta, run.suite.action_kind, notes(run))


def notes(run: Experiment) -> list[str]:
    """How to read the tables: who saw which tasks before, and what costs are made of."""
    config = run.config
    seeds = f"each of the {len(config.seeds)} seeds" if len(config.seeds) > 1 else "the one seed"
    cost = run.directory.stored("cost")
    where = cost["measured"].get("processor", "a machine that the profile does not name")
    errors = [found["rms"] for found in cost["residuals"].values()]
    fit = f"explain the timed calls to {100 * max(errors):.0f} % (root mean square)" if errors else "are given, not fitted"
    return [
        f"Routers learned on {run.split(Role.TRAIN)}; tau, epochs and thresholds were chosen on {run.split(Role.VALIDATION)}, "
        f"by {seeds} on tasks of its own. Low variant, budgets and rivals stood in the configuration before. "
        f"{', '.join(evaluated(run))} was played after all of that, once.",
        f"Costs are {cost['unit']} of {cost['engine']} on {where}, one agent at a time: calls, tokens read anew (catching up "
        f"included), looked back on and decoded, at the rates of cost.json, which {fit}; and the time of each router's "
        "decisions on this machine.",
    ]


def example_episode(run: Experiment) -> list[Episode]:
    """An episode of the first evaluated split that low lost and the router won, played again with labels; or the first one."""
    split = next(iter(run.config.splits))
    budget = max(run.config.budgets)
    policy = next(p for p in policies(run) if p.family == "dmr" and p.budget == budget)
    low, routed = (
        list(read_traces(run.path / "traces" / split / f"{name}.jsonl"))
        for name in ("all-low-0", f"{policy.name}-{policy.seed}")
    )
    saved = [i for i, (a, b) in enumerate(zip(low, routed, strict=True)) if b.success and not a.success]
    start = saved[0] if saved else 0
    options = {"threshold": policy.threshold, "limit": policy.limit, "label": True, "start": start}
    job = run.job(split, 1, policy.router, policy.name, **options)
    return run.record("example", job)
