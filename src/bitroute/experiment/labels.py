"""The labels of one seed: divergences on episodes of mixed policies, the measured worth of single steps, and what stage 1
learns from both.

It plays through the run and reads what was played; it trains nothing but the small regression of `training.targets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from bitroute.envs.suite import Role
from bitroute.episode import Episode
from bitroute.experiment.experiment import Experiment
from bitroute.rollout.workers import Replay
from bitroute.routers.encoder.dataset import read_episode
from bitroute.training.branching import choose_points, measured, replays
from bitroute.training.supervised import LabelledTrajectory
from bitroute.training.targets import EffectModel, cut, fit_effects, mixed_targets

# Trajectories of mixed policies: all-high never visits the states that low's mistakes lead to.
MIXTURE: Final = ("always:low", "random:0.25", "random:0.5", "always:high")


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


def measure_effects(run: Experiment, seed: int) -> EffectModel | None:
    """The worth of one step at high, as a function of features and KL, from states of low's own episodes that are played again
    with high there. None where the configuration wants none, or where no step was worth anything.

    How many states there were and what came of them goes to effects-SEED.json.
    """
    if not run.config.branches:
        return None
    tasks, split = run.tasks(seed), run.split(Role.TRAIN)
    start, count = tasks.first.start, len(tasks.first) + len(tasks.second)
    low = run.record(f"seed-{seed}/branch-origins", run.job(split, count, "always:low", start=start))
    points = choose_points(low, run.config.branches, seed)
    chosen = sorted({point.origin for point in points})
    again = tuple(Replay(start + origin, 0) for origin in chosen)
    job = run.job(split, 0, "always:low", label=True, replays=again)
    labels = dict(zip(chosen, run.record(f"seed-{seed}/branch-labels", job), strict=True))
    job = run.job(split, 0, "always:low", "one step at high", replays=replays(points, start, 0, run.ladder[-1]))
    found = measured(points, low, run.record(f"seed-{seed}/branches", job))
    features = {origin: read_episode(run.reader, e, run.ladder[-1]).features for origin, e in labels.items()}
    known = [e for e in found if e.point.step < len(labels[e.point.origin].steps)]
    steps = [labels[e.point.origin].steps[e.point.step] for e in known]
    divergences = [s.sensitivity.kl_sum if s.sensitivity else 0.0 for s in steps]
    rows = np.array([features[e.point.origin][e.point.step] for e in known])
    gains, weights = np.array([e.gain for e in known]), np.array([e.point.weight for e in known])
    run.directory.once(
        f"effects-{seed}",
        lambda: {
            "episodes": count,
            "lost": sum(not e.success for e in low),
            "states": len(known),
            "helped": int((gains > 0).sum()),
            "hurt": int((gains < 0).sum()),
            "effect": float(np.average(gains, weights=weights)),
        },
    )
    return fit_effects(rows, divergences, gains, weights) if gains.any() else None


def targeted(rows: Sequence[LabelledTrajectory], model: EffectModel | None, tau: float, mix: float) -> list[LabelledTrajectory]:
    """The rows with what stage 1 is to learn: sensitivity alone (`mix` 0, or no `model`), or a mix with the effect."""
    if model is None or mix == 0:
        return list(rows)
    divergences = np.concatenate([row.divergences for row in rows])
    effects = model.predict(np.array([f for row in rows for f in row.trajectory.features]), divergences)
    targets = cut(mixed_targets(divergences, effects, tau, mix), [len(row.divergences) for row in rows])
    return [replace(row, targets=part) for row, part in zip(rows, targets, strict=True)]
