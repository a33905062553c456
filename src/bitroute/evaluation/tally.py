"""From stored episodes to numbers by task: what each run of a policy solved, spent and cost. It compares nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bitroute.cost import CostModel
from bitroute.episode import Episode
from bitroute.errors import DataError
from bitroute.evaluation.results import PolicyRole, PolicyRun, Spending, VerbSpending
from bitroute.evaluation.statistics import Floats

SUCCESS, SHARE, COST, HIGH, STEPS = range(5)  # columns: the last two count steps, at the highest variant and in all
WIDTH = 5
Key = tuple[str, str]  # split, task id


@dataclass(slots=True)
class Tally:
    """What is kept of one run: a row per task, and where high precision went, by split."""

    rows: dict[Key, tuple[float, ...]] = field(default_factory=dict)
    failed: set[Key] = field(default_factory=set)
    kinds: dict[Key, str] = field(default_factory=dict)
    deciles: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)  # [10, (steps, high steps)]
    verbs: dict[str, dict[str, list[int]]] = field(default_factory=dict)


@dataclass(slots=True)
class TalliedPolicy:
    """One policy: its runs, reduced."""

    name: str
    family: str
    role: PolicyRole
    budget: float | None
    tallies: dict[int, Tally] = field(default_factory=dict)

    def columns(self, keys: Sequence[Key]) -> Floats:
        """[seeds, tasks, columns]."""
        return np.array([[tally.rows[key] for key in keys] for tally in self.tallies.values()], dtype=np.float64)

    def failures(self, keys: Sequence[Key]) -> int:
        """Episodes that broke, over all seeds."""
        return sum(key in tally.failed for tally in self.tallies.values() for key in keys)


def tally_runs(
    runs: Sequence[PolicyRun], highest: str, cost: CostModel, action_kind: Callable[[str], str]
) -> dict[str, TalliedPolicy]:
    """Read each run's episodes once. Raises DataError when the runs did not play the same tasks, each once."""
    policies: dict[str, TalliedPolicy] = {}
    expected: set[Key] | None = None
    for run in runs:
        policy = policies.setdefault(run.policy, TalliedPolicy(run.policy, run.family or run.policy, run.role, run.budget))
        if run.seed in policy.tallies:
            raise DataError(f"policy {run.policy}: two runs have seed {run.seed}")
        tally = Tally()
        for episode in run.episodes:
            _add(tally, run, episode, highest, cost)
            _add_verbs(tally, episode, highest, action_kind)
        keys = set(tally.rows)
        expected = keys if expected is None else expected
        if keys != expected:
            odd = min(keys ^ expected)
            raise DataError(
                f"policy {run.policy}, seed {run.seed}: played {len(keys)} tasks where {runs[0].policy} played "
                f"{len(expected)}; they differ, for one, in task {odd[1]} of split {odd[0]}"
            )
        policy.tallies[run.seed] = tally
    if not expected:
        raise DataError("nothing to evaluate: the runs hold no episodes")
    return policies


def _add(tally: Tally, run: PolicyRun, episode: Episode, highest: str, cost: CostModel) -> None:
    key = (episode.split, episode.task_id)
    if key in tally.rows:
        raise DataError(
            f"policy {run.policy}, seed {run.seed}: task {episode.task_id} of split {episode.split} was played twice"
        )
    flags = [step.decision.variant == highest for step in episode.steps]
    length, high = len(flags), sum(flags)
    solved = episode.success and episode.failure is None
    spent = cost.episode(episode, run.family or run.policy)
    tally.rows[key] = (float(solved), high / length if length else 0.0, spent, float(high), float(length))
    tally.kinds[key] = episode.kind
    if episode.failure is not None:
        tally.failed.add(key)
    deciles = tally.deciles.setdefault(episode.split, np.zeros((10, 2), dtype=np.int64))
    for t, flag in enumerate(flags):
        deciles[int(10 * (t + 0.5) / length)] += (1, flag)  # the middle of a step is where it lies on the trajectory


def _add_verbs(tally: Tally, episode: Episode, highest: str, action_kind: Callable[[str], str]) -> None:
    verbs = tally.verbs.setdefault(episode.split, {})
    for step in episode.steps:
        counts = verbs.setdefault(action_kind(step.action), [0, 0])
        counts[0] += 1
        counts[1] += step.decision.variant == highest


def spending_of(policies: dict[str, TalliedPolicy]) -> tuple[Spending, ...]:
    """Where each policy spent high precision, all seeds together."""
    found = []
    for policy in policies.values():
        tallies = list(policy.tallies.values())
        for split in tallies[0].deciles:
            deciles = np.sum([tally.deciles[split] for tally in tallies], axis=0)
            verbs: dict[str, list[int]] = {}
            for tally in tallies:
                for verb, (steps, high) in tally.verbs[split].items():
                    counts = verbs.setdefault(verb, [0, 0])
                    counts[0] += steps
                    counts[1] += high
            found.append(
                Spending(
                    split=split,
                    policy=policy.name,
                    deciles=tuple(float(high / steps) if steps else None for steps, high in deciles),
                    verbs=tuple(
                        VerbSpending(verb, steps, high / steps)
                        for verb, (steps, high) in sorted(verbs.items(), key=lambda item: (-item[1][0], item[0]))
                    ),
                )
            )
    return tuple(found)
