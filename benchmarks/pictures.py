"""Draws the README's pictures from committed results: docs/results/front_page.json and episode.jsonl, into docs/images/.

    python benchmarks/pictures.py

Both are SVG files whose colours follow the reader's theme, light or dark. The same results give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitroute.episode import Episode
from bitroute.evaluation.figures import THEME, Draw, Palette, svg
from bitroute.store.files import write_atomic
from bitroute.store.traces import read_traces

# name of the row: (what the picture calls it, colour, where its name stands in points from the dot)
LABELS: Final[dict[str, tuple[str, str, tuple[float, float]]]] = {
    "all-high": ("all-high, bf16 (every step)", "high", (-4, 5)),
    "all-low": ("all-low, 2 bits by rounding", "low", (10, -4)),
    "gptq": ("all-low, 2 bits by GPTQ, no router", "series2", (10, 6)),
    "w3": ("all-low, 3 bits by rounding, no router", "series4", (10, -10)),
    "random": ("random", "muted", (10, -4)),
    "repetition": ("rule: seen before", "series3", (-8, 8)),
    "repetition-2": ("the rule, dwell 2", "series3", (10, 2)),
    "margin": ("margin of a probe", "series1", (10, 4)),
    "trained-0.1": ("trained router, K 0.1", "series0", (10, -12)),
    "trained-0.3": ("trained router, K 0.3", "series0", (-10, -14)),
}
EDGE: Final = 42  # where the axis of shares ends, in percent
ROW: Final = 24  # height of a step in the picture of an episode, in pixels
WIDTH: Final = 860
TEXT: Final = 78  # characters of what the environment said


def cross(axes: Axes, x: dict[str, float], y: dict[str, float], colour: str) -> None:
    """A dot with its intervals in both directions, in percent."""
    bars = [[[100 * (e["value"] - e["low"])], [100 * (e["high"] - e["value"])]] for e in (x, y)]
    place = [100 * x["value"]], [100 * y["value"]]
    axes.errorbar(*place, xerr=bars[0], yerr=bars[1], fmt="o", markersize=6, color=colour, elinewidth=1, alpha=0.9)


def success(rows: list[dict[str, Any]], n: int) -> Draw:
    """Success against the pooled share of high steps, with intervals in both directions."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        axes.grid(visible=True, color=palette["grid"], linewidth=0.8)
        axes.tick_params(which="both", colors=palette["muted"], labelcolor=palette["ink"], length=0)
        for spine in axes.spines.values():
            spine.set_color(palette["muted"])
        for row in rows:
            name, colour, offset = LABELS[row["name"]]
            share, won = row["pooled"], row["success"]
            if row["name"] == "all-high":  # at 100 %, where nothing else is: a line keeps the rest apart
                axes.axhspan(100 * won["low"], 100 * won["high"], color=palette[colour], alpha=0.08, linewidth=0)
                axes.axhline(100 * won["value"], color=palette[colour], linewidth=1, linestyle=(0, (4, 2)))
                share = {"value": EDGE / 100}
            else:
                cross(axes, share, won, palette[colour])
            axes.annotate(
                name,
                (100 * share["value"], 100 * won["value"]),
                xytext=offset,
                textcoords="offset points",
                ha="right" if offset[0] < 0 else "left",
                color=palette[colour],
                fontsize=9,
            )
        axes.set_xlim(-1, EDGE)
        axes.set_xlabel("share of all steps at high precision, %", color=palette["ink"])
        axes.set_ylabel(f"tasks solved, % of {n:,}", color=palette["ink"])

    return draw


def standalone(element: str) -> str:
    """An `<svg>` element whose colours are variables, as a file that follows the reader's theme on a ground of its own."""
    light, dark = ("".join(f"--{name}:{pair[side]};" for name, pair in THEME.items()) for side in (0, 1))
    style = f"<style>svg{{{light}background:var(--paper)}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, _, rest = element.partition(">")
    return f"{head}>{style}{rest}\n"


def first_line(message: str) -> str:
    """What the environment said, without the goal's line, on one line and not too long."""
    text = message.rpartition("\nGoal:")[0] or message
    text = " ".join(text.split())
    return text if len(text) <= TEXT else text[: TEXT - 1].rstrip() + "…"


def episode(played: Episode, highest: str) -> str:
    """An `<svg>` element: a line a step, coloured by the precision that wrote its command."""
    opening = " ".join(played.steps[0].message.split())
    task = opening.partition("Your task is to:")[2].partition("Goal:")[0].strip() or opening
    high = sum(step.decision.variant == highest for step in played.steps)
    title = f"“{task}” {len(played.steps)} steps, {high} of them at high precision"
    parts = [f'<text x="16" y="28" fill="var(--ink)" font-weight="bold">{escape(title)}</text>']
    said = [first_line(step.message) for step in played.steps[1:]] + ["The task is solved." if played.success else "Lost."]
    for number, (step, answer) in enumerate(zip(played.steps, said, strict=True)):
        y = 44 + number * ROW
        colour = "high" if step.decision.variant == highest else "low"
        parts += [
            f'<rect x="16" y="{y}" width="52" height="{ROW - 4}" rx="4" fill="var(--{colour})"/>',
            f'<text x="42" y="{y + 14}" fill="var(--paper)" text-anchor="middle">{colour}</text>',
            f'<text x="80" y="{y + 14}" fill="var(--{colour})" font-weight="bold">{escape(step.action)}</text>',
            f'<text x="330" y="{y + 14}" fill="var(--muted)">{escape(answer)}</text>',
        ]
    height = 44 + len(played.steps) * ROW + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def main() -> None:
    """Read the results and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    document = json.loads((args.results / "front_page.json").read_text())
    played = next(iter(read_traces(args.results / "episode.jsonl")))
    drawn = svg(success(document["rows"], document["tasks"]), (8.6, 4.6), "success")
    write_atomic(args.images / "success.svg", standalone(drawn))
    write_atomic(args.images / "episode.svg", standalone(episode(played, document["high"])))


if __name__ == "__main__":
    main()
