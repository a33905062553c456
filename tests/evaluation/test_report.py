import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="reports need bitroute[report]")
pytest.importorskip("matplotlib", reason="reports need bitroute[report]")

from bitroute.cost import CostModel, Rates
from bitroute.episode import Episode, Sensitivity
from bitroute.errors import DataError
from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.report import write_report
from bitroute.evaluation.results import Evaluation, PolicyRun

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "reference" / "report-json.md"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Collects what a page is made of, and insists that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src"):
                self.links.append(value or "")


def labels(count: int) -> list[Sensitivity]:
    kl = np.exp(np.random.default_rng(1).normal(-2, 2, count))
    return [
        Sensitivity(float(k), float(k), float(k), float(k), ("go to x", "take y")[i % 2], bool(k < 1)) for i, k in enumerate(kl)
    ]


def example(run: PolicyRun) -> Episode:
    episode = next(iter(run.episodes))
    steps = [replace(step, sensitivity=one) for step, one in zip(episode.steps, labels(len(episode.steps)), strict=True)]
    steps[1] = replace(steps[1], sensitivity=None, action="buy <b>now</b> for $10 or $20")
    return replace(episode, steps=tuple(steps))


@pytest.fixture(scope="module")
def result(simulated: list[PolicyRun]) -> Evaluation:
    model = CostModel(unit="seconds", variants={"low": Rates(decode=1), "high": Rates(decode=3)})
    return evaluate(simulated, environment="toy", ladder=("low", "high"), cost=model, resamples=2000)


@pytest.fixture(scope="module")
def directory(result: Evaluation, simulated: list[PolicyRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "runs" / "demo"
    write_report(
        path,
        [result],
        labels(500),
        [example(simulated[-1])],
        {"title": "A <title>", "seeds": [0, 1, 2]},
        notes=["Nobody saw <them> before."],
    )
    return path


def test_the_directory_holds_page_document_and_figures(directory: Path) -> None:
    names = sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())
    figures = ["cost-0-0.png", "episode-0.png", "kl.png", "pooled-0-0.png", "share-0-0.png", "spending-0-0.png"]
    assert names == [*(f"figures/{name}" for name in figures), "report.html", "report.json", "report.md"]
    for name in figures:
        data = (directory / "figures" / name).read_bytes()
        assert data.startswith(b"\x89PNG\r\n") and len(data) > 10_000


def test_the_page_stands_alone(directory: Path) -> None:
    text = (directory / "report.html").read_text()
    page = Page(text)
    assert page.tags.count("svg") == 6
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    # every colour of a figure follows the theme
    figures = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "var(--ink)" in figures and "#00fe" not in figures
    assert "prefers-color-scheme: dark" in text


def test_the_page_tells_what_was_found(directory: Path, result: Evaluation) -> None:
    text = (directory / "report.html").read_text()
    for row in result.table("unseen"):
        assert f"<td>{row.policy}" in text
    for words in (
        "A &lt;title&gt;",
        "toy, unseen",
        "heat",
        "place",
        "Step by step",
        "High precision by kind of action",
        "[0, 1, 2]",
        "At equal K:",
        "At equal pooled share:",
        "At equal cost:",
        "Nobody saw &lt;them&gt; before.",
    ):
        assert words in text
    assert "buy &lt;b&gt;now&lt;/b&gt; for $10 or $20" in text
    assert "<b>now</b>" not in text and "A <title>" not in text


def test_the_document_holds_the_figures_that_are_asked_for(directory: Path, result: Evaluation) -> None:
    found = json.loads((directory / "report.json").read_text())
    assert (found["schema_version"], found["meta"]["seeds"]) == (2, [0, 1, 2])
    [evaluation] = found["evaluations"]
    assert len(evaluation["policies"]) == len(result.rows)
    row = next(r for r in result.table("unseen") if r.policy == "dmr 0.3")
    stored = next(p for p in evaluation["policies"] if (p["policy"], p["kind"]) == ("dmr 0.3", "all"))
    assert row.gap is not None and row.cost is not None
    assert (stored["environment"], stored["split"], stored["n"]) == ("toy", "unseen", 300)
    assert (stored["success"], stored["success_interval"]) == (row.success.value, [row.success.low, row.success.high])
    assert (stored["realised_share"], stored["relative_cost"]) == (row.share.value, row.cost.value)
    assert stored["pooled_share_interval"] == [row.pooled.low, row.pooled.high]
    assert [(e["measure"], e["family"]) for e in evaluation["equal"]] == [
        (measure, family) for measure in ("share", "pooled", "cost") for family in ("random", "kl oracle")
    ]
    assert found["notes"] == ["Nobody saw <them> before."]
    assert stored["gap_recovered_interval"] == [row.gap.estimate.low, row.gap.estimate.high]
    assert (stored["budget"], stored["within_budget"], stored["role"]) == (0.3, True, "learned")
    assert set(stored["against"]) == {"all-high", "all-low"}
    assert found["sensitivity"]["steps"] == 500
    assert evaluation["conclusions"]["unseen"][0].startswith("Of 300 tasks")


def test_every_field_is_documented(directory: Path) -> None:
    described = set(re.findall(r"`([a-z_0-9]+)", DOCUMENTATION.read_text()))

    def fields(value: object, path: str = "") -> set[str]:
        if isinstance(value, list):
            return set().union(*(fields(item, path) for item in value))
        if not isinstance(value, dict):
            return set()
        free = path in ("meta", "against", "conclusions")  # keys are names here, not fields
        return set().union(*(({key} if not free else set()) | fields(item, "" if free else key) for key, item in value.items()))

    assert fields(json.loads((directory / "report.json").read_text())) <= described


def test_a_report_needs_no_labels_examples_or_learned_policy(make_run, tmp_path: Path) -> None:
    result = evaluate(
        [make_run("all-high", "11", "h"), make_run("all-low", "11", "l")], environment="toy", ladder=("low", "high")
    )
    write_report(tmp_path, [result])
    Page((tmp_path / "report.html").read_text())
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["sensitivity"] is None
    assert found["evaluations"][0]["policies"][0]["gap_recovered"] is None
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["cost-0-0.png", "pooled-0-0.png", "share-0-0.png"]


def test_several_evaluations_share_a_page(make_run, tmp_path: Path) -> None:
    runs = [make_run("all-high", "11", "h"), make_run("all-low", "01", "l")]
    results = [
        evaluate(runs, environment=name, ladder=("low", "high"), resamples=100) for name in ("own cache", "shared cache")
    ]
    write_report(tmp_path, results)
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {p.name for p in (tmp_path / "figures").iterdir()} >= {"share-0-0.png", "share-1-0.png"}


def test_equal_input_gives_equal_bytes(make_run, tmp_path: Path) -> None:
    result = evaluate(
        [make_run("all-high", "11", "h"), make_run("all-low", "01", "l")], environment="toy", ladder=("low", "high")
    )
    for name in ("a", "b"):
        write_report(tmp_path / name, [result])
    for file in ("report.html", "report.json", "figures/cost-0-0.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_bad_input_is_refused_before_anything_is_written(result: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one evaluation"):
        write_report(tmp_path, [])
    for value in (float("nan"), {1, 2}):
        with pytest.raises(DataError, match="meta cannot be stored as JSON"):
            write_report(tmp_path, [result], meta={"x": value})
    assert list(tmp_path.iterdir()) == []
