"""The report as one JSON document, for programs. Its fields are described in docs/reference/report-json.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bitroute.evaluation.labels import LabelSummary
from bitroute.evaluation.results import EqualSpend, Evaluation, Spending, TableRow
from bitroute.evaluation.statistics import Estimate
from bitroute.evaluation.tables import conclusions

SCHEMA = 2


def report_document(
    results: Sequence[Evaluation], labels: LabelSummary | None, meta: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """The whole report as plain values (what `json.dumps` takes without NaN)."""
    return {
        "schema_version": SCHEMA,
        "meta": dict(meta),
        "notes": list(notes),
        "evaluations": [_evaluation(evaluation) for evaluation in results],
        "sensitivity": asdict(labels) if labels else None,
    }


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "environment": evaluation.environment,
        "ladder": list(evaluation.ladder),
        "reference": evaluation.reference,
        "low": evaluation.low,
        "cost_unit": evaluation.cost_unit,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
        "policies": [_row(row, evaluation) for row in evaluation.rows],
        "equal": [_equal(equal) for equal in evaluation.equal],
        "spending": [_spending(spending) for spending in evaluation.spending],
        "conclusions": {split: conclusions(evaluation, split) for split in evaluation.splits()},
    }


def _row(row: TableRow, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "environment": evaluation.environment,
        "split": row.split,
        "kind": row.kind,
        "policy": row.policy,
        "family": row.family,
        "role": row.role.value,
        "seeds": list(row.seeds),
        "n": row.n,
        "failures": row.failures,
        "steps": row.steps,
        "success": row.success.value,
        "success_interval": _interval(row.success),
        "success_sd": row.success_sd,
        "realised_share": row.share.value,
        "realised_share_interval": _interval(row.share),
        "realised_share_sd": row.share_sd,
        "pooled_share": row.pooled.value,
        "pooled_share_interval": _interval(row.pooled),
        "budget": row.budget,
        "within_budget": row.within_budget(len(evaluation.ladder)),
        "relative_cost": row.cost.value if row.cost else None,
        "relative_cost_interval": _interval(row.cost),
        "gap_recovered": row.gap.estimate.value if row.gap else None,
        "gap_recovered_interval": _interval(row.gap.estimate if row.gap else None),
        "gap_inverted": row.gap.inverted if row.gap else None,
        "against": {
            c.reference: {
                "difference": c.difference.value,
                "difference_interval": _interval(c.difference),
                "wins": c.wins,
                "losses": c.losses,
                "p": c.p,
                "p_holm": c.p_holm,
            }
            for c in row.against
        },
    }


def _equal(equal: EqualSpend) -> dict[str, Any]:
    return {
        "split": equal.split,
        "measure": equal.measure.value,
        "policy": equal.policy,
        "family": equal.family,
        "oracle": equal.oracle,
        "spent": equal.spent,
        "curve_spent": equal.curve_spent,
        "between": list(equal.between),
        "curve_success": equal.curve,
        "difference": equal.difference.value,
        "difference_interval": _interval(equal.difference),
        "p": equal.p,
        "p_holm": equal.p_holm,
    }


def _spending(spending: Spending) -> dict[str, Any]:
    return {
        "split": spending.split,
        "policy": spending.policy,
        "share_by_tenth": list(spending.deciles),
        "verbs": [{"verb": v.verb, "steps": v.steps, "share": v.share} for v in spending.verbs],
    }


def _interval(estimate: Estimate | None) -> list[float] | None:
    """JSON has no NaN: an interval that could not be computed is null."""
    if estimate is None or math.isnan(estimate.low):
        return None
    return [estimate.low, estimate.high]
