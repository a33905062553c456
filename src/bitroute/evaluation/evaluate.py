"""From stored episodes of many policies on the same tasks to one frozen result. It plays nothing and draws nothing.

Success, share of high steps and cost of every policy become columns over tasks (seeds averaged); all intervals come from the
same resamples of the tasks, so every comparison is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import lcm

import numpy as np
import numpy.typing as npt

from bitroute.cost import CostModel
from bitroute.episode import Episode, first_word
from bitroute.errors import DataError
from bitroute.evaluation.results import (
    ALL_KINDS,
    Comparison,
    EqualShare,
    Evaluation,
    PolicyRole,
    PolicyRun,
    Spending,
    TableRow,
    VerbSpending,
)
from bitroute.evaluation.statistics import (
    RESAMPLES,
    Discordance,
    Estimate,
    Floats,
    bootstrap_means,
    gap_of_means,
    holm,
    mcnemar,
    paired_z,
    percentile_interval,
    ratio_estimate,
    sign_flip,
    spread,
    wilson,
)

_SUCCESS, _SHARE, _COST = 0, 1, 2
Key = tuple[str, str]  # split, task id


@dataclass(slots=True)
class _Tally:
    """What is kept of one run: a row per task, and where high precision went, by split."""

    scores: dict[Key, tuple[float, float, float]] = field(default_factory=dict)  # success, share, cost
    lengths: dict[Key, int] = field(default_factory=dict)
    failed: set[Key] = field(default_factory=set)
    kinds: dict[Key, str] = field(default_factory=dict)
    deciles: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)  # [10, (steps, high steps)]
    verbs: dict[str, dict[str, list[int]]] = field(default_factory=dict)


@dataclass(slots=True)
class _Policy:
    """One policy: its runs, reduced."""

    name: str
    family: str
    role: PolicyRole
    budget: float | None
    tallies: dict[int, _Tally] = field(default_factory=dict)

    def scores(self, keys: Sequence[Key]) -> Floats:
        """[seeds, tasks, 3]: success, share, cost."""
        return np.array([[tally.scores[key] for key in keys] for tally in self.tallies.values()], dtype=np.float64)


def evaluate(
    runs: Sequence[PolicyRun],
    *,
    environment: str,
    ladder: Sequence[str],
    cost: CostModel | None = None,
    action_kind: Callable[[str], str] = first_word,
    reference: str = "all-high",
    low: str = "all-low",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Compare policies that played the same tasks; each run's episodes are read once.

    `ladder` is cheapest first; `reference` and `low` name the policies that success and cost are measured against; `cost` is
    the paper's call count unless given, `action_kind` groups actions in the table of spending. An episode without steps (it
    broke at once) has share 0. Raises DataError when a run lacks tasks that another has, plays one twice, repeats a seed, or
    when reference or low is missing.
    """
    model = cost or CostModel.steps(ladder)
    policies = _reduce(runs, ladder[-1], model, action_kind)
    for needed in (reference, low):
        if needed not in policies:
            raise DataError(f"no run of policy {needed!r} was given (policies: {', '.join(policies) or 'none'})")
    first = next(iter(policies[reference].tallies.values()))
    rows: list[TableRow] = []
    equal: list[EqualShare] = []
    for split in dict.fromkeys(key[0] for key in first.scores):
        keys = [key for key in first.scores if key[0] == split]
        table = _Table(policies, keys, resamples, seed)
        rows += _holm_rows(table.rows(split, ALL_KINDS, reference, low))
        equal += _holm_equal(table.equal_share(split, reference, low))
        by_kind: list[TableRow] = []
        for kind in sorted({first.kinds[key] for key in keys}):
            part = _Table(policies, [key for key in keys if first.kinds[key] == kind], resamples, seed)
            by_kind += part.rows(split, kind, reference, low)
        rows += _holm_rows(by_kind)
    return Evaluation(
        environment=environment,
        ladder=tuple(ladder),
        reference=reference,
        low=low,
        cost_unit=model.unit,
        resamples=resamples,
        seed=seed,
        rows=tuple(rows),
        equal_share=tuple(equal),
        spending=_spending(policies),
    )


