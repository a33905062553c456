"""Run directories: what was run, from which source, and which results are already there. Knows files, nothing of their
meaning.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bitroute import __version__
from bitroute.errors import ConfigError, DataError
from bitroute.store.files import write_atomic

T = TypeVar("T")

CONFIG = "config.json"


def provenance() -> dict[str, Any]:
    """The command, version, git commit (None outside a checkout) and machine of this process."""
    return {
        "command": ["bitroute", *sys.argv[1:]],
        "version": __version__,
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
    }


def commit(package: Path) -> str | None:
    """The git commit of the checkout that tracks `package`, with "-dirty" after it where files differ; None elsewhere.

    A package that was installed into an environment within somebody's checkout is not tracked by it.
    """
    found = None
    for command in (("ls-files", "--error-unmatch", "__init__.py"), ("describe", "--always", "--dirty", "--abbrev=12")):
        git = ["git", "-C", str(package), *command]
        try:
            found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None
    return found


def processor() -> str:
    """The processor's name and its number of cores, as the operating system tells."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores"


def directory_for(parent: Path, title: str, config: dict[str, Any]) -> Path:
    """A directory below `parent` for the run of `config`: the same one for the same configuration, another for any other."""
    words = re.sub(r"[^\w.]+", "-", title).strip("-.")
    return parent / f"{words}-{hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]}"


def digest(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a directory's files and their names."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(p.name.encode() + hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()


class RunDirectory:
    """A directory of one run. The first run fixes its configuration; a later one with the same goes on where it stopped.

    Between `__init__` and `close` (or the end of the `with` block, or of the process) nobody else can open it.
    """

    def __init__(self, path: Path, config: dict[str, Any], *, free: Sequence[str] = ()) -> None:
        """Open or make `path`. A later run may differ in the `free` keys of the configuration.

        Raises ConfigError when it holds a run of another configuration or is at work elsewhere, DataError when it cannot be
        written or its configuration is damaged.
        """
        self.path = path
        wanted = json.loads(json.dumps(config))  # as it will be read: tuples as lists
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror}") from error
        try:
            self._open(wanted, free)
        except BaseException:
            self.close()
            raise

    def _open(self, config: dict[str, Any], free: Sequence[str]) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{self.path}: another bitroute is at work here; wait for it or choose another --out") from error
        stored = self.path / CONFIG
        if stored.exists():
            before = read_config(self.path)
            differing = sorted(k for k in (before.keys() | config.keys()) - set(free) if before.get(k) != config.get(k))
            if differing:
                raise ConfigError(f"{self.path}: holds a run with another {', '.join(differing)}; choose another --out")
            self._sweep(self.path.rglob(".*.tmp"))
        else:
            for name in (CONFIG, "provenance.json"):  # no more than that: the directory may be somebody else's
                self._sweep(self.path.glob(f".{name}.*.tmp"))
            write_atomic(self.path / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
            write_atomic(stored, json.dumps(config, indent=2) + "\n")

    @staticmethod
    def _sweep(leftovers: Iterable[Path]) -> None:
        """Remove what a process left that was killed while it wrote."""
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others open the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def stored(self, name: str) -> Any:
        """The JSON value in `name`.json, None where the file is not there yet. Raises DataError when it is damaged."""
        path = self.path / f"{name}.json"
        return read_json(path) if path.exists() else None

    def keep(self, name: str, value: T) -> T:
        """Write a JSON value to `name`.json; it comes back as a resumed run will see it: tuples as lists, keys as strings."""
        path = self.path / f"{name}.json"
        write_atomic(path, json.dumps(value, indent=1) + "\n")
        read: T = read_json(path)
        return read

    def once(self, name: str, make: Callable[[], T]) -> T:
        """The JSON value in `name`.json, made by `make` if it is not there yet. Raises DataError when the file is damaged."""
        stored: T | None = self.stored(name)
        return self.keep(name, make()) if stored is None else stored


def read_config(run: Path) -> dict[str, Any]:
    """The configuration of the run in a directory. Raises DataError naming the file when it is missing or damaged.

    Nothing makes it again, and without it the rest is of no use: it is not to be removed.
    """
    path = run / CONFIG
    value = read_json(path, "put a copy of it back, or start anew with another --out")
    if not isinstance(value, dict):
        raise DataError(f"{path}: is no configuration of a run; choose another --out")
    return value


def read_json(path: Path, advice: str = "remove it to make it again") -> Any:
    """The value in a JSON file. Raises DataError naming it when it cannot be read; `advice` says what to do with a damaged
    one.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {advice}") from error
