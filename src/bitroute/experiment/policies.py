"""The rows of the table: which policies are compared, and at which thresholds they spend which budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bitroute.envs.suite import Role
from bitroute.episode import Episode
from bitroute.evaluation.results import PolicyRole
from bitroute.experiment.experiment import Experiment
from bitroute.experiment.stages import inputs_of, router_path
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.training.calibration import calibrate, realised_share

LOGGED: Final = 128  # tasks whose scores show where to search for thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """A row of the table: how a worker builds the router, at which threshold, and within which hard budget, if any."""

    name: str
    family: str
    router: str
    role: PolicyRole
    seed: int = 0
    budget: float | None = None
    threshold: float | None = None
    limit: float | None = None


def policies(run: Experiment) -> list[PolicyRow]:
    """Every policy of the table, calibrated: the thresholds of all budgets, found by playing the validation split."""
    found = [
        PolicyRow(name="all-high", family="all-high", router="always:high", role=PolicyRole.FIXED),
        PolicyRow(name="all-low", family="all-low", router="always:low", role=PolicyRole.FIXED),
    ]
    if "repetition" in run.config.baselines:  # it spends what it spends
        found.append(PolicyRow(name="repetition", family="repetition", router="repetition", role=PolicyRole.BASELINE))
    for budget in run.config.budgets:
        for rule in ("random", "periodic"):
            if rule in run.config.baselines:
                name, router = f"{rule}@{budget:g}", f"{rule}:{budget}"
                limit = run.config.limit(budget)
                found.append(
                    PolicyRow(name=name, family=rule, router=router, role=PolicyRole.BASELINE, budget=budget, limit=limit)
                )
    for policy in scored(run):
        rows = [calibrated(run, policy, budget) for budget in run.config.budgets]
        if policy.role is PolicyRole.LEARNED:
            save_calibration(Path(policy.router), rows)
        found += [
            replace(
                policy,
                name=f"{policy.name}@{row.budget:g}",
                budget=row.budget,
                threshold=row.threshold,
                limit=run.config.limit(row.budget),
            )
            for row in rows
        ]
    return found


def scored(run: Experiment) -> list[PolicyRow]:
    """The policies that score steps, and so need thresholds."""
    rules = {
        "uncertainty": ("uncertainty:entropy", PolicyRole.BASELINE),
        "past-uncertainty": ("uncertainty:past-entropy", PolicyRole.BASELINE),
        "oracle": ("oracle", PolicyRole.ORACLE),
    }
    files = {"signals": "signals-{}.json"} if "signals" in run.config.baselines else {}
    learned = [f"dmr{inputs}" for inputs in inputs_of(run)]
    if run.config.ablations:
        learned += [*(f"kl-st{inputs}" for inputs in inputs_of(run)), "grpo"]
    files |= {name: f"{name}-{{}}" for name in learned}
    return [
        PolicyRow(name=name, family=name, router=router, role=role, seed=seed)
        for name, (router, role) in rules.items()
        if name in run.config.baselines
        for seed in run.config.seeds
    ] + [
        PolicyRow(name=name, family=name, router=str(router_path(run, file.format(seed))), role=PolicyRole.LEARNED, seed=seed)
        for name, file in files.items()
        for seed in run.config.seeds
    ]


def calibrated(run: Experiment, policy: PolicyRow, budget: float) -> Calibrated:
    """The threshold at which `policy` spends `budget` on its seed's part of the validation split."""
    name = f"thresholds/{policy.name}-{policy.seed}@{budget:g}"
    stored = run.directory.stored(name)
    if stored is None:
        start, limit = run.tasks(policy.seed).calibration.start, run.config.limit(budget)

        def play(tasks: int, threshold: float, title: str) -> Sequence[Episode]:
            options = {"threshold": threshold, "start": start, "limit": limit}
            job = run.job(run.split(Role.VALIDATION), tasks, policy.router, policy.name, **options)
            return run.pool.play([job], title)[0]

        tasks = run.config.calibration_tasks
        logged = play(min(tasks, LOGGED), 0.0, f"scores of {policy.name}")
        scores = [s.decision.score for e in logged for s in e.steps if s.decision.score is not None]
        title = f"calibrate {policy.name} seed {policy.seed} to {budget:g}"
        result = calibrate(budget, lambda threshold: realised_share(play(tasks, threshold, title), run.ladder), scores)
        found = {"threshold": result.threshold, "share": result.share, "trials": result.trials}
        stored = run.directory.keep(name, found)
    return Calibrated(budget, stored["threshold"], stored["share"])