def _reduce(runs: Sequence[PolicyRun], highest: str, model: CostModel, action_kind: Callable[[str], str]) -> dict[str, _Policy]:
    policies: dict[str, _Policy] = {}
    expected: set[Key] | None = None
    for run in runs:
        policy = policies.setdefault(run.policy, _Policy(run.policy, run.family or run.policy, run.role, run.budget))
        if run.seed in policy.tallies:
            raise DataError(f"policy {run.policy}: two runs have seed {run.seed}")
        tally = _Tally()
        for episode in run.episodes:
            _add(tally, run, episode, highest, model)
            _add_verbs(tally, episode, highest, action_kind)
        keys = set(tally.scores)
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


def _add(tally: _Tally, run: PolicyRun, episode: Episode, highest: str, model: CostModel) -> None:
    key = (episode.split, episode.task_id)
    if key in tally.scores:
        raise DataError(
            f"policy {run.policy}, seed {run.seed}: task {episode.task_id} of split {episode.split} was played twice"
        )
    flags = [step.decision.variant == highest for step in episode.steps]
    length = len(flags)
    solved = episode.success and episode.failure is None
    tally.scores[key] = (float(solved), sum(flags) / length if length else 0.0, model.episode(episode, run.policy))
    tally.lengths[key] = length
    tally.kinds[key] = episode.kind
    if episode.failure is not None:
        tally.failed.add(key)
    deciles = tally.deciles.setdefault(episode.split, np.zeros((10, 2), dtype=np.int64))
    for t, high in enumerate(flags):
        deciles[int(10 * (t + 0.5) / length)] += (1, high)  # the middle of a step is where it lies on the trajectory


def _add_verbs(tally: _Tally, episode: Episode, highest: str, action_kind: Callable[[str], str]) -> None:
    verbs = tally.verbs.setdefault(episode.split, {})
    for step in episode.steps:
        counts = verbs.setdefault(action_kind(step.action), [0, 0])
        counts[0] += 1
        counts[1] += step.decision.variant == highest


