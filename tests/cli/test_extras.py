from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bitroute.cli import extras
from bitroute.cli.extras import extra_of, need
from bitroute.errors import BitrouteError

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def taken_in(line: str, groups: dict[str, list[str]]) -> list[str]:
    requirement = Requirement(line)
    return (
        [inner for extra in sorted(requirement.extras) for inner in groups[extra]] if requirement.name == "bitroute" else [line]
    )


def metadata() -> list[str]:
    """The requirements of pyproject.toml as an installed package tells them: extras that take in others are spelled out."""
    groups = PROJECT["optional-dependencies"]
    lines = list(PROJECT["dependencies"])
    for extra, group in groups.items():
        for line in chain.from_iterable(taken_in(entry, groups) for entry in group):
            requirement, _, marker = line.partition(";")
            lines.append(f"{requirement}; {f'({marker.strip()}) and ' if marker else ''}extra == '{extra}'")
    return sorted(lines)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """bitroute is installed as pyproject.toml says, with the distributions in this set."""
    here: set[str] = set()

    def version(name: str) -> str:
        if name not in here:
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(extras, "requires", lambda name: metadata())
    monkeypatch.setattr(extras, "version", version)
    return here


def imported() -> set[str]:
    """First names of all modules of others that the package imports."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - {*sys.stdlib_module_names, "bitroute"}


def test_every_package_that_the_code_imports_leads_to_an_extra_or_is_in_the_core() -> None:
    core = {Requirement(line).name.replace("-", "_") for line in PROJECT["dependencies"]}
    unknown = {name for name in imported() if extra_of(name) is None}
    assert unknown <= core


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch.nn.functional", "torch"),
        ("uvicorn", "gateway"),
        ("uvloop", "gateway"),
        ("prometheus_client", "gateway"),
        ("opentelemetry.sdk", "telemetry"),
        ("openai", "serve-demo"),
        ("textworld.core", "alfworld"),
        ("numpy", None),
        ("hypothesis", None),
        ("bitroute.nonsense", None),
        ("", None),
    ],
)
def test_a_module_is_looked_up_by_its_first_name(module: str, extra: str | None) -> None:
    assert extra_of(module) == extra


def test_all_that_a_command_lacks_is_said_at_once(installed: set[str]) -> None:
    installed |= {"safetensors", "tokenizers", "jinja2", "matplotlib"}
    need("report")
    with pytest.raises(BitrouteError, match=r"^this needs torch, not installed here: pip install 'bitroute\[torch\]'$"):
        need("torch", "report")
    installed.remove("matplotlib")
    with pytest.raises(
        BitrouteError, match=r"^this needs torch and matplotlib, not installed here: pip install 'bitroute\[torch,report\]'$"
    ):
        need("torch", "report")


def test_what_only_some_platforms_have_is_not_asked_for(installed: set[str]) -> None:
    installed |= {"aiohttp", "cachetools", "httptools", "prometheus-client", "pydantic-settings", "sqlalchemy", "starlette"}
    installed |= {"uvicorn", "yarl"}
    need("gateway")


def test_sources_that_are_not_installed_know_no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", absent)
    assert extra_of("torch") is None
    need("torch")
