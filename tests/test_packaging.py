"""What an installer relies on: imports are declared, ranges end, and the pinned versions are within them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
    if not line.startswith("bitroute[")  # an extra that takes in others
]
PINNED = [
    Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
]


def faults(folder: Path, source: str) -> set[str]:
    """Codes that the check of imports gives `source` as a module of the package."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "src" / "bitroute").mkdir(parents=True)
    (folder / "src" / "bitroute" / "module.py").write_text(source)
    command = [sys.executable, "-m", "deptry", "src", "--ignore", "DEP002", "--json-output", "faults.json"]
    subprocess.run(command, cwd=folder, check=False, capture_output=True)
    return {fault["error"]["code"] for fault in json.loads((folder / "faults.json").read_text())}


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ("import json\nimport numpy\nimport torch\n", set()),
        ("import surely_not_installed\n", {"DEP001"}),
        ("def late():\n    import yaml\n", {"DEP003"}),  # installed, because something else needs it
        ("import hypothesis\n", {"DEP004"}),  # declared, but for the tests alone
    ],
)
def test_an_import_that_is_not_declared_is_found(tmp_path: Path, source: str, codes: set[str]) -> None:
    assert faults(tmp_path, source) == codes


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_range_ends_and_holds_the_pinned_version(requirement: Requirement) -> None:
    assert {"<", "=="} & {part.operator for part in requirement.specifier}, "no upper bound: end at the next major version"
    pins = [pin for pin in PINNED if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert pins, "not in constraints.txt: run `make constraints`"
    for pin in pins:
        (part,) = pin.specifier
        assert requirement.specifier.contains(part.version), f"constraints.txt has {part.version}: run `make constraints`"


def test_a_suites_name_stands_in_its_folder_and_in_the_registry_alone() -> None:
    """Everything else asks the contract, so that a second suite is no second case."""
    source = ROOT / "src" / "bitroute"
    naming = [
        path
        for path in source.rglob("*")
        if path.suffix in (".py", ".jinja", ".js", ".html") and "alfworld" in path.read_text().lower()
    ]
    folder = source / "envs" / "alfworld"
    assert [path for path in naming if folder not in path.parents] == [source / "envs" / "registry.py"]


def test_pins_name_versions_alone() -> None:
    """No index, file or build of one machine: they hold for every platform."""
    for pin in PINNED:
        assert pin.url is None
        assert [part.operator for part in pin.specifier] == ["=="]
        assert "+" not in str(pin.specifier)
