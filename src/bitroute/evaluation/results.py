"""What an evaluation found, as frozen values. Nothing here computes; `evaluate.py` fills them, tables and figures read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from bitroute.episode import Episode
from bitroute.evaluation.resampling import GapRecovered
from bitroute.evaluation.statistics import Estimate

ALL_KINDS = "all"
BUDGET_TOLERANCE = 0.02


class Measure(StrEnum):
    """How spending is counted."""

    SHARE = "share"  # K: mean over episodes of the share of steps at the highest variant
    POOLED = "pooled"  # the share of all steps of all episodes
    COST = "cost"  # relative to the reference policy's


class PolicyRole(StrEnum):
    """What a policy is in a comparison: how it is drawn, and whether it is compared with the others at equal spending."""

    FIXED = "fixed"  # always one variant
    BASELINE = "baseline"  # a rule that learned nothing
    LEARNED = "learned"
    ORACLE = "oracle"  # reads what no router could know beforehand


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """One policy's episodes under one router seed; read once, so that `read_traces(path)` can be given.

    `family` joins the points of one method at several shares into a curve (random 0.25, random 0.5 ...), the policy's own name
    when empty. `budget` is the K it was calibrated to, if any.
    """

    policy: str
    seed: int
    episodes: Iterable[Episode]
    role: PolicyRole = PolicyRole.BASELINE
    family: str = ""
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A policy against a reference on the same tasks: difference of success, tasks won and lost, McNemar's exact test.

    With several seeds the test is over tasks and seeds (`two_way_p`), and a task is won where its mean is higher.
    `p_holm` is corrected within one table: all policies of the split, or all policies and kinds of its table by kind.
    """

    reference: str
    difference: Estimate
    wins: int
    losses: int
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class TableRow:
    """One policy on one split, over all kinds of task (`kind` is "all") or one of them.

    `success` is a share of tasks, `share`, `pooled` and `cost` are what `Measure` says. Several seeds are averaged task by
    task; `*_sd` is their spread. `failures` counts episodes that broke (they count as not solved), `steps` is the mean episode
    length.
    """

    split: str
    kind: str
    policy: str
    family: str
    role: PolicyRole
    budget: float | None
    seeds: tuple[int, ...]
    n: int
    success: Estimate
    success_sd: float | None
    share: Estimate
    share_sd: float | None
    pooled: Estimate
    cost: Estimate | None
    steps: float
    failures: int
    gap: GapRecovered | None
    against: tuple[Comparison, ...]

    def within_budget(self, ladder_length: int) -> bool | None:
        """Whether the realised K stays within the budget (+ 0.02); K is the relative cost on a ladder longer than two."""
        if self.budget is None:
            return None
        realised = self.share if ladder_length == 2 else self.cost
        return realised is not None and realised.value <= self.budget + BUDGET_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualSpend:
    """A learned policy against another method's curve where that spends as much, counted by `measure`.

    Between two points of the curve stands the policy that plays one or the other by a coin; the curve starts at all-low and
    ends at all-high. `between` names the two points, `spent` is the policy's spending, `curve_spent` the curve's there: another
    one only where the curve ends. `difference` is policy minus curve, `p_holm` is corrected over the policy's rivals by this
    measure.
    """

    split: str
    measure: Measure
    policy: str
    family: str
    oracle: bool
    spent: float
    curve_spent: float
    between: tuple[str, str]
    curve: float
    difference: Estimate
    p: float
    p_holm: float


@dataclass(frozen=True, slots=True)
class VerbSpending:
    """Steps whose action is of the kind `verb`: how many, and the share of them at the highest variant."""

    verb: str
    steps: int
    share: float


@dataclass(frozen=True, slots=True)
class Spending:
    """Where a policy spent high precision: per tenth of the episode (None where no step fell), and per verb."""

    split: str
    policy: str
    deciles: tuple[float | None, ...]
    verbs: tuple[VerbSpending, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All policies on the same tasks of one environment. `cost_unit` names what costs were measured in."""

    environment: str
    ladder: tuple[str, ...]
    reference: str
    low: str
    cost_unit: str
    resamples: int
    seed: int
    rows: tuple[TableRow, ...]
    equal: tuple[EqualSpend, ...]
    spending: tuple[Spending, ...]

    def splits(self) -> list[str]:
        """The splits, in the order in which they were met."""
        return list(dict.fromkeys(row.split for row in self.rows))

    def table(self, split: str, kind: str = ALL_KINDS) -> list[TableRow]:
        """The rows of one split and kind, in the order of the policies."""
        return [row for row in self.rows if (row.split, row.kind) == (split, kind)]

    def kinds(self, split: str) -> list[str]:
        """The kinds of task of a split, sorted."""
        return sorted({row.kind for row in self.rows if row.split == split and row.kind != ALL_KINDS})

    def curves(self, split: str) -> dict[str, list[TableRow]]:
        """Success against share: each family's rows over all kinds, sorted by realised share."""
        families: dict[str, list[TableRow]] = {}
        for row in self.table(split):
            families.setdefault(row.family, []).append(row)
        return {name: sorted(rows, key=lambda row: row.share.value) for name, rows in families.items()}
