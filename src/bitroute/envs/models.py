"""The models that come with suites: a name first, a path second. It reads nothing but the names of directories."""

from __future__ import annotations

from pathlib import Path

from bitroute.envs.registry import load_suite, suite_names
from bitroute.envs.suite import Suite
from bitroute.errors import DataError


def find_model(name: str | Path, suite: Suite | None = None) -> Path:
    """The directory of the model that `name` stands for: one that comes with `suite` or a registered suite, or else a path.

    Raises DataError naming both when there is neither.
    """
    bundled: dict[str, Path] = {}
    for each in ([suite] if suite else []) + [load_suite(known) for known in suite_names()]:
        if each.models is not None:
            bundled = {path.name: path for path in sorted(each.models.iterdir()) if path.is_dir()} | bundled
    path = bundled.get(str(name), Path(name))
    if not path.is_dir():
        raise DataError(f"model {name}: no such directory, nor one of the bundled models {', '.join(sorted(bundled))}")
    return path
