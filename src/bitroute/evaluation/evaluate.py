"""From stored episodes of many policies on the same tasks to one frozen result. It plays nothing and draws nothing.

Success, spending and cost of every policy become columns over tasks and seeds; all intervals come from the same resamples of
both, so every comparison is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bitroute.cost import CostModel
from bitroute.episode import first_word
from bitroute.errors import DataError
from bitroute.evaluation.equal import Rival, equal_spending
from bitroute.evaluation.resampling import gap_recovered, ratio, resample, two_way_p
from bitroute.evaluation.results import ALL_KINDS, Comparison, EqualSpend, Evaluation, PolicyRole, PolicyRun, TableRow
from bitroute.evaluation.statistics import RESAMPLES, Estimate, holm, mcnemar, spread, wilson
from bitroute.evaluation.tally import COST, HIGH, SHARE, STEPS, SUCCESS, Key, TalliedPolicy, spending_of, tally_runs


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
    policies = tally_runs(runs, ladder[-1], model, action_kind)
    for needed in (reference, low):
        if needed not in policies:
            raise DataError(f"no run of policy {needed!r} was given (policies: {', '.join(policies) or 'none'})")
    first = next(iter(policies[reference].tallies.values()))
    rows: list[TableRow] = []
    equal: list[EqualSpend] = []
    for split in dict.fromkeys(key[0] for key in first.rows):
        keys = [key for key in first.rows if key[0] == split]
        table = _Table(policies, keys, resamples, seed)
        rows += _holm_rows(table.rows(split, ALL_KINDS, reference, low))
        equal += table.equal(split, reference, low)
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
        equal=tuple(equal),
        spending=spending_of(policies),
    )


class _Table:
    """The columns of all policies over one set of tasks, and their resampled means."""

    def __init__(self, policies: dict[str, TalliedPolicy], keys: Sequence[Key], resamples: int, seed: int) -> None:
        self.policies = policies
        self.keys = keys
        self.columns = [policy.columns(keys) for policy in policies.values()]  # [seeds, tasks, columns] each
        self.seeds = [tuple(policy.tallies) for policy in policies.values()]
        self.index = {name: i for i, name in enumerate(policies)}
        self.resamples = resample(self.columns, self.seeds, resamples=resamples, seed=seed)

    def rows(self, split: str, kind: str, reference: str, low: str) -> list[TableRow]:
        """One row a policy; `p_holm` still holds the raw p-value."""
        return [self._row(policy, split, kind, reference, low) for policy in self.policies.values()]

    def _row(self, policy: TalliedPolicy, split: str, kind: str, reference: str, low: str) -> TableRow:
        i, top, bottom = self.index[policy.name], self.index[reference], self.index[low]
        per_seed = self.columns[i].mean(axis=1)  # [seeds, columns]
        return TableRow(
            split=split,
            kind=kind,
            policy=policy.name,
            family=policy.family,
            role=policy.role,
            budget=policy.budget,
            seeds=self.seeds[i],
            n=len(self.keys),
            success=self._success(i),
            success_sd=spread([float(x) for x in per_seed[:, SUCCESS]]),
            share=self.resamples.estimate(lambda means: means[..., i, SHARE], [i]),
            share_sd=spread([float(x) for x in per_seed[:, SHARE]]),
            pooled=self.resamples.estimate(lambda means: ratio(means[..., i, HIGH], means[..., i, STEPS], 0.0), [i]),
            cost=self._cost(i, top),
            steps=float(self.resamples.point[i, STEPS]),
            failures=policy.failures(self.keys),
            gap=gap_recovered(self.resamples, SUCCESS, policy=i, low=bottom, high=top),
            against=tuple(self._compare(policy.name, name) for name in (reference, low) if name != policy.name),
        )

    def _success(self, i: int) -> Estimate:
        mean = float(self.resamples.point[i, SUCCESS])
        if mean in (0.0, 1.0):
            # Every resample is alike: the percentile interval would have no width, however few the tasks.
            return wilson(round(mean * len(self.keys)), len(self.keys))
        return self.resamples.estimate(lambda means: means[..., i, SUCCESS], [i])

    def _cost(self, i: int, top: int) -> Estimate | None:
        if self.resamples.point[top, COST] == 0:
            return None
        return self.resamples.estimate(lambda means: ratio(means[..., i, COST], means[..., top, COST]), [i, top])

    def _compare(self, name: str, reference: str) -> Comparison:
        i, j = self.index[name], self.index[reference]
        first, second = self.columns[i][:, :, SUCCESS], self.columns[j][:, :, SUCCESS]
        ahead = np.round(first.mean(axis=0) - second.mean(axis=0), 12)
        if len(first) == len(second) == 1:
            p = mcnemar(first[0] > 0, second[0] > 0).p
        else:
            parts = (
                {self.seeds[i]: first - second}
                if self.seeds[i] == self.seeds[j]
                else {self.seeds[i]: first, self.seeds[j]: -second}
            )
            p = two_way_p(parts)
        difference = self.resamples.estimate(lambda means: means[..., i, SUCCESS] - means[..., j, SUCCESS], [i, j])
        return Comparison(reference, difference, int((ahead > 0).sum()), int((ahead < 0).sum()), p, p)

    def equal(self, split: str, reference: str, low: str) -> list[EqualSpend]:
        """Every learned policy against every other family's curve."""
        ends = (self.index[low], self.index[reference])
        families: dict[str, list[TalliedPolicy]] = {}
        for policy in self.policies.values():
            if policy.role is not PolicyRole.FIXED:
                families.setdefault(policy.family, []).append(policy)
        rivals = [
            Rival(
                family,
                any(member.role is PolicyRole.ORACLE for member in members),
                (*ends, *(self.index[member.name] for member in members)),
            )
            for family, members in families.items()
        ]
        learned = {
            self.index[policy.name]: [rival for rival in rivals if rival.family != policy.family]
            for policy in self.policies.values()
            if policy.role is PolicyRole.LEARNED
        }
        return equal_spending(
            self.resamples, self.columns, self.seeds, list(self.policies), learned, split=split, reference=ends[1]
        )


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
