"""Suites by name. It knows the built-in ones, the entry points `bitroute.suites` by which other packages add theirs, and
`module:attribute` for one that is in no package yet.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from bitroute.envs.suite import Suite
from bitroute.errors import BitrouteError, ConfigError
from bitroute.plugins import load_plugin, plugin_names

GROUP: Final = "bitroute.suites"

BUILT_IN: Final = {"alfworld": "bitroute.envs.alfworld.suite:AlfworldSuite"}
DEFAULT: Final = next(iter(BUILT_IN))

Make = Callable[[Path | None], Suite]


def suite_names() -> tuple[str, ...]:
    """The names of all suites, the built-in ones first. Nothing is imported."""
    return (*BUILT_IN, *(name for name in plugin_names(GROUP) if name not in BUILT_IN))


def load_suite(name: str, data: Path | None = None) -> Suite:
    """The suite that `name` stands for, with its publisher's files in `data`.

    `name` is built in, registered by an installed package, or `module:attribute` (a class or function that takes `data`).
    Raises ConfigError for an unknown name and for a suite that cannot be imported or made.
    """
    make = _find(BUILT_IN.get(name, name))
    try:
        return make(data)
    except BitrouteError:
        raise
    except Exception as error:
        raise ConfigError(f"suite {name!r} cannot be made ({type(error).__name__}: {error})") from error


def _find(name: str) -> Make:
    module, colon, attribute = name.partition(":")
    try:
        found: Make = getattr(import_module(module), attribute) if colon else load_plugin(GROUP, name)
    except KeyError:
        raise ConfigError(f"unknown suite {name!r}; want one of {', '.join(suite_names())}, or module:attribute") from None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"suite {name!r} cannot be imported ({error})") from error
    return found
