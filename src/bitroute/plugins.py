"""What other packages add to bitroute by entry points: suites, routers, engines. Knows names; what they stand for, the registry
that asks knows.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from bitroute.errors import ConfigError


def plugin_names(group: str) -> tuple[str, ...]:
    """The names that installed packages registered under `group`, sorted. Nothing is imported."""
    return tuple(sorted(set(entry_points(group=group).names)))


def load_plugin(group: str, name: str) -> Any:
    """What `name` of `group` stands for: the object that the entry point leads to.

    Raises KeyError when no package registered the name, ConfigError (one line that names the package) when two did or when the
    object cannot be imported.
    """
    found = tuple(entry_points(group=group, name=name))
    if not found:
        raise KeyError(name)
    if len({entry.value for entry in found}) > 1:
        packages = ", ".join(sorted(entry.dist.name if entry.dist else entry.value for entry in found))
        raise ConfigError(f"{group}: {name!r} is registered more than once ({packages}); uninstall all but one")
    entry = found[0]
    try:
        return entry.load()
    except Exception as error:  # a third party's module may raise anything while it is imported
        package = f" of {entry.dist.name}" if entry.dist else ""
        raise ConfigError(
            f"{group}: {name!r}{package} leads to {entry.value}, which cannot be loaded ({type(error).__name__}: {error})"
        ) from error