class _Table:
    """The columns of all policies over one set of tasks, their means, and the resampled means."""

    def __init__(self, policies: dict[str, _Policy], keys: Sequence[Key], resamples: int, seed: int) -> None:
        self.policies = policies
        self.keys = keys
        self.scores = {name: policy.scores(keys) for name, policy in policies.items()}  # [seeds, tasks, 3] each
        self.columns = np.stack([scores.mean(axis=0) for scores in self.scores.values()], axis=1)  # [tasks, policies, 3]
        self.means: Floats = self.columns.mean(axis=0)  # [policies, 3]
        self.samples = bootstrap_means(self.columns.reshape(len(keys), -1), resamples=resamples, seed=seed).reshape(
            resamples, len(policies), 3
        )
        self.index = {name: i for i, name in enumerate(policies)}

    def rows(self, split: str, kind: str, reference: str, low: str) -> list[TableRow]:
        """One row a policy; `p_holm` still holds the raw p-value."""
        return [self._row(policy, split, kind, reference, low) for policy in self.policies.values()]

    def _row(self, policy: _Policy, split: str, kind: str, reference: str, low: str) -> TableRow:
        i, top, bottom = self.index[policy.name], self.index[reference], self.index[low]
        tallies = policy.tallies.values()
        per_seed = self.scores[policy.name].mean(axis=1)  # [seeds, 3]
        trio = [i, bottom, top]
        return TableRow(
            split=split,
            kind=kind,
            policy=policy.name,
            family=policy.family,
            role=policy.role,
            budget=policy.budget,
            seeds=tuple(policy.tallies),
            n=len(self.keys),
            success=self._success(i),
            success_sd=spread([float(x) for x in per_seed[:, _SUCCESS]]),
            share=Estimate(float(self.means[i, _SHARE]), *percentile_interval(self.samples[:, i, _SHARE])),
            share_sd=spread([float(x) for x in per_seed[:, _SHARE]]),
            cost=ratio_estimate(
                float(self.means[i, _COST]),
                float(self.means[top, _COST]),
                self.samples[:, i, _COST],
                self.samples[:, top, _COST],
            ),
            steps=float(np.mean([tally.lengths[key] for tally in tallies for key in self.keys])),
            failures=sum(key in tally.failed for tally in tallies for key in self.keys),
            gap=gap_of_means(self.means[trio, _SUCCESS], self.samples[:, trio, _SUCCESS]),
            against=tuple(self._compare(policy.name, name) for name in (reference, low) if name != policy.name),
        )

    def _success(self, i: int) -> Estimate:
        mean = float(self.means[i, _SUCCESS])
        if mean in (0.0, 1.0):
            # Every resample is alike: the percentile interval would have no width, however few the tasks.
            return wilson(round(mean * len(self.keys)), len(self.keys))
        return Estimate(mean, *percentile_interval(self.samples[:, i, _SUCCESS]))

    def _compare(self, name: str, reference: str) -> Comparison:
        i, j = self.index[name], self.index[reference]
        difference = Estimate(
            float(self.means[i, _SUCCESS] - self.means[j, _SUCCESS]),
            *percentile_interval(self.samples[:, i, _SUCCESS] - self.samples[:, j, _SUCCESS]),
        )
        test = _paired_test(self.scores[name][:, :, _SUCCESS] > 0, self.scores[reference][:, :, _SUCCESS] > 0)
        return Comparison(reference, difference, test.wins, test.losses, test.p, test.p)

    def equal_share(self, split: str, reference: str, low: str) -> list[EqualShare]:
        """Every learned policy against every other family's curve; `p_holm` still holds the raw p-value."""
        ends = [self.index[low], self.index[reference]]
        families: dict[str, list[int]] = {}
        for name, policy in self.policies.items():
            if policy.role is not PolicyRole.FIXED:
                families.setdefault(policy.family, []).append(self.index[name])
        found = []
        for name, policy in self.policies.items():
            if policy.role is not PolicyRole.LEARNED:
                continue
            i = self.index[name]
            for family, members in families.items():
                if family == policy.family:
                    continue
                mix = self._mix([*ends, *members], float(self.means[i, _SHARE]))
                differences = self.columns[:, i, _SUCCESS] - self.columns[:, :, _SUCCESS] @ mix
                resampled = self.samples[:, i, _SUCCESS] - self.samples[:, :, _SUCCESS] @ mix
                p = paired_z(differences)
                found.append(
                    EqualShare(
                        split=split,
                        policy=name,
                        family=family,
                        oracle=any(p.family == family and p.role is PolicyRole.ORACLE for p in self.policies.values()),
                        share=float(self.means[i, _SHARE]),
                        curve=float(self.means[:, _SUCCESS] @ mix),
                        difference=Estimate(float(differences.mean()), *percentile_interval(resampled)),
                        p=p,
                        p_holm=p,
                    )
                )
        return found

    def _mix(self, members: Sequence[int], share: float) -> Floats:
        """Weights [policies] of the two neighbours of `share` among `members`; the nearest alone beyond the ends."""
        shares = self.means[:, _SHARE]
        ordered = sorted(members, key=lambda i: float(shares[i]))
        weights = np.zeros(len(shares))
        above = next((k for k, i in enumerate(ordered) if shares[i] >= share), len(ordered) - 1)
        right, left = ordered[above], ordered[max(0, above - 1)]
        width = float(shares[right] - shares[left])
        part = min(1.0, (share - float(shares[left])) / width) if width > 0 else 1.0
        weights[left] += 1 - part
        weights[right] += part
        return weights


def _paired_test(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Discordance:
    """Exact test of two policies' successes [seeds, tasks]."""
    if len(first) == len(second) == 1:
        return mcnemar(first[0], second[0])
    common = lcm(len(first), len(second))
    ahead = first.sum(axis=0) * (common // len(first)) - second.sum(axis=0) * (common // len(second))
    return sign_flip(ahead.astype(np.int64))


def _holm_rows(rows: Sequence[TableRow]) -> list[TableRow]:
    """Correct the comparisons of one table, each reference being a family of its own."""
    adjusted: dict[tuple[int, str], float] = {}
    for reference in dict.fromkeys(c.reference for row in rows for c in row.against):
        places = [(i, c) for i, row in enumerate(rows) for c in row.against if c.reference == reference]
        for (i, _), p in zip(places, holm([c.p for _, c in places]), strict=True):
            adjusted[i, reference] = p
    return [
        replace(row, against=tuple(replace(c, p_holm=adjusted[i, c.reference]) for c in row.against))
        for i, row in enumerate(rows)
    ]


def _holm_equal(found: Sequence[EqualShare]) -> list[EqualShare]:
    return [replace(e, p_holm=p) for e, p in zip(found, holm([e.p for e in found]), strict=True)]


def _spending(policies: dict[str, _Policy]) -> tuple[Spending, ...]:
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
