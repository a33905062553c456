"""Suites by name. It knows the built-in ones, the entry points `bitroute.suites` by which other packages add theirs, and
`module:attribute` for one that is in no package yet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from bitroute.envs.suite import Suite
from bitroute.errors import BitrouteError, ConfigError
from bitroute.plugins import load_plugin, plugin_names

GROUP: Final = "bitroute.suites"

BUILT_IN: Final = {
    "alfworld": "bitroute.envs.alfworld.suite:AlfworldSuite",
    "alfworld-2": "bitroute.envs.alfworld.suite:two_goals",
    "alfworld-3": "bitroute.envs.alfworld.suite:three_goals",
}
DEFAULT: Final = next(iter(BUILT_IN))

Make = Callable[[Path | None], Suite]


def suite_names() -> tuple[str, ...]:
    """The names of all suites, the built-in ones first. Nothing is imported."""
    return (*BUILT_IN, *(name for name in plugin_names(GROUP) if name not in BUILT_IN))


def load_suite(name: str, data: Path | None = None) -> Suite:
    """The suite that `name` stands for, with its publisher's files in `data`.

    `name` is built in, registered by an installed package, or `module:attribute` (a class or function that takes `data`), where
    the module may lie in the working directory. Raises ConfigError for an unknown name, and for a suite that cannot be
    imported, cannot be made, or lacks a part of the contract.
    """
    make = _find(BUILT_IN.get(name, name))
    try:
        suite = make(data)
    except BitrouteError:
        raise
    except Exception as error:  # a third party's class may raise anything
        raise ConfigError(f"suite {name!r} cannot be made ({type(error).__name__}: {error})") from error
    parts = (*Suite.__annotations__, *(part for part in vars(Suite) if not part.startswith("_")))
    if lacking := sorted({part for part in parts if not hasattr(suite, part)}):
        raise ConfigError(f"suite {name!r} lacks {', '.join(lacking)}: see bitroute.envs.suite.Suite")
    return suite


def _find(name: str) -> Make:
    module, colon, attribute = name.partition(":")
    if not colon:
        try:
            registered: Make = load_plugin(GROUP, name)
        except KeyError:
            known = ", ".join(suite_names())
            raise ConfigError(f"unknown suite {name!r}; want one of {known}, or module:attribute") from None
        return registered
    if (here := str(Path.cwd())) not in sys.path:  # an installed command does not look where it was called
        sys.path.insert(0, here)
    try:
        found: Make = getattr(import_module(module), attribute)
    except Exception as error:  # as above: the module may be half written
        raise ConfigError(f"suite {name!r} cannot be imported ({type(error).__name__}: {error})") from error
    return found
