"""Run directories: what was run, from which source, and which results are already there. Knows files, nothing of their
meaning.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bitroute import __version__
from bitroute.errors import ConfigError, DataError
from bitroute.store.files import write_atomic

T = TypeVar("T")


def provenance() -> dict[str, Any]:
    """The command, version, git commit (None outside a checkout) and machine of this process."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "command": ["bitroute", *sys.argv[1:]],
        "version": __version__,
        "commit": commit,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
    }


def processor() -> str:
    """The processor's name and its number of cores, as the operating system tells."""
    import os  # noqa: PLC0415

    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"


class RunDirectory:
    """A directory of one run. The first run fixes its configuration; a later one with the same goes on where it stopped."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        """Open or make `path`. Raises ConfigError when it holds a run of another configuration."""
        self.path = path
        stored = path / "config.json"
        if stored.exists():
            try:
                before = json.loads(stored.read_text())
            except ValueError as error:
                raise DataError(f"{stored}: damaged ({error}); choose another directory") from error
            differing = sorted(k for k in before.keys() | config.keys() if before.get(k) != config.get(k))
            if differing:
                raise ConfigError(
                    f"{path}: holds a run with another {', '.join(differing)}; choose another directory with --out"
                )
        else:
            write_atomic(stored, json.dumps(config, indent=2) + "\n")
            write_atomic(path / "provenance.json", json.dumps(provenance(), indent=2) + "\n")

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The JSON value `name`.json, made by `make` if it is not there yet."""
        path = self.path / f"{name}.json"
        if path.exists():
            value: T = json.loads(path.read_text())
            return value
        value = make()
        write_atomic(path, json.dumps(value, indent=1) + "\n")
        value = json.loads(path.read_text())  # what a resumed run will see: tuples as lists, keys as strings
        return value
