"""Engines by kind: from an `EngineSpec` to an engine that hosts its ladder.

It knows the built-in kinds and the entry points `bitroute.engines`, by which other packages add theirs: a function
`(spec, end_token) -> Engine`. It knows no framework: each kind's own is imported when an engine of that kind is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bitroute.engines.engine import Engine
from bitroute.engines.spec import EngineSpec
from bitroute.errors import BitrouteError, CapabilityError, ConfigError
from bitroute.plugins import load_plugin, plugin_names

GROUP: Final = "bitroute.engines"

Load = Callable[[EngineSpec, int], Engine[Any]]


def _torch(spec: EngineSpec, end_token: int) -> Engine[Any]:
    from bitroute.engines.loading import load_torch  # noqa: PLC0415  (torch is an extra)

    return load_torch(spec, end_token)


BUILT_IN: Final[dict[str, Load]] = {"torch": _torch}


def kinds() -> tuple[str, ...]:
    """The names of all kinds, the built-in ones first."""
    return (*BUILT_IN, *(name for name in plugin_names(GROUP) if name not in BUILT_IN))


def load_engine(spec: EngineSpec, end_token: int) -> Engine[Any]:
    """The engine of a specification; `end_token` ends an action.

    Raises ConfigError for an unknown kind and for one that cannot be imported or does not load, CapabilityError when it hosts
    another ladder than asked for, and whatever BitrouteError the kind itself raises (a missing file, a device that is not
    there).
    """
    load = _find(spec.kind)
    try:
        engine = load(spec, end_token)
    except (BitrouteError, ImportError):
        raise
    except Exception as error:
        if spec.kind in BUILT_IN:
            raise
        raise ConfigError(f"engine {spec.kind!r} cannot load {spec.model} ({type(error).__name__}: {error})") from error
    if tuple(engine.ladder) != spec.ladder:
        raise CapabilityError(
            f"engine {spec.kind!r} hosts {', '.join(engine.ladder) or 'nothing'}; asked for {', '.join(spec.ladder)}"
        )
    return engine


def _find(kind: str) -> Load:
    if kind in BUILT_IN:
        return BUILT_IN[kind]
    try:
        load = load_plugin(GROUP, kind)
    except KeyError:
        raise ConfigError(f"unknown engine {kind!r}; want one of {', '.join(kinds())}") from None
    if not callable(load):
        raise ConfigError(f"{GROUP}: {kind!r} is {type(load).__name__}, not a function (spec, end_token) -> Engine")
    found: Load = load
    return found
