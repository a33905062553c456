"""Routers by what the command line calls them: `always:high`, `random:0.3`, `uncertainty:entropy`, or a trained router's path.

It knows every router's constructor and file, and nothing of playing or training. Trained routers are imported when one is read:
the rules work without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitroute.errors import ConfigError, DataError
from bitroute.routers.heuristic import Heuristic
from bitroute.routers.oracle import Oracle
from bitroute.routers.router import Router
from bitroute.routers.rules import Always, FirstK, Periodic, Random
from bitroute.routers.signals import SignalsModel, SignalsRouter
from bitroute.routers.uncertainty import Uncertainty


@dataclass(frozen=True, slots=True)
class Entry:
    """How a router is written (for help and errors), and how it is made from a ladder and the text after its name's colon.

    `build` raises ValueError when the text does not have the form.
    """

    form: str
    build: Callable[[Sequence[str], str], Router]


def _always(variants: Sequence[str], argument: str) -> Router:
    ends = {"low": variants[0], "high": variants[-1]}
    return Always(variants, argument if argument in variants else ends.get(argument, argument))


def _uncertainty(variants: Sequence[str], argument: str) -> Router:
    measure, _, threshold = argument.partition(":")
    value = float(threshold or 0)
    match measure.removeprefix("past-"):
        case "entropy" | "margin" as known:
            return Uncertainty(variants, value, measure=known, probe=not measure.startswith("past-"))
        case _:
            raise ValueError(measure)


REGISTRY: Final[dict[str, Entry]] = {
    "always": Entry("always:VARIANT (or always:high, always:low)", _always),
    "random": Entry("random:SHARE", lambda variants, text: Random(variants, float(text))),
    "periodic": Entry("periodic:SHARE", lambda variants, text: Periodic(variants, float(text))),
    "first-k": Entry("first-k:STEPS", lambda variants, text: FirstK(variants, int(text))),
    "uncertainty": Entry("uncertainty:[past-]entropy|[past-]margin[:THRESHOLD]", _uncertainty),
    "oracle": Entry("oracle[:THRESHOLD]", lambda variants, text: Oracle(variants, float(text or 0))),
    "heuristic": Entry("heuristic[:THRESHOLD]", lambda variants, text: Heuristic(variants, float(text or 0))),
}


def build_router(spec: str, variants: Sequence[str], model: str) -> Router:
    """The router that `spec` names, over the ladder `variants` of the language model with fingerprint `model`.

    A name of `REGISTRY` with its argument, or else the path of a trained router: the directory that an encoder was saved to, or
    the file of a fitted signals router (write `./random` for a path that reads like a name). Raises ConfigError for an unknown
    name or a malformed argument, DataError for a path that is missing, damaged, or holds a router of another model or other
    variants, CapabilityError for an unknown variant.
    """
    name, _, argument = spec.partition(":")
    if name not in REGISTRY:
        path = Path(spec)
        if spec and path.exists():
            return _load(path, variants, model)
        if path.parent != Path() or path.suffix:
            raise DataError(f"router {spec}: no such file or directory")
        raise ConfigError(f"unknown router {spec!r}; want a trained router's path or one of {', '.join(REGISTRY)}")
    try:
        return REGISTRY[name].build(variants, argument)
    except ValueError as error:
        raise ConfigError(f"router {spec!r}: write it as {REGISTRY[name].form}") from error


def _load(path: Path, variants: Sequence[str], model: str) -> Router:
    if path.is_dir():
        from bitroute.routers.encoder.router import load_encoder  # noqa: PLC0415  (torch is an extra)

        return load_encoder(path, model=model, variants=variants)
    return SignalsRouter(SignalsModel.load(path, model=model, variants=variants))
