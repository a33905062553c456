"""Engines by kind: how the variants of a model are named, made and hosted.

The built-in kind stands in `BUILT_IN`; other packages add theirs by the entry points `bitroute.engines`, each a name that leads
to an `EngineKind`. It knows no framework: each kind's own is imported when an engine of that kind is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from bitroute.engines.engine import Engine
from bitroute.engines.spec import EngineSpec
from bitroute.errors import BitrouteError, CapabilityError, ConfigError
from bitroute.plugins import load_plugin, plugin_names
from bitroute.quantization.scheme import Scheme

GROUP: Final = "bitroute.engines"

T = TypeVar("T")
CalibrationSource = Callable[[], tuple[Sequence[Any], str]]  # token batches [1, t] for a quantiser, and where they come from


def _any_scheme(scheme: str) -> None:
    """Whatever a variant is called, loading will tell."""


def _nothing_to_make(spec: EngineSpec, calibration: CalibrationSource) -> None:
    """All variants are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """How engines of one kind come to be.

    `load(spec, end_token)` hosts the ladder of a specification; `end_token` ends an action. `identify(model)` is the
    fingerprint of the model in a directory: routers and runs of another model are refused by it. `check(scheme)` raises
    ConfigError for the name of a variant that the kind does not know. `prepare(spec, calibration)` makes the variants that are
    missing in `spec.variants`; a quantiser that needs text calls `calibration`.
    """

    name: str
    load: Callable[[EngineSpec, int], Engine[Any]]
    identify: Callable[[Path], str]
    check: Callable[[str], object] = _any_scheme
    prepare: Callable[[EngineSpec, CalibrationSource], None] = _nothing_to_make


def _load_torch(spec: EngineSpec, end_token: int) -> Engine[Any]:
    from bitroute.engines.loading import load_torch  # noqa: PLC0415  (torch is an extra)

    return load_torch(spec, end_token)


def _identify_torch(model: Path) -> str:
    from bitroute.engines.loading import identity  # noqa: PLC0415

    return identity(model)


def _prepare_torch(spec: EngineSpec, calibration: CalibrationSource) -> None:
    from bitroute.engines.loading import dtype_of, quantize  # noqa: PLC0415

    for scheme in spec.schemes:
        quantize(spec.model, scheme, spec.variants, calibration, dtype_of(spec))


TORCH: Final = EngineKind(name="torch", load=_load_torch, identify=_identify_torch, check=Scheme.parse, prepare=_prepare_torch)
BUILT_IN: Final[dict[str, EngineKind]] = {TORCH.name: TORCH}


def engine_kinds() -> tuple[str, ...]:
    """The names of all kinds, the built-in ones first. Nothing is imported."""
    return (*BUILT_IN, *(name for name in plugin_names(GROUP) if name not in BUILT_IN))


def find_engine_kind(name: str) -> EngineKind:
    """The kind with this name. Raises ConfigError for an unknown one, and naming the package for one that is broken."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    try:
        kind = load_plugin(GROUP, name)
    except KeyError:
        raise ConfigError(f"unknown engine {name!r}; want one of {', '.join(engine_kinds())}") from None
    if not isinstance(kind, EngineKind):
        raise ConfigError(f"{GROUP}: {name!r} leads to a {type(kind).__name__}, not to an EngineKind")
    if kind.name != name:
        raise ConfigError(f"{GROUP}: {name!r} leads to the kind {kind.name!r}: the two names must be one")
    return kind


def check_scheme(kind: str, scheme: str) -> None:
    """Raise ConfigError when engines of this kind host no variant of this name."""
    found = find_engine_kind(kind)
    _told(found, f"does not know {scheme!r}", lambda: found.check(scheme))


def fingerprint_of(spec: EngineSpec) -> str:
    """The fingerprint of the model that a specification names. Raises DataError when it cannot be read."""
    if spec.fingerprint is not None:
        return spec.fingerprint
    kind = find_engine_kind(spec.kind)
    return _told(kind, f"cannot read {spec.model}", lambda: kind.identify(spec.model))


def make_variants(spec: EngineSpec, calibration: CalibrationSource) -> None:
    """Make the variants of a specification that are missing in its directory. Raises as the kind does, in one line."""
    kind = find_engine_kind(spec.kind)
    _told(kind, f"cannot make {', '.join(spec.schemes)} of {spec.model}", lambda: kind.prepare(spec, calibration))


def load_engine(spec: EngineSpec, end_token: int) -> Engine[Any]:
    """The engine of a specification; `end_token` ends an action.

    Raises ConfigError for an unknown kind and for one that cannot be imported or does not load, CapabilityError when it hosts
    another ladder than asked for, and whatever BitrouteError the kind itself raises (a missing file, a device that is not
    there).
    """
    kind = find_engine_kind(spec.kind)
    engine = _told(kind, f"cannot load {spec.model}", lambda: kind.load(spec, end_token))
    if tuple(engine.ladder) != spec.ladder:
        raise CapabilityError(
            f"engine {kind.name!r} hosts {', '.join(engine.ladder) or 'nothing'}; asked for {', '.join(spec.ladder)}"
        )
    return engine


def _told(kind: EngineKind, problem: str, call: Callable[[], T]) -> T:
    """What `call` returns. Of another package's kind any error is one line; of our own it is a defect, and shows as one."""
    try:
        return call()
    except (BitrouteError, ImportError):
        raise
    except Exception as error:
        if kind.name in BUILT_IN:
            raise
        raise ConfigError(f"engine {kind.name!r} {problem} ({type(error).__name__}: {error})") from error
