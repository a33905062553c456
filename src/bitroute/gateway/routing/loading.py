"""Routers for the gateway: made from a rule or read from files, over the gateway's own ladder, with a version of what was read.

A trained router was trained on variants with names of their own, of a model whose fingerprint no served model tells. So its
rungs are matched with the gateway's by position, cheapest first, and the fingerprint is read and not compared. It knows kinds
of routers by what they declare, and nothing of requests.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitroute.errors import ConfigError
from bitroute.routers.calibrated import Calibrated, load_calibration
from bitroute.routers.registry import Header, Source, find_source, load
from bitroute.routers.router import Probe, Router, RouterCost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedRouter:
    """A router ready to decide.

    `at(budget)` is the router for a budget: one and the same, but for a rule given without its share, which takes the budget.
    `follows` says that the budget changes what it does. `calibration` is empty where none was found.
    """

    name: str
    version: str
    at: Callable[[float], Router]
    follows: bool
    calibration: tuple[Calibrated, ...] = ()

    @property
    def policy(self) -> str:
        """name@version."""
        return f"{self.name}@{self.version}"


def load_router(spec: str, ladder: Sequence[str]) -> LoadedRouter:
    """The router that `spec` (a rule or a trained router's path) names, over `ladder`.

    Raises ConfigError, DataError or CapabilityError, in one line, for a spec that names none, files that are damaged, a router
    with another number of rungs, and one that must be shown the coming step's generation before it decides.
    """
    source = find_source(spec, offline=False)
    if source.kind.share and not source.text:
        kind = source.kind
        return LoadedRouter(kind.name, _digest(spec.encode()), lambda budget: kind.load(repr(budget), ladder), follows=True)
    if source.header is not None:
        _match(source, source.header, ladder)
    router = load(source, ladder)
    if router.probes:
        what = "generates with the low variant" if Probe.LOW_GENERATION in router.probes else "measures both variants"
        raise ConfigError(
            f"router {spec}: it {what} before it decides, which a gateway cannot afford; "
            "uncertainty:past-entropy needs no probe where clients ask for logprobs"
        )
    if router.cost is RouterCost.THREAD and (torch := sys.modules.get("torch")):
        torch.set_num_threads(1)  # a router that brought torch: the other threads serve requests
    files = source.files()
    version = _digest(*(file.read_bytes() for file in files if file.exists())) if files else _digest(spec.encode())
    scores = router.thresholds is not None
    calibration = load_calibration(Path(spec)) if scores and files and files[-1].exists() else ()
    return LoadedRouter(router.name, version, lambda _: router, scores, calibration)


def _match(source: Source, header: Header, ladder: Sequence[str]) -> None:
    """Refuse a trained router with another number of rungs, and tell which of its variants stands for which of ours."""
    meta, names = source.files()[0], header.variants
    if len(names) != len(ladder):
        raise ConfigError(
            f"{meta}: trained for {len(names)} variants ({', '.join(names)}), "
            f"the gateway has {len(ladder)} ({', '.join(ladder)})"
        )
    if names != tuple(ladder):
        pairs = ", ".join(f"{theirs} -> {ours}" for theirs, ours in zip(names, ladder, strict=True))
        log.info("router %s: variants matched by position: %s", source.text, pairs)


def _digest(*parts: bytes) -> str:
    """8 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:8]
