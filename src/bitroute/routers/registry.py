"""Routers by what `--router` and a configuration write: a rule with its argument (`always:high`), or a trained router's path.

A trained router's file says of which kind it is, for which model and for which variants; the rest of it is its kind's business.
The registry knows files and what they say of themselves, and nothing of playing or training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import msgspec

from bitroute.errors import BitrouteError, ConfigError, DataError
from bitroute.routers.calibrated import calibration_file
from bitroute.routers.kinds import Kind, find_kind, kinds
from bitroute.routers.router import Router
from bitroute.routers.threshold import refuse_others

META: Final = "router.json"  # what a trained router that fills a directory says of itself
KEPT: Final = 8  # routers that `builder` keeps

Signature = tuple[tuple[str, int, int, int], ...]  # of each file: name, modification time in nanoseconds, bytes, inode


class Header(msgspec.Struct, frozen=True):
    """What every trained router's JSON file says, among other fields."""

    model: str  # fingerprint of the language model it was trained for, "" where that is not known
    variants: tuple[str, ...]  # the ladder it was trained on
    router: str = "signals"  # the kind's name, which the files of this kind once left out


@dataclass(frozen=True, slots=True)
class Source:
    """What a specification names: a kind, what it loads, and what the file says where it is a trained router's.

    `inner` is the router that a wrapping kind is put around; `header` is that one's, then.
    """

    kind: Kind
    text: str
    header: Header | None = None
    inner: Source | None = None

    def files(self) -> tuple[Path, ...]:
        """What is read of a trained router, its calibration last (which need not exist); none for a rule."""
        if self.inner is not None:
            return self.inner.files()
        if self.header is None:
            return ()
        path = Path(self.text)
        own = tuple(path / name for name in self.kind.files or (META,)) if path.is_dir() else (path,)
        return (*own, calibration_file(path))


def find_source(spec: str, *, offline: bool = True) -> Source:
    """What `spec` names: a rule with its argument, or else the path of a trained router (write `./random` for a path that reads
    like a rule). An unknown name is answered with the rules, those that only work `offline` if that is True.

    Raises ConfigError for an unknown name, DataError for a path that is missing or holds no trained router.
    """
    kind, path = _named(spec), Path(spec)
    if kind is not None and kind.wrap is not None:
        argument, colon, rest = spec.partition(":")[2].partition(":")
        if not colon:
            raise ConfigError(f"router {spec!r}: write it as {kind.form}")
        inner = find_source(rest, offline=offline)
        return Source(kind, argument, inner.header, inner)
    if kind is not None and not kind.trained:
        return Source(kind, spec.partition(":")[2])
    if spec and path.exists():
        header = read_header(path)
        try:
            kind = find_kind(header.router)
        except KeyError:
            names = ", ".join(k.name for k in kinds() if k.trained)
            raise DataError(
                f"{_meta(path)}: a router of the kind {header.router!r}, which is not installed; there are {names}"
            ) from None
        if kind.files and not path.is_dir():
            raise DataError(f"router {spec}: is a file of a trained router; give its directory, {path.parent}")
        return Source(kind, spec, header)
    if "/" in spec or path.suffix:  # `./name` is a path by its spelling alone
        raise DataError(f"router {spec}: no such file or directory")
    if kind is not None:
        raise ConfigError(f"router {spec!r}: it is trained; give the path of one ({kind.form})")
    rules = ", ".join(k.name for k in kinds() if not k.trained and (offline or not k.offline))
    raise ConfigError(f"unknown router {spec!r}; want a trained router's path or one of {rules}")


def read_header(path: Path) -> Header:
    """What a trained router's file says of itself. Raises DataError naming it when it is none."""
    meta = _meta(path)
    try:
        return msgspec.json.decode(meta.read_bytes(), type=Header)
    except OSError as error:
        raise DataError(f"{path}: holds no trained router ({meta.name}: {error.strerror})") from error
    except (msgspec.MsgspecError, ValueError) as error:  # ValueError: bytes that are not UTF-8
        raise DataError(f"{meta}: not a trained router ({error})") from error


def build_router(spec: str, variants: Sequence[str], model: str) -> Router:
    """The router that `spec` names (see `find_source`), over the ladder `variants` of the language model with fingerprint
    `model`.

    Raises ConfigError for an unknown name or a malformed argument, DataError for a path that is missing, damaged, or holds a
    router of another model or other variants, CapabilityError for an unknown variant.
    """
    source = find_source(spec)
    if source.header is not None:
        header = source.header
        refuse_others(source.files()[0], trained_for=header.model, model=model, ladder=header.variants, variants=variants)
    return load(source, variants)


def load(source: Source, variants: Sequence[str]) -> Router:
    """The router of a source, over `variants`; one that was trained on as many others takes them by position. Raises as
    `build_router` does.
    """
    kind = source.kind
    spec = f"{kind.name}:{source.text}" if source.text else kind.name
    try:
        if kind.wrap is not None and source.inner is not None:
            return kind.wrap(source.text, load(source.inner, variants))
        return kind.load(source.text, tuple(variants))
    except BitrouteError as error:
        if kind.trained:  # it names its file
            raise
        raise type(error)(f"router {spec!r}: {error}") from error
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged file makes a kind's reader raise
        if kind.trained:
            problem = " ".join(str(error).split())
            raise DataError(f"{source.text}: not a readable {kind.name} router ({type(error).__name__}: {problem})") from error
        if not isinstance(error, ValueError):
            raise
        raise ConfigError(f"router {spec!r}: write it as {kind.form} ({error})") from error


def builder(variants: Sequence[str], model: str) -> Callable[[str], Router]:
    """`build_router` for one ladder and model that builds a router once, and anew when a file behind it has changed."""

    @lru_cache(maxsize=KEPT)
    def build(spec: str, files: Signature) -> Router:
        return build_router(spec, variants, model)

    return lambda spec: build(spec, signature(spec))


def signature(spec: str) -> Signature:
    """What changes when a file behind `spec` does, without reading it; empty for a rule and where nothing is."""
    kind, path = _named(spec), Path(spec)
    if kind is not None and kind.wrap is not None:
        return signature(spec.split(":", 2)[-1])
    if not spec or (kind is not None and not kind.trained) or not path.exists():
        return ()
    files = sorted(path.iterdir()) if path.is_dir() else [path, calibration_file(path)]
    found = []
    for file in files:
        with contextlib.suppress(OSError):  # renamed at this moment
            stat = file.stat()
            if not file.name.startswith("."):  # what is being written
                found.append((file.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _named(spec: str) -> Kind | None:
    """The kind whose name `spec` begins with, None where that is no kind's name."""
    name = spec.partition(":")[0]
    if "/" in name or "." in name:  # a path: no need to ask other packages
        return None
    try:
        return find_kind(name)
    except KeyError:
        return None


def _meta(path: Path) -> Path:
    return path / META if path.is_dir() else path
