"""Figures by matplotlib, drawn once for light PNG files and once as inline SVG whose colours follow the page's theme.

It knows results and labels, no page. Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitroute.episode import Episode, Sensitivity
from bitroute.evaluation.labels import TOP_SHARE, concentration
from bitroute.evaluation.results import Evaluation, Measure, PolicyRole, TableRow
from bitroute.evaluation.statistics import Estimate
from bitroute.evaluation.tables import oracle_name

# name: (light, dark). High and low precision keep their colours everywhere; series differ by marker and dash as well.
THEME = {
    "paper": ("#ffffff", "#15191d"),
    "ink": ("#1d2329", "#e6e9ec"),
    "muted": ("#66707a", "#9aa4ae"),
    "grid": ("#dfe3e7", "#2d353d"),
    "high": ("#c2500c", "#ff9a57"),
    "low": ("#2671b2", "#73b5f2"),
    "series0": ("#7b3fb5", "#c39bf5"),
    "series1": ("#bf2f6b", "#f483ad"),
    "series2": ("#23845a", "#62cb97"),
    "series3": ("#8f6a10", "#d6b455"),
    "series4": ("#14808a", "#55c6cf"),
    "series5": ("#8a4b2a", "#d99a78"),
    "series6": ("#66751c", "#b3c45c"),
    "series7": ("#66707a", "#a3acb6"),
}
_SERIES = 8
_MARKERS = "osD^vPXd<>"
_KL_FLOOR = 1e-4

Palette = dict[str, str]
Draw = Callable[[Figure, Palette], None]


def png(draw: Draw, size: tuple[float, float]) -> bytes:
    """The figure in light colours at 160 dots an inch; `size` in inches."""
    palette = {name: light for name, (light, _) in THEME.items()}
    with _style():
        figure = _figure(draw, size, palette)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=160, facecolor=palette["paper"], metadata={"Software": None})
    return out.getvalue()


def svg(draw: Draw, size: tuple[float, float], name: str) -> str:
    """The figure as an inline `<svg>` element; colours are CSS variables (`var(--ink)`), ids begin with `name`."""
    stand_ins = {key: f"#00fe{index:02x}" for index, key in enumerate(THEME)}
    with _style():
        figure = _figure(draw, size, stand_ins)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for key, colour in stand_ins.items():
        text = text.replace(colour, f"var(--{key})")
    # Several figures share one page: their ids must not meet.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1).strip()


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
            "svg.hashsalt": "bitroute",  # the same figure gives the same bytes
        }
    )


def _figure(draw: Draw, size: tuple[float, float], palette: Palette) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure, palette)
    return figure


def pareto(evaluation: Evaluation, split: str, measure: Measure) -> Draw:
    """Success against what was spent, counted by `measure`, with intervals in both directions."""
    high = next(row for row in evaluation.table(split) if row.policy == evaluation.reference)
    low = next(row for row in evaluation.table(split) if row.policy == evaluation.low)

    def place(row: TableRow) -> Estimate | None:
        return {Measure.SHARE: row.share, Measure.POOLED: row.pooled, Measure.COST: row.cost}[measure]

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.add_subplot()
        _frame(axes, palette)
        for row, name in ((high, "high"), (low, "low")):
            axes.axhspan(100 * row.success.low, 100 * row.success.high, color=palette[name], alpha=0.10, linewidth=0)
            axes.axhline(100 * row.success.value, color=palette[name], linewidth=1, linestyle=(0, (1, 2)))
        for index, (family, rows) in enumerate(_ordered(evaluation, split)):
            placed = [(x, row.success) for row in rows if (x := place(row)) is not None]
            _curve(axes, placed, rows[0].role, family, index, palette)
        for row, name in ((low, "low"), (high, "high")):
            x = place(row)
            if x is not None:
                _curve(axes, [(x, row.success)], PolicyRole.FIXED, "", 0, {**palette, "series0": palette[name]})
                axes.annotate(
                    row.policy,
                    (100 * x.value, 100 * row.success.value),
                    xytext=(8 if name == "low" else -8, 6),
                    textcoords="offset points",
                    ha="left" if name == "low" else "right",
                    color=palette[name],
                )
        labels = {
            Measure.SHARE: f"K: mean over episodes of the share of steps at {evaluation.ladder[-1]}, %",
            Measure.POOLED: f"share of all steps at {evaluation.ladder[-1]}, %",
            Measure.COST: f"cost relative to {high.policy} ({evaluation.cost_unit}), %",
        }
        axes.set_xlabel(labels[measure])
        axes.set_ylabel("tasks solved, %")
        _legend(figure, axes, palette)

    return draw


def _ordered(evaluation: Evaluation, split: str) -> list[tuple[str, list[TableRow]]]:
    """Families as they are drawn and coloured: learned ones first, then oracles, then rules."""
    rank = {PolicyRole.LEARNED: 0, PolicyRole.ORACLE: 1, PolicyRole.BASELINE: 2}
    curves = [(name, rows) for name, rows in evaluation.curves(split).items() if rows[0].role is not PolicyRole.FIXED]
    return sorted(curves, key=lambda item: rank[item[1][0].role])


def _curve(
    axes: Axes, points: Sequence[tuple[Estimate, Estimate]], role: PolicyRole, name: str, index: int, palette: Palette
) -> None:
    if not points:
        return
    colour = palette[f"series{index % _SERIES}"]
    xs, ys = ([100 * point[side].value for point in points] for side in (0, 1))
    bars = [
        [[100 * abs(e.value - e.low) for e in side], [100 * abs(e.high - e.value) for e in side]]
        for side in ([p[0] for p in points], [p[1] for p in points])
    ]
    loud = role is PolicyRole.LEARNED
    axes.errorbar(
        xs,
        ys,
        xerr=bars[0],
        yerr=bars[1],
        fmt="none",
        ecolor=colour,
        elinewidth=1.4 if loud else 0.8,
        alpha=0.7 if loud else 0.4,
    )
    axes.plot(
        xs,
        ys,
        color=colour,
        marker="*" if role is PolicyRole.ORACLE else _MARKERS[index % len(_MARKERS)],
        markersize=9 if loud or role is PolicyRole.ORACLE else 6,
        markerfacecolor="none" if role is PolicyRole.ORACLE else colour,
        linestyle="--" if role is PolicyRole.ORACLE else "-",
        linewidth=2 if loud else 1.1,
        label=_named(name, role) or "_",  # matplotlib leaves names with an underscore out of the legend
        zorder=4 if loud else 3,
    )


def _named(name: str, role: PolicyRole) -> str:
    return oracle_name(name) if role is PolicyRole.ORACLE else name


def kl_histogram(labels: Sequence[Sensitivity]) -> Draw:
    """Left: how many steps have which KL (log axis); right: the share of all KL held by the most sensitive steps."""
    kl = np.array([label.kl_sum for label in labels], dtype=np.float64)
    differs = np.array([not label.agrees for label in labels])

    def draw(figure: Figure, palette: Palette) -> None:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _frame(left, palette)
        _frame(right, palette)
        _histogram(left, kl, differs, palette)
        held = 100 * concentration(kl)
        shares = np.linspace(0, 100, len(held))
        right.fill_between(shares, held, color=palette["high"], alpha=0.15, linewidth=0)
        right.plot(shares, held, color=palette["high"], linewidth=2)
        mass = float(held[round(TOP_SHARE * len(kl))])
        right.plot([20, 20, 0], [0, mass, mass], color=palette["muted"], linewidth=1, linestyle=(0, (3, 2)))
        right.annotate(
            f"the top 20 % of steps\nhold {mass:.0f} % of the KL", (20, mass), (28, min(mass, 90) - 14), color=palette["ink"]
        )
        right.set(xlim=(0, 100), ylim=(0, 102), xlabel="steps, most sensitive first, %", ylabel="share of all KL, %")

    return draw


def _histogram(axes: Axes, kl: npt.NDArray[np.float64], differs: npt.NDArray[np.bool_], palette: Palette) -> None:
    top = max(float(kl.max()), 1.0)
    edges = np.logspace(np.log10(_KL_FLOOR), np.ceil(2 * np.log10(top)) / 2, 34)
    clipped = np.maximum(kl, _KL_FLOOR * 1.0001)  # what is smaller than the axis stands in its first bar
    axes.hist(
        [clipped[~differs], clipped[differs]],
        bins=edges.tolist(),
        stacked=True,
        color=[palette["low"], palette["high"]],
        label=["low precision would act the same", "low precision would act otherwise"],
    )
    axes.set_xscale("log")
    axes.set_xlabel(f"KL(high || low) of a step, nats (first bar: {_KL_FLOOR:g} and less)")
    axes.set_ylabel("steps")
    axes.legend(loc="upper left", frameon=False, labelcolor=palette["ink"], fontsize=9)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.18)


def spending(evaluation: Evaluation, split: str) -> Draw:
    """Share of steps at high precision over the tenths of an episode, for learned policies and oracles."""
    index = {name: i for i, (name, _) in enumerate(_ordered(evaluation, split))}
    rows = {row.policy: row for row in evaluation.table(split) if row.role in (PolicyRole.LEARNED, PolicyRole.ORACLE)}

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.add_subplot()
        _frame(axes, palette)
        members: dict[str, int] = {}
        for spent in evaluation.spending:
            if spent.split != split or spent.policy not in rows:
                continue
            row = rows[spent.policy]
            place = members[row.family] = members.get(row.family, -1) + 1
            axes.plot(
                [10 * i + 5 for i in range(10)],
                [float("nan") if share is None else 100 * share for share in spent.deciles],
                color=palette[f"series{index[row.family] % _SERIES}"],
                marker=_MARKERS[place % len(_MARKERS)],
                markersize=5,
                linestyle="--" if row.role is PolicyRole.ORACLE else "-",
                linewidth=1.8,
                label=_named(spent.policy, row.role),
            )
        axes.set(xlim=(0, 100), xlabel="position in the episode, %", ylabel="steps at high precision, %")
        axes.set_ylim(bottom=0)
        _legend(figure, axes, palette)

    return draw


def episode_steps(episode: Episode, highest: str) -> Draw:
    """One bar a step, as long as its KL, coloured by the precision that took it. Top to bottom in playing order."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.add_subplot()
        _frame(axes, palette)
        places = list(range(len(episode.steps)))
        kl = [step.sensitivity.kl_sum if step.sensitivity else None for step in episode.steps]
        top = max([x for x in kl if x is not None] or [1.0]) or 1.0
        colours = [palette["high" if step.decision.variant == highest else "low"] for step in episode.steps]
        # A step without KL still shows its colour: every bar has a short stub.
        axes.barh(places, [0.012 * top + (x or 0.0) for x in kl], color=colours, height=0.78)
        for place, value in zip(places, kl, strict=True):
            text = "no KL" if value is None else f"{value:.2f}"
            axes.text(0.03 * top + (value or 0.0), place, text, va="center", color=palette["muted"], fontsize=8)
        # Actions are any text: a price in dollars is no formula.
        axes.set_yticks(places, [f"{i + 1}. {step.action}" for i, step in enumerate(episode.steps)], parse_math=False)
        axes.set_ylim(len(places) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * top)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("KL(high || low), nats")
        for name, label in (("high", f"played at {highest}"), ("low", "played at lower precision")):
            axes.barh([0], [0], color=palette[name], label=label)
        _legend(figure, axes, palette)

    return draw


def _frame(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor("none")
    axes.grid(visible=True, color=palette["grid"], linewidth=0.8)
    axes.tick_params(which="both", colors=palette["muted"], labelcolor=palette["ink"], length=0)
    for spine in axes.spines.values():
        spine.set_color(palette["muted"])
    axes.xaxis.label.set_color(palette["ink"])
    axes.yaxis.label.set_color(palette["ink"])


def _legend(figure: Figure, axes: Axes, palette: Palette) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(
            handles, names, loc="outside lower center", ncols=min(3, len(names)), frameon=False, labelcolor=palette["ink"]
        )
