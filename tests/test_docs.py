"""The reference pages say what the code says, and every command shown anywhere exists."""

import dataclasses
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from bitroute.cli.main import app
from bitroute.envs.alfworld.splits import SPLITS
from bitroute.episode import Decision, Episode, Sensitivity, Signals, Step, Usage
from bitroute.errors import BitrouteError, CapabilityError, ConfigError, DataError
from bitroute.experiment.config import ExperimentConfig
from bitroute.gateway.core.config import GatewayConfig, SplitConfig, VariantConfig
from bitroute.gateway.records.facts import Record, fields_of
from bitroute.gateway.records.step import EpisodeRecord, StepRecord
from bitroute.routers.kinds import BUILT_IN
from bitroute.training.recipes import GrpoRecipe, SupervisedRecipe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
LINK = re.compile(r"(?:\]\(|^\[[\w-]+\]: )([^)#\s]*)(#([^)\s]+))?", re.MULTILINE)  # within a text, or at a page's end
REPOSITORY = "https://github.com/bitroute/bitroute/blob/main/"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its name's words."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())


def section(page: str, heading: str) -> str:
    """What stands below `heading`, up to the next one."""
    return (REFERENCE / page).read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in `text`, without headings and rules."""
    table = [[cell.strip() for cell in line.strip("|").split(" |")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in table if row[0].startswith("`")]


def examples(text: str) -> Iterator[str]:
    """Command lines of bitroute in code blocks, comments cut off."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("bitroute "):
                yield line.partition("#")[0].strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_as_help_explains_it(name: str) -> None:
    expected = []
    for parameter in COMMANDS[name].params:
        if parameter.name == "help":
            continue
        flag = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.opts[0].upper()
        plain = parameter.default is None or parameter.default is False or parameter.required
        default = (
            "" if plain else f"`{parameter.default:g}`" if isinstance(parameter.default, float) else f"`{parameter.default}`"
        )
        expected.append([f"`{flag}`", default, parameter.help])
    found = [
        [flag, default, meaning.replace("`", "")] for flag, default, meaning in rows(section("cli.md", f"## bitroute {name}"))
    ]
    assert found == [[flag, default, meaning.replace("`", "")] for flag, default, meaning in expected]
    shown = list(examples(section("cli.md", f"## bitroute {name}")))
    assert shown == [line.strip() for line in COMMANDS[name].epilog.partition("Examples:\n")[2].splitlines()]


def test_routers_splits_and_exit_codes_are_all_there() -> None:
    kinds = [
        [form.strip("`"), what.replace("`", "").replace("&#124;", "|")] for form, what in rows(section("cli.md", "## Routers"))
    ]
    assert kinds == [[kind.form, kind.help] for kind in BUILT_IN.values()]
    reasons = (REFERENCE / "gateway.md").read_text().partition("### Reasons\n")[2].partition("\n| ")[0]
    assert set(re.findall(r"`([\w-]+)`", reasons)) == {kind.name for kind in BUILT_IN.values() if not kind.offline}
    assert {row[0].strip("`") for row in rows(section("cli.md", "## Splits"))} == {*SPLITS, "official-NAME"}
    page = (REFERENCE / "cli.md").read_text()
    for error in (BitrouteError, ConfigError, DataError, CapabilityError):
        assert f"\n| {error.exit_code} | " in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page: Path) -> None:
    for line in examples(page.read_text()):
        words = shlex.split(line)[1:]
        name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
        if name is None:
            assert words in (["COMMAND", "[OPTIONS]"], ["--version"], ["--help"]), line
            continue
        known = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known | {"--help"}, line


def test_the_trained_router_decides_as_the_guide_shows_it() -> None:
    code = (ROOT / "docs" / "guide" / "train-a-router.md").read_text().partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names["decision"], Decision)


def headings(page: Path) -> set[str]:
    """What can be linked to within a page, as GitHub names it."""
    lines = [line.lstrip("#").strip().lower() for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", line).replace(" ", "-") for line in lines}


def test_pages_link_to_pages_that_exist() -> None:
    for page in PAGES:
        for target, _, place in LINK.findall(page.read_text()):
            if target.startswith(REPOSITORY):
                file = ROOT / target.removeprefix(REPOSITORY)
            elif "://" in target:
                continue
            else:
                assert page.name != "README.md" or not target, f"{page}: {target} is relative, which PyPI cannot follow"
                file = page.parent / target if target else page
            assert file.exists(), f"{page}: {target}"
            assert not place or place in headings(file), f"{page}: {target}#{place}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    """`make docs` fails on one that is left out, too, but takes longer."""
    listed = re.findall(r"^ *- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_every_package_has_its_line_in_the_house() -> None:
    """Named in the order of the contract that the import linter checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["id"] == "layers")["layers"]
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, re.MULTILINE)
    assert named == [(str(line), name) for line, layer in enumerate(layers, 1) for name in layer.split(" | ")]


