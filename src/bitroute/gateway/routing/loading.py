"""Routers for the gateway: made from a rule or read from files, over the gateway's own ladder, with a version of what was read.

A trained router was trained on variants with names of their own, of a model whose fingerprint no served model tells. So its
rungs are matched with the gateway's by position, cheapest first, and the fingerprint is read and not compared. It knows files,
and nothing of requests.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bitroute.errors import BitrouteError, ConfigError, DataError
from bitroute.routers.calibrated import Calibrated, calibration_file, load_calibration
from bitroute.routers.registry import REGISTRY, build_router
from bitroute.routers.router import Probe, Router
from bitroute.routers.rules import Periodic, Random
from bitroute.routers.threshold import ThresholdRouter

log = logging.getLogger(__name__)

SHARED: Final[dict[str, Callable[[Sequence[str], float], Router]]] = {"random": Random, "periodic": Periodic}
_ENCODER_FILES: Final = ("router.json", "network.safetensors", "tokenizer.json")

Signature = tuple[tuple[str, int, int], ...]  # of each file: name, modification time in nanoseconds, bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """A router ready to decide.

    `at(budget)` is the router for a budget: one and the same, but for a rule given without its share, which takes the budget.
    `follows` says that the budget changes what it does. `slow` routers are networks: they decide outside of the event loop.
    `calibration` is empty where none was found.
    """

    name: str
    version: str
    at: Callable[[float], Router]
    follows: bool
    slow: bool = False
    calibration: tuple[Calibrated, ...] = ()

    @property
    def policy(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"


def load_router(spec: str, ladder: Sequence[str]) -> Loaded:
    """The router that `spec` (a rule or a trained router's path) names, over `ladder`.

    Raises ConfigError, DataError or CapabilityError, in one line, for a spec that names none, files that are damaged, a router
    with another number of rungs, and one that must be shown the coming step's generation before it decides.
    """
    rule, _, argument = spec.partition(":")
    if rule in SHARED and not argument:
        make = SHARED[rule]
        return Loaded(rule, _digest(spec.encode()), lambda budget: make(ladder, budget), follows=True)
    files = router_files(spec)
    if not files:
        try:
            router = build_router(spec, ladder, model="")
        except BitrouteError as error:
            if "router" in str(error):  # it names itself
                raise
            raise type(error)(f"router {spec}: {error}") from error
        loaded = Loaded(router.name, _digest(spec.encode()), lambda _: router, follows=isinstance(router, ThresholdRouter))
    else:
        loaded, router = _load_trained(Path(spec), files, ladder)
    if router.probes:
        what = "generates with the low variant" if Probe.LOW_GENERATION in router.probes else "measures both variants"
        raise ConfigError(
            f"router {spec}: it {what} before it decides, which a gateway cannot afford; "
            "uncertainty:past-entropy needs no probe where clients ask for logprobs"
        )
    return loaded


def router_files(spec: str) -> tuple[Path, ...]:
    """The files behind `spec`, its calibration last (which need not exist); none for a rule."""
    path = Path(spec)
    if not spec or spec.partition(":")[0] in REGISTRY or not path.exists():
        return ()
    own = tuple(path / name for name in _ENCODER_FILES) if path.is_dir() else (path,)
    return (*own, calibration_file(path))


def signature(spec: str) -> Signature:
    """What changes when a file behind `spec` does, without reading it."""
    stats = [(path.name, path.stat()) for path in router_files(spec) if path.exists()]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _load_trained(path: Path, files: Sequence[Path], ladder: Sequence[str]) -> tuple[Loaded, Router]:
    meta = files[0]
    try:
        fields: dict[str, Any] = json.loads(meta.read_bytes())
        model, names = str(fields["model"]), tuple(map(str, fields["variants"]))
    except OSError as error:
        raise DataError(f"{path}: holds no trained router ({meta.name}: {error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{meta}: not a trained router ({type(error).__name__}: {error})") from error
    if len(names) != len(ladder):
        raise ConfigError(
            f"{meta}: trained for {len(names)} variants ({', '.join(names)}), "
            f"the gateway has {len(ladder)} ({', '.join(ladder)})"
        )
    version = _digest(*(file.read_bytes() for file in files if file.exists()))
    router = build_router(str(path if path.parent != Path() else Path.cwd() / path), names, model)
    slow = path.is_dir()
    if not isinstance(router, ThresholdRouter):
        raise DataError(f"{path}: not a trained router")
    router.variants = tuple(ladder)
    if slow:
        _prepare_encoder(router)
    if names != tuple(ladder):
        pairs = ", ".join(f"{theirs} -> {ours}" for theirs, ours in zip(names, ladder, strict=True))
        log.info("router %s: variants matched by position: %s", path, pairs)
    calibration = load_calibration(path) if files[-1].exists() else ()
    return Loaded(router.name, version, lambda _: router, True, slow, calibration), router


def _prepare_encoder(router: Router) -> None:
    """One thread: others serve requests. No memory of texts: each comes once an episode, and is kept as keys and values."""
    import torch  # noqa: PLC0415  (torch is an extra, and slow to import)

    from bitroute.routers.encoder.dataset import Reader  # noqa: PLC0415
    from bitroute.routers.encoder.router import EncoderRouter  # noqa: PLC0415

    torch.set_num_threads(1)
    if isinstance(router, EncoderRouter):
        router.reader = Reader(router.reader.tokenizer, remember=0)


def _digest(*parts: bytes) -> str:
    """8 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:8]
