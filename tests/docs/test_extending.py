"""Each page of docs/extending that builds something is followed to the letter: its files, its commands, in under 60 lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitroute.episode import View
from support.pages import files, follow, length

ROOT = Path(__file__).parents[2]
EXTENDING = ROOT / "docs" / "extending"
LONGEST = 60


@pytest.mark.parametrize("page", ["router", "suite"])
def test_a_page_builds_what_it_says_in_few_lines(page: str) -> None:
    assert 0 < length(EXTENDING / f"{page}.md") < LONGEST


def test_an_engine_needs_as_few() -> None:
    assert 0 < length(EXTENDING / "engine.md", "bigram_engine.py", "pyproject.toml") < LONGEST


@pytest.mark.slow
@pytest.mark.slow
def test_an_engine_keeps_the_contract_and_is_played_with(tmp_path: Path) -> None:
    _, made, checked, played = follow(EXTENDING / "engine.md", tmp_path)
    assert made == "" and (tmp_path / "bigrams" / "bigrams.npy").exists()
    assert "1 passed" in checked
    assert "random:0.5 on validation: success" in played and "broke" not in played


@pytest.mark.slow
def test_a_router_is_trained_saved_loaded_and_played(tmp_path: Path) -> None:
    _, trained, played = follow(EXTENDING / "router.md", tmp_path)
    assert trained == "" and (tmp_path / "words.json").exists()
    assert "words.json on validation: success" in played
    assert 0 < float(played.partition("high precision on ")[2].partition("%")[0]) < 100


@pytest.mark.slow
def test_a_suite_is_trained_for_and_played(tmp_path: Path) -> None:
    trained, high, low = follow(EXTENDING / "suite.md", tmp_path)
    assert trained.startswith("the model is in switches")
    wins = [float(text.partition("on rehearsal: success ")[2].partition("%")[0]) for text in (high, low)]
    assert wins[0] >= 75 and wins[1] <= wins[0]
    assert " is needed.\n  [w2g128-rtn] > switch on " in low


def test_a_rule_needs_a_class_and_a_kind() -> None:
    text = (EXTENDING / "router.md").read_text().partition("## A rule\n")[2]
    scope: dict[str, object] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], scope)
    router = scope["KIND"].load("2", ("low", "high"))  # type: ignore[attr-defined]
    views = [View(("",) * (t + 1), ("",) * t) for t in range(4)]
    assert [d.variant for d in router.decide(views, [router.begin(0)] * 4)] == ["high", "high", "low", "low"]
    assert router.thresholds is None and "words_router.py" in files(EXTENDING / "router.md")
