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
# Rules without a budget, and what they are played with: steps that `repetition` stays at high after a repeated message, nats by
# which a draft's choice may be less likely to high than its own for `verify` to accept it.
SETTINGS: Final = {"repetition": (0, 1, 2, 4), "verify": (0, 1, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRow:
    """A row of the table: how a worker builds the router, at which threshold, within which hard budget, if any, and over which
    low variant if not the run's.
    """

    name: str
    family: str
    router: str
    role: PolicyRole
    seed: int = 0
    budget: float | None = None
    threshold: float | None = None
    limit: float | None = None
    scheme: str | None = None


def policies(run: Experiment) -> list[PolicyRow]:
    """Every policy of the table, calibrated: the thresholds of all budgets, found by playing the validation split."""
    found = [*fixed(run), *uncalibrated(run)]
    if "first-k" in run.config.baselines:
        found += [first_k(run, seed, budget) for seed in run.config.seeds for budget in run.config.budgets]
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


def fixed(run: Experiment) -> list[PolicyRow]:
    """Each variant alone, those of the configuration's `beside` included."""
    found = [
        PolicyRow(name=f"all-{end}", family=f"all-{end}", router=f"always:{end}", role=PolicyRole.FIXED)
        for end in ("high", "low")
    ]
    return found + [
        PolicyRow(name=f"all-{scheme}", family=f"all-{scheme}", router="always:low", role=PolicyRole.FIXED, scheme=scheme)
        for scheme in run.config.beside
    ]


def uncalibrated(run: Experiment) -> list[PolicyRow]:
    """The rules that spend what they spend, at each of their settings, and those that take a budget as it is."""
    found = []
    for rule, settings in SETTINGS.items():
        if rule in run.config.baselines:
            found += [
                PolicyRow(
                    name=f"{rule}-{setting:g}" if setting else rule,
                    family=rule,
                    router=f"{rule}:{setting:g}",
                    role=PolicyRole.BASELINE,
                )
                for setting in settings
            ]
    for budget in run.config.budgets:
        for rule in ("random", "periodic"):
            if rule in run.config.baselines:
                found.append(
                    PolicyRow(
                        name=f"{rule}@{budget:g}",
                        family=rule,
                        router=f"{rule}:{budget}",
                        role=PolicyRole.BASELINE,
                        budget=budget,
                        limit=run.config.limit(budget),
                    )
                )
    return found


def first_k(run: Experiment, seed: int, budget: float) -> PolicyRow:
    """The first steps of an episode at high, as many as spend the budget on the seed's part of the validation split."""
    name = f"thresholds/first-k-{seed}@{budget:g}"
    stored = run.directory.stored(name)
    if stored is None:
        tasks, limit = run.tasks(seed).calibration, run.config.limit(budget)

        def play(k: float) -> Sequence[Episode]:
            options = {"start": tasks.start, "limit": limit}
            job = run.job(run.split(Role.VALIDATION), len(tasks), f"first-k:{k!r}", "first-k", **options)
            return run.pool.play([job], f"calibrate first-k seed {seed} to {budget:g}")[0]

        # A step's score is minus its number: the search is that of thresholds, a step of an episode is a part of one.
        scores = [-(t + part / 8) for episode in play(0.0) for t in range(len(episode.steps)) for part in range(8)]
        result = calibrate(budget, lambda threshold: realised_share(play(max(0.0, -threshold)), run.ladder), scores)
        stored = run.directory.keep(name, {"threshold": result.threshold, "share": result.share, "trials": result.trials})
    return PolicyRow(
        name=f"first-k@{budget:g}",
        family="first-k",
        router=f"first-k:{max(0.0, -stored['threshold'])!r}",
        role=PolicyRole.BASELINE,
        seed=seed,
        budget=budget,
        limit=run.config.limit(budget),
    )


def scored(run: Experiment) -> list[PolicyRow]:
    """The policies that score steps, and so need thresholds."""
    rules = {
        **{name: (f"uncertainty:{name}", PolicyRole.BASELINE) for name in ("entropy", "margin", "past-entropy", "past-margin")},
        "oracle": ("oracle", PolicyRole.ORACLE),
    }
    files = {"signals": "signals-{}.json"} if "signals" in run.config.baselines else {}
    learned = [f"dmr{inputs}" for inputs in inputs_of(run)]
    if "paper" in run.config.ablations:
        learned.append("dmr-paper")
    if "kl-st" in run.config.ablations:
        learned += [f"kl-st{inputs}" for inputs in inputs_of(run)]
    if "grpo" in run.config.ablations:
        learned.append("grpo")
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
