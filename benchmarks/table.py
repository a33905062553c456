"""The whole method by one configuration, its tables, and the README's pictures of them: every published table is one of these.

    python benchmarks/table.py --config benchmarks/alfworld.json --out runs/alfworld        # hours on two cores, resumable
    python benchmarks/table.py --config benchmarks/alfworld.json --out runs/alfworld --results docs/results --images docs/images

A configuration says model, low variant, budgets, seeds and rivals (docs/reference/config.md), so a table has nothing that its
configuration does not say. Printed for every split: the table, what it allows to be said, how long it took and on what. The
run's directory holds the report. --results keeps NAME.json (rows and comparisons, without kinds of task) and NAME.md, --images
draws NAME-cost.svg, NAME-pooled.svg and NAME-episode.svg, which follow the reader's theme; NAME is that of the configuration.
"""

from __future__ import annotations

import argparse
import json
import time
from html import escape
from pathlib import Path
from typing import Any, Final

from bitroute.episode import Episode
from bitroute.errors import BitrouteError
from bitroute.evaluation.figures import THEME, pareto, svg
from bitroute.evaluation.results import ALL_KINDS, Evaluation, Measure
from bitroute.evaluation.tables import summary_table
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.experiment import experiment
from bitroute.experiment.method import run_method
from bitroute.store.files import write_atomic
from bitroute.store.runs import processor
from bitroute.store.traces import read_traces

ROW: Final = 24  # height of a step in the picture of an episode, in pixels
WIDTH: Final = 860
TEXT: Final = 78  # characters of what the environment said


def keep(run: Path, name: str, results: Path) -> None:
    """What of a report is published: no kinds of task, and where high precision went stays with the run."""
    document: dict[str, Any] = json.loads((run / "report.json").read_text())
    for evaluation in document["evaluations"]:
        evaluation["policies"] = [row for row in evaluation["policies"] if row["kind"] == ALL_KINDS]
        del evaluation["spending"]
    document["cost"] = json.loads((run / "cost.json").read_text())
    write_atomic(results / f"{name}.json", json.dumps(document, indent=1) + "\n")
    write_atomic(results / f"{name}.md", (run / "report.md").read_text())


def draw(run: Path, name: str, first: Evaluation, images: Path) -> None:
    """Success against cost and pooled share on the first split, and the report's example episode."""
    split = first.splits()[0]
    for measure in (Measure.COST, Measure.POOLED):
        element = svg(pareto(first, split, measure), (8.6, 5.4), f"{name}-{measure.value}")
        write_atomic(images / f"{name}-{measure.value}.svg", standalone(element))
    played = next(iter(read_traces(run / "traces" / "example.jsonl")))
    write_atomic(images / f"{name}-episode.svg", standalone(episode(played, first.ladder[-1])))


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
    """Read the arguments, do what is missing, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="where the published part of the report goes")
    parser.add_argument("--images", type=Path, help="where the pictures go")
    parser.add_argument("--cores", type=int)
    args = parser.parse_args()
    began = time.monotonic()
    try:
        config = ExperimentConfig.load(args.config)
        with experiment(config, args.out, args.cores) as run:
            results = run_method(run)
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")
    for result in results:
        print(summary_table(result))
    print(f"{processor()}, seeds {config.seeds}, {(time.monotonic() - began) / 60:.0f} minutes of this call")
    if args.results:
        keep(args.out, args.config.stem, args.results)
    if args.images:
        draw(args.out, args.config.stem, results[0], args.images)


if __name__ == "__main__":
    main()