def documented(heading: str) -> dict[str, str]:
    return {row[0].strip("`"): row[1].strip("`") for row in rows(section("config.md", heading))}


def test_every_field_of_the_configuration_is_explained_with_its_default() -> None:
    defaults = ExperimentConfig().model_dump(mode="json")
    for recipe in ("supervised", "grpo"):
        assert documented(f"## `{recipe}`") == {name: json.dumps(value) for name, value in defaults.pop(recipe).items()}
    top = documented("## Top level")
    assert top.pop("supervised") == top.pop("grpo") == "see below"
    assert top == {name: json.dumps(value) for name, value in defaults.items()}
    assert set(documented("## `supervised`")) == {f.name for f in dataclasses.fields(SupervisedRecipe)}
    assert set(documented("## `grpo`")) == {f.name for f in dataclasses.fields(GrpoRecipe)}


def test_the_configuration_that_is_shown_is_one(tmp_path: Path) -> None:
    text = (REFERENCE / "config.md").read_text()
    (tmp_path / "my.json").write_text(text.partition("```json\n")[2].partition("```")[0])
    assert ExperimentConfig.load(tmp_path / "my.json").low == "w3g64-gptq"


@pytest.mark.parametrize("value", [Episode, Step])
def test_every_field_of_a_trace_is_explained(value: Any) -> None:
    heading = "| field of `episode` | meaning |" if value is Episode else "| field of `steps[]` | meaning |"
    table = (REFERENCE / "run-directory.md").read_text().partition(heading)[2].partition("\n\n")[0]
    named = {name for row in rows(table) for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {field.name for field in dataclasses.fields(value)}
    if value is Step:
        for part in (Decision, Signals, Usage, Sensitivity):
            for field in dataclasses.fields(part):
                assert f"`{field.name}`" in table, field.name


def settings(heading: str) -> dict[str, str]:
    """Keys and defaults of one section of the gateway's configuration, as the reference has them."""
    page = (REFERENCE / "gateway.md").read_text()
    table = page.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    return {row[0].strip("`"): row[1].strip("`") for row in rows(table)}


def keys(model: type[BaseModel]) -> dict[str, str]:
    """The same as the code has them."""
    return {
        name: "required" if field.is_required() else json.dumps(field.default) for name, field in model.model_fields.items()
    }


def test_every_setting_of_the_gateway_is_explained_with_its_default() -> None:
    assert settings("`[[variants]]`") == keys(VariantConfig)
    assert settings("`[[routing.splits]]`") == keys(SplitConfig)
    sections = {name: field.annotation for name, field in GatewayConfig.model_fields.items() if name != "variants"}
    for name, section_ in sections.items():
        assert isinstance(section_, type), name
        assert settings(f"`[{name}]`") == keys(section_), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_gateway_configurations_that_are_shown_are_ones(page: Path) -> None:
    """A block that is a part of a file says so: `toml fragment`, and is checked with two variants before it."""
    variants = [{"name": name, "urls": ["http://127.0.0.1"]} for name in ("low", "high")]
    for fragment, block in re.findall(r"```toml( fragment)?\n(.*?)```", page.read_text(), re.DOTALL):
        data = tomllib.loads(block)
        GatewayConfig.of({"variants": variants, **data} if fragment else data, str(page))


def test_the_configuration_that_is_deployed_is_one() -> None:
    assert GatewayConfig.load(ROOT / "deploy" / "gateway.toml").ladder == ("low", "high")


@pytest.mark.parametrize(("heading", "record"), [("### `episodes`", EpisodeRecord), ("### `steps`", StepRecord)])
def test_every_column_is_explained_as_its_field_explains_it(heading: str, record: type[Record]) -> None:
    table = (REFERENCE / "gateway.md").read_text().partition(f"\n{heading}\n")[2].partition("\n#")[0]
    assert rows(table) == [[f"`{field.name}`", field.fact.meaning] for field in fields_of(record)]


def test_headers_errors_endpoints_metrics_and_columns_of_the_gateway_are_explained() -> None:
    """What the sources spell stands on the page: headers, codes, reasons, paths, metrics, columns."""
    page = (REFERENCE / "gateway.md").read_text()
    gateway = ROOT / "src" / "bitroute" / "gateway"
    source = "\n".join(path.read_text() for path in sorted(gateway.rglob("*.py")))
    named = {
        *re.findall(r'"(x-bitroute-[a-z-]+)"', source),
        *re.findall(r'code="([a-z_]+)"', source),
        *re.findall(r'Route\("(/[a-z]+(?:\.json)?)"', source),
        *re.findall(r'metrics\.watch(?:_all)?\("(\w+)"', source),
        *(f"{name}_total" for name in re.findall(r'= counter\("(\w+)"', source)),
        *re.findall(r'= histogram\("(\w+)"', source),
        *re.findall(r'Column\("(\w+)"', source),
    } - {"version"}
    assert len(named) > 60
    for name in sorted(named):
        assert re.search(rf"`(?:GET |POST )?{re.escape(name)}`", page), name
