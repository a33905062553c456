from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from bitroute.envs.models import bundled_models, find_model, find_router, model_name
from bitroute.envs.pretrained import is_adapter
from bitroute.envs.suite import Suite
from bitroute.errors import DataError

NAMES = ["alfworld-agent", "alfworld-agent-goals", "alfworld-router", "alfworld-router-trained", "smollm2-agent"]


@dataclass
class OwnSuite:
    """As much of a suite as is asked for models."""

    models: Path | None


def own(folder: Path | None) -> Suite:
    return cast(Any, OwnSuite(folder))


def test_the_models_of_registered_suites_are_known_by_their_directories_names() -> None:
    assert sorted(bundled_models()) == NAMES
    assert all((path / "tokenizer.json").is_file() or is_adapter(path) for path in bundled_models().values())


def test_a_name_wins_over_a_directory_of_that_name_and_a_path_leads_to_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alfworld-agent").mkdir()
    bundled = find_model("alfworld-agent")
    assert bundled.is_absolute() and (bundled / "model.safetensors").is_file()
    assert find_model(tmp_path / "alfworld-agent") == tmp_path / "alfworld-agent"


@pytest.mark.parametrize("name", ["nowhere", "some/where"])
def test_what_is_neither_is_refused_with_the_names_that_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(f"model {name}: no such directory, nor one of the bundled models")) as told:
        find_model(name)
    assert str(told.value).endswith(", ".join(sorted([*NAMES, "smollm2"])))


def test_a_suites_own_models_come_first(tmp_path: Path) -> None:
    (tmp_path / "alfworld-agent").mkdir()
    (tmp_path / "reader").mkdir()
    (tmp_path / "README.md").write_text("no model")
    suite = own(tmp_path)
    assert sorted(bundled_models(suite)) == sorted([*NAMES, "reader"])
    assert find_model("alfworld-agent", suite) == tmp_path / "alfworld-agent"
    assert find_model("alfworld-agent", own(None)) == find_model("alfworld-agent")


def test_routers_are_found_by_name_and_everything_else_is_left_as_it_is() -> None:
    assert find_router("alfworld-router-trained") == str(find_model("alfworld-router-trained"))
    for text in ("always:high", "heuristic", "./alfworld-router-trained", "runs/router/routers/dmr-0"):
        assert find_router(text) == text


def test_what_leads_to_a_model_does_not_depend_on_where_the_package_lies(tmp_path: Path) -> None:
    assert model_name(find_model("alfworld-agent")) == "alfworld-agent"
    assert model_name(tmp_path) == str(tmp_path)
