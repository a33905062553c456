"""Results as plain text: aligned tables for a terminal, and sentences that say what the figures allow to be said.

Shares are printed in percent; an interval stands in brackets behind its estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitroute.evaluation.results import ALL_KINDS, EqualSpend, Evaluation, Measure, PolicyRole, TableRow
from bitroute.evaluation.statistics import Estimate

SIGNIFICANT = 0.05
_HEADINGS = ("policy", "n", "success %", "sd", "K %", "pooled %", "cost %", "gap recovered %", "p vs high", "p vs low")
SPENDING = {Measure.SHARE: "K", Measure.POOLED: "pooled share", Measure.COST: "cost"}


def percent(share: float, digits: int = 1) -> str:
    """0.5 -> "50.0"; "-" for NaN; never "-0"."""
    return "-" if math.isnan(share) else f"{100 * share:z.{digits}f}"


def percent_interval(estimate: Estimate | None, digits: int = 1) -> str:
    """An estimate in percent with its interval, e.g. "50.0 [47.1, 52.9]"; "-" for None."""
    if estimate is None:
        return "-"
    return f"{percent(estimate.value, digits)} [{percent(estimate.low, digits)}, {percent(estimate.high, digits)}]"


def p_value(p: float | None) -> str:
    """Three decimals, "<.001" below; "-" for None."""
    if p is None:
        return "-"
    return "<.001" if p < 0.001 else f"{p:.3f}"


def p_against(row: TableRow, reference: str) -> float | None:
    """The Holm-corrected p-value of a row against a reference; None against itself."""
    return next((c.p_holm for c in row.against if c.reference == reference), None)


def oracle_name(name: str) -> str:
    """The name of an oracle, saying that it is one."""
    return name if "oracle" in name.lower() else f"{name} (oracle)"


def align(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, the first to the left and the others to the right; no trailing newline."""
    table = [list(headings), *(list(line) for line in lines)]
    widths = [max(len(line[i]) for line in table) for i in range(len(headings))]
    padded = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    padded.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in padded)


def text_table(evaluation: Evaluation, split: str, kind: str = ALL_KINDS) -> str:
    """One table: a line for every policy on one split, over all kinds of task or one."""
    return align(_HEADINGS, _lines(evaluation, split, kind))


def _lines(evaluation: Evaluation, split: str, kind: str = ALL_KINDS) -> list[tuple[str, ...]]:
    """The cells of a table, by _HEADINGS."""
    return [
        (
            oracle_name(row.policy) if row.role is PolicyRole.ORACLE else row.policy,
            str(row.n),
            percent_interval(row.success),
            "-" if row.success_sd is None else percent(row.success_sd),
            percent(row.share.value),
            percent(row.pooled.value),
            "-" if row.cost is None else percent(row.cost.value),
            percent_interval(row.gap.estimate if row.gap else None, 0),
            p_value(p_against(row, evaluation.reference)),
            p_value(p_against(row, evaluation.low)),
        )
        for row in evaluation.table(split, kind)
    ]


def markdown_report(results: Sequence[Evaluation], notes: Sequence[str]) -> str:
    """All splits as Markdown: how to read them, and for each the table over all kinds and the sentences."""
    parts = [f"- {note}" for note in notes]
    for evaluation in results:
        for split in evaluation.splits():
            parts += ["", f"## {evaluation.environment}, {split}", ""]
            parts += [f"| {' | '.join(line)} |" for line in (_HEADINGS, ["---"] * len(_HEADINGS), *_lines(evaluation, split))]
            parts += ["", *(f"- {sentence}" for sentence in conclusions(evaluation, split))]
    return "\n".join(parts).lstrip("\n") + "\n"


def summary_table(evaluation: Evaluation) -> str:
    """All splits for a terminal: the table over all kinds, then the sentences."""
    parts = []
    for split in evaluation.splits():
        tasks = evaluation.table(split)[0].n
        parts.append(
            f"{evaluation.environment}, split {split}: {tasks} tasks, 95 % paired-bootstrap intervals over tasks and seeds. "
            f"K: mean over episodes of the share of steps at {evaluation.ladder[-1]}; pooled: of all steps; "
            f"cost ({evaluation.cost_unit}): relative to {evaluation.reference}; p: McNemar, exact (with several seeds a "
            "t-test over tasks and seeds), Holm-corrected."
        )
        parts.append(text_table(evaluation, split))
        parts += [f"- {sentence}" for sentence in conclusions(evaluation, split)]
        parts.append("")
    return "\n".join(parts)


def conclusions(evaluation: Evaluation, split: str) -> list[str]:
    """What the tasks of a split allow to be said of each learned policy, and what they do not."""
    rows = {row.policy: row for row in evaluation.table(split)}
    high, low = rows[evaluation.reference], rows[evaluation.low]
    gap = high.success.value - low.success.value
    certain = gap > 0 and all(c.p < SIGNIFICANT for c in low.against if c.reference == high.policy)
    verdict = f"a gap of {percent(gap)} points" if certain else "no gap that these tasks can tell from chance"
    said = [
        f"Of {high.n} tasks {high.policy} solved {percent(high.success.value)} %, {low.policy} {percent(low.success.value)} %: "
        f"{verdict}."
    ]
    for row in rows.values():
        if row.role is PolicyRole.LEARNED:
            said.append(_achievement(row, evaluation))
            for measure in Measure:
                against = [e for e in evaluation.equal if (e.split, e.measure, e.policy) == (split, measure, row.policy)]
                if against:
                    said.append(_comparison(row, measure, against))
    return said


def _achievement(row: TableRow, evaluation: Evaluation) -> str:
    text = (
        f"{row.policy} solved {percent_interval(row.success)} % at K {percent(row.share.value)} %, "
        f"{percent(row.pooled.value)} % of all steps at high precision"
    )
    if row.cost is not None:
        text += f", for {percent(row.cost.value)} % of {evaluation.reference}'s cost"
    if row.success_sd is not None:
        text += f" (mean of {len(row.seeds)} seeds, sd {percent(row.success_sd)} points)"
    within = row.within_budget(len(evaluation.ladder))
    if within is not None and row.budget is not None:
        text += f", {'within' if within else 'ABOVE'} its budget of {percent(row.budget, 0)} %"
    if row.gap is None:
        return text + "."
    text += f"; it recovered {percent_interval(row.gap.estimate, 0)} % of the gap"
    if row.gap.estimate.high - row.gap.estimate.low > 0.5 or row.gap.inverted > 0.025:
        text += f", which {row.n} tasks measure too coarsely to build on"
    return text + "."


def _comparison(row: TableRow, measure: Measure, against: Sequence[EqualSpend]) -> str:
    groups: dict[str, list[str]] = {"beats": [], "cannot be told from": [], "falls behind": []}
    for e in against:
        verdict = "cannot be told from" if e.p_holm >= SIGNIFICANT else "beats" if e.difference.value > 0 else "falls behind"
        points = f"{100 * e.difference.value:+z.1f} [{100 * e.difference.low:+z.1f}, {100 * e.difference.high:+z.1f}]"
        beyond = "" if abs(e.curve_spent - e.spent) < 0.0005 else f", at {percent(e.curve_spent)} %"
        groups[verdict].append(f"{oracle_name(e.family) if e.oracle else e.family} ({points}{beyond})")
    parts = [f"{verdict} {', '.join(names)}" for verdict, names in groups.items() if names]
    return (
        f"At equal {SPENDING[measure]} ({percent(against[0].spent)} %), in points of success, Holm-corrected, "
        f"{row.policy} {'; '.join(parts)}."
    )
