"""Pages of the documentation as programs: their titled code blocks are files, their console blocks are commands.

A block's title names its file: ```python title="words_router.py". Blocks of one title follow each other in one file. A
pyproject.toml is installed as an installer would do it: by its entry points.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
BITROUTE = "import sys; from bitroute.cli.main import main; sys.exit(main())"


def files(page: Path) -> dict[str, str]:
    """The text of each file that the page writes."""
    found: dict[str, list[str]] = defaultdict(list)
    for _, title, text in _BLOCK.findall(page.read_text()):
        if title:
            found[title].append(text)
    return {name: "\n\n".join(parts) for name, parts in found.items()}


def length(page: Path, *names: str) -> int:
    """Lines of code on the page that are not empty, over the files of these names; without a name over all of them."""
    return sum(
        bool(line.strip()) for name, text in files(page).items() if not names or name in names for line in text.splitlines()
    )


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each command on the page, but for those that install: `follow` does that."""
    for language, _, text in _BLOCK.findall(page.read_text()):
        for line in text.splitlines() if language == "console" else ():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if line.startswith("$ ") and words[0] != "pip":
                yield words


def follow(page: Path, directory: Path) -> list[str]:
    """Write the page's files into `directory`, install them, and run its commands there: what each printed.

    Fails with a command's own words when it does not succeed.
    """
    for name, text in files(page).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    if (directory / "pyproject.toml").exists():
        _install(tomllib.loads((directory / "pyproject.toml").read_text())["project"], directory)
    environment = {**os.environ, "PYTHONPATH": str(directory), "OMP_NUM_THREADS": "1"}
    printed = []
    for words in commands(page):
        program = {"bitroute": [sys.executable, "-c", BITROUTE], "python": [sys.executable]}[words[0]]
        done = subprocess.run(
            [*program, *words[1:]], cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        printed.append(done.stdout)
    return printed


def _install(project: dict[str, object], directory: Path) -> None:
    """The metadata that an installer leaves beside a package's files."""
    name = str(project["name"])
    metadata = directory / f"{name.replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    assert isinstance(groups, dict)
    lines = [line for group, entries in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in entries.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
