"""The report of an experiment: one HTML page that needs nothing beside it, its figures as PNG, `report.md` and `report.json`.

It arranges what `evaluate.py` and the labels say; no figure on the page is computed here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitroute.episode import Episode, Sensitivity, first_word
from bitroute.errors import ConfigError, DataError
from bitroute.evaluation.document import report_document
from bitroute.evaluation.labels import summarise_labels
from bitroute.evaluation.results import Evaluation, Measure, PolicyRole
from bitroute.evaluation.tables import SPENDING, conclusions, markdown_report, p_against, p_value, percent, percent_interval
from bitroute.store.files import write_atomic

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from bitroute.evaluation import figures
except ModuleNotFoundError as error:
    raise ConfigError(f"reports need {error.name}: pip install 'bitroute[report]'") from error


@dataclass(frozen=True, slots=True)
class _Figure:
    name: str
    svg: str
    png: bytes
    caption: str


def write_report(
    directory: Path,
    results: Sequence[Evaluation],
    sensitivity_labels: Sequence[Sensitivity] = (),
    example_episodes: Sequence[Episode] = (),
    meta: Mapping[str, Any] | None = None,
    action_kind: Callable[[str], str] = first_word,
    notes: Sequence[str] = (),
) -> None:
    """Write `report.html`, `report.md`, `report.json` and `figures/*.png` into `directory`, each file whole or not at all.

    `meta` (JSON values by name: command, commit, seeds, tau ...) is shown as a table and stored; its `title` heads the page.
    `example_episodes` are shown step by step, with the KL of those steps that carry a label. `action_kind` groups the
    labelled actions. `notes` are sentences on how to read the tables: which choices saw which tasks, what costs are. Raises
    DataError without results, for `meta` that is no JSON, and when the disk refuses.
    """
    if not results:
        raise DataError("a report needs at least one evaluation")
    meta = dict(meta or {})
    labels = summarise_labels(sensitivity_labels, action_kind) if sensitivity_labels else None
    try:
        text = json.dumps(report_document(results, labels, meta, notes), indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"report meta cannot be stored as JSON: {error}") from error
    drawn: list[_Figure] = []
    sections = [_section(i, evaluation, drawn) for i, evaluation in enumerate(results)]
    kl_figure = _draw_kl(sensitivity_labels, drawn) if labels else None
    examples = [_example(i, example, results[0], drawn) for i, example in enumerate(example_episodes)]
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            title=meta.get("title", "Every step at the precision it needs"),
            theme=figures.THEME,
            sections=sections,
            labels=labels,
            kl_figure=kl_figure,
            examples=examples,
            notes=notes,
            meta={key: value for key, value in meta.items() if key != "title"},
        )
    )
    for figure in drawn:
        write_atomic(directory / "figures" / f"{figure.name}.png", figure.png)
    write_atomic(directory / "report.json", text)
    write_atomic(directory / "report.md", markdown_report(results, notes))
    write_atomic(directory / "report.html", page)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bitroute.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, percent_interval=percent_interval, p_value=p_value, plain=_plain)
    environment.globals.update(p_against=p_against)
    return environment


def _plain(value: Any) -> str:
    """A value of `meta` as one readable line."""
    return value if isinstance(value, str) else json.dumps(value)


def _draw(name: str, draw: figures.Draw, size: tuple[float, float], caption: str, drawn: list[_Figure]) -> _Figure:
    figure = _Figure(name, figures.svg(draw, size, name), figures.png(draw, size), caption)
    drawn.append(figure)
    return figure


def _section(index: int, evaluation: Evaluation, drawn: list[_Figure]) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "splits": [_split(f"{index}-{number}", evaluation, split, drawn) for number, split in enumerate(evaluation.splits())],
    }


def _split(name: str, evaluation: Evaluation, split: str, drawn: list[_Figure]) -> dict[str, Any]:
    high, low = evaluation.reference, evaluation.low
    routed = [row for row in evaluation.table(split) if row.role in (PolicyRole.LEARNED, PolicyRole.ORACLE)]
    found = [
        _draw(
            f"{measure.value}-{name}",
            figures.pareto(evaluation, split, measure),
            (8.2, 5.4),
            caption,
            drawn,
        )
        for measure, caption in {
            Measure.COST: "Up and to the left is better: more tasks solved for less. Cost counts every call of an episode: "
            "what a variant reads anew after it was away, probes, checks and the router's own decisions. Bars are 95 % "
            f"intervals over tasks and seeds; the shaded bands are those of {high} and {low}. An oracle (star, dashed) reads "
            "what no router can know beforehand: it shows how much room there is, and is no competitor.",
            Measure.POOLED: "The same policies by the share of all steps of all episodes. Episodes in trouble are long, so a "
            "policy that answers trouble spends more than its K says.",
            Measure.SHARE: "The same policies by K, the mean over episodes of each episode's share, which budgets are kept by.",
        }.items()
    ]
    if routed:
        found.append(
            _draw(
                f"spending-{name}",
                figures.spending(evaluation, split),
                (8.2, 4.2),
                "Where on the trajectory high precision was spent: every episode is cut into ten equal parts. A flat line "
                "means that the policy pays no attention to how far the episode has come.",
                drawn,
            )
        )
    spent = [s for s in evaluation.spending if s.split == split and s.policy in {row.policy for row in routed}]
    return {
        "name": split,
        "conclusions": conclusions(evaluation, split),
        "figures": found,
        "rows": evaluation.table(split),
        "kinds": [(kind, evaluation.table(split, kind)) for kind in evaluation.kinds(split)],
        "equal": [
            (SPENDING[measure], [e for e in evaluation.equal if (e.split, e.measure) == (split, measure)])
            for measure in Measure
        ],
        "spent": spent,
        "verbs": sorted({v.verb for s in spent for v in s.verbs}),
        "verb_shares": {s.policy: {v.verb: v for v in s.verbs} for s in spent},
    }


def _draw_kl(labels: Sequence[Sensitivity], drawn: list[_Figure]) -> _Figure:
    return _draw(
        "kl",
        figures.kl_histogram(labels),
        (9.2, 4.2),
        "How far low precision departs from high, step by step (note the logarithmic axis). The more the mass on the right "
        "comes from few steps, the more there is to win by paying for those alone; the curve beside it says how few.",
        drawn,
    )


def _example(index: int, episode: Episode, evaluation: Evaluation, drawn: list[_Figure]) -> dict[str, Any]:
    highest = evaluation.ladder[-1]
    figure = _draw(
        f"episode-{index}",
        figures.episode_steps(episode, highest),
        (8.2, 1.4 + 0.27 * len(episode.steps)),
        "One bar a step, as long as its KL, coloured by the precision that took it. A good router takes the long bars at high "
        "precision and leaves the short ones to low.",
        drawn,
    )
    labelled = [step.sensitivity.kl_sum if step.sensitivity else None for step in episode.steps]
    top = max([kl for kl in labelled if kl is not None] or [0.0])
    steps = [
        {"step": step, "high": step.decision.variant == highest, "kl": kl, "width": 100 * kl / top if kl and top > 0 else 0.0}
        for step, kl in zip(episode.steps, labelled, strict=True)
    ]
    return {"episode": episode, "steps": steps, "figure": figure}
