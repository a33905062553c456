"""The models and routers that come with suites: a name first, a path second. It reads nothing but the names of directories."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bitroute.envs.registry import load_suite, suite_names
from bitroute.envs.suite import Suite
from bitroute.errors import ConfigError, DataError


def bundled_models(suite: Suite | None = None) -> dict[str, Path]:
    """Every model and router that comes with `suite` or a registered suite, by name; of equal names `suite`'s own.

    What another package registered and cannot be loaded is passed over: it is told where that suite itself is asked for.
    """
    found: dict[str, Path] = {}
    suites = [suite] if suite else []
    for name in suite_names():
        with suppress(ConfigError):
            suites.append(load_suite(name))
    for each in suites:
        if each.models is not None and each.models.is_dir():
            found = {path.name: path for path in sorted(each.models.iterdir()) if path.is_dir()} | found
    return found


def find_model(name: str | Path, suite: Suite | None = None) -> Path:
    """The directory of the model that `name` stands for: a bundled one, or else a path.

    Raises DataError, naming those that are bundled, when there is neither.
    """
    bundled = bundled_models(suite)
    path = bundled.get(str(name), Path(name))
    if not path.is_dir():
        raise DataError(f"model {name}: no such directory, nor one of the bundled models {', '.join(sorted(bundled))}")
    return path


def find_router(text: str) -> str:
    """`text` as a router is asked for: a bundled one's path in place of its name, everything else as it is."""
    return text if set(text) & set(":/") else str(bundled_models().get(text, text))


def model_name(path: Path, suite: Suite | None = None) -> str:
    """What `find_model` leads to `path` by: a bundled model's name, which holds wherever the package lies, or else the path."""
    return next((name for name, place in bundled_models(suite).items() if place == path), str(path))
