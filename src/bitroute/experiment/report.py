"""The end of a run: every policy played on the evaluated splits, compared, and reported."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bitroute.cost import CostModel, Rates
from bitroute.episode import Episode
from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.report import write_report
from bitroute.evaluation.results import Evaluation, PolicyRun
from bitroute.experiment.experiment import Experiment
from bitroute.experiment.policies import PolicyRow, policies
from bitroute.store.traces import read_traces


def evaluate_policies(run: Experiment) -> list[Evaluation]:
    """Play every policy on every evaluated split and compare."""
    rows = policies(run)
    low, high = run.ladder
    rates = {low: Rates(call=run.config.low_call), high: Rates(call=1.0)}
    cost = CostModel(unit="calls of the high variant", variants=rates)
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
        episodes = run.record(f"{split}/{policy.name}-{seed}", job)
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
    write_report(run.path, results, labels, example_episode(run), meta, run.suite.action_kind)


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
