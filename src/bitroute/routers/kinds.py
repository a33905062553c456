"""Kinds of routers: how each is written, loaded and described.

The built-in kinds stand in `BUILT_IN`; other packages add theirs by the entry points `bitroute.routers`, each a name that leads
to a `Kind`. This module knows constructors, and nothing of files. What a kind needs beyond the standard library is imported
when one is loaded, so that help is instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitroute.errors import ConfigError
from bitroute.plugins import load_plugin, plugin_names
from bitroute.routers.budgeted import Budgeted
from bitroute.routers.oracle import Oracle
from bitroute.routers.router import Router
from bitroute.routers.rules import Always, FirstK, Periodic, Random, Repetition
from bitroute.routers.uncertainty import Uncertainty
from bitroute.routers.verify import Verify

GROUP: Final = "bitroute.routers"


def _unloaded(source: str, variants: Sequence[str]) -> Router:
    raise ConfigError("a router around another one is not loaded by itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How routers of one kind are written, loaded and described.

    `load(source, variants)` makes one over the ladder `variants`, cheapest first. Of a rule, `source` is the text after the
    name's colon ("" without one), and ValueError says what is wrong with it. Of a trained kind it is the path that its router
    was saved to (`SavedRouter.save`), which is known to say this kind's name, the right model and as many variants; whatever
    error it raises says that the rest is damaged.

    A rule that is a `share` of steps may be written without it and is then loaded with the budget. An `offline` kind measures
    more before each step than a gateway can. `files` are the names of what a trained kind reads in a directory, router.json
    first; they tell the gateway when to read it anew.

    A kind that puts another router into its own has a `wrap(argument, router)` and is written NAME:ARGUMENT:ROUTER, where
    ROUTER is any specification; ValueError says what is wrong with the argument. Its `load` is never called.
    """

    name: str
    form: str  # as one writes it: "random:SHARE", "DIRECTORY"
    help: str  # what it does, one line
    load: Callable[[str, Sequence[str]], Router] = _unloaded
    trained: bool = False
    share: bool = False
    offline: bool = False
    files: tuple[str, ...] = ()
    wrap: Callable[[str, Router], Router] | None = None


def _always(argument: str, variants: Sequence[str]) -> Router:
    ends = {"low": variants[0], "high": variants[-1]}
    return Always(variants, argument if argument in variants else ends.get(argument, argument))


def _uncertainty(argument: str, variants: Sequence[str]) -> Router:
    measure, _, threshold = argument.partition(":")
    value = float(threshold or 0)
    match measure.removeprefix("past-"):
        case "entropy" | "margin" as known:
            return Uncertainty(variants, value, measure=known, probe=not measure.startswith("past-"))
        case _:
            raise ValueError("MEASURE is entropy, margin, past-entropy or past-margin")


def _heuristic(argument: str, variants: Sequence[str]) -> Router:
    from bitroute.routers.heuristic import Heuristic  # noqa: PLC0415  (numpy and scipy take a while)

    return Heuristic(variants, float(argument or 0))


def _signals(argument: str, variants: Sequence[str]) -> Router:
    from bitroute.routers.signals import load_signals  # noqa: PLC0415

    return load_signals(Path(argument), variants=variants)


def _encoder(argument: str, variants: Sequence[str]) -> Router:
    from bitroute.routers.encoder.router import load_encoder  # noqa: PLC0415  (torch is an extra)

    return load_encoder(Path(argument), variants=variants)


_KINDS: Final = (
    Kind(
        name="always",
        form="always:VARIANT",
        help="every step at one variant: high, low, or a name such as w2g128-rtn",
        load=_always,
    ),
    Kind(
        name="random",
        form="random:SHARE",
        help="high with this probability at each step",
        load=lambda argument, variants: Random(variants, float(argument)),
        share=True,
    ),
    Kind(
        name="periodic",
        form="periodic:SHARE",
        help="this share of the steps at high, evenly spread",
        load=lambda argument, variants: Periodic(variants, float(argument)),
        share=True,
    ),
    Kind(
        name="first-k",
        form="first-k:STEPS",
        help="the first steps of an episode at high; with 1.5 a second step in half of the episodes",
        load=lambda argument, variants: FirstK(variants, float(argument)),
    ),
    Kind(
        name="repetition",
        form="repetition[:DWELL]",
        help="high when the newest message was seen before in the episode, and for DWELL steps after",
        load=lambda argument, variants: Repetition(variants, int(argument or 0)),
    ),
    Kind(
        name="at-most",
        form="at-most:STEPS:ROUTER",
        help="ROUTER, any of these, with STEPS at high in an episode at most: a hard budget, enforced whatever it says",
        wrap=lambda argument, router: Budgeted(router, float(argument)),
    ),
    Kind(
        name="uncertainty",
        form="uncertainty:MEASURE[:THRESHOLD]",
        help="high where low is unsure of its next action, a probe that is charged as cost; MEASURE is entropy or margin, "
        "past-entropy or past-margin look at the last action instead, for free",
        load=_uncertainty,
    ),
    Kind(
        name="verify",
        form="verify[:TOLERANCE]",
        help="low writes, high checks the draft in one pass, charged as cost, and writes on from the first choice that is not "
        "its own; it accepts drafts whose choices it finds less likely than its own by TOLERANCE nats at most",
        load=lambda argument, variants: Verify(variants, float(argument or 0)),
        offline=True,
    ),
    Kind(
        name="oracle",
        form="oracle[:THRESHOLD]",
        help="high where KL(high || low) of the coming action exceeds the threshold in nats; a mark, not a method",
        load=lambda argument, variants: Oracle(variants, float(argument or 0)),
        offline=True,
    ),
    Kind(
        name="heuristic",
        form="heuristic[:THRESHOLD]",
        help="high at signs of trouble (failures, repetition, new words, the goal in sight), weighed by hand, not trained",
        load=_heuristic,
    ),
    Kind(
        name="encoder",
        form="DIRECTORY",
        help="a trained encoder, which reads the episode, e.g. runs/router/routers/dmr-0",
        load=_encoder,
        trained=True,
        files=("router.json", "network.safetensors", "tokenizer.json"),
    ),
    Kind(
        name="signals",
        form="FILE",
        help="a fitted regression on cheap features of the episode, e.g. runs/router/routers/signals-0.json",
        load=_signals,
        trained=True,
    ),
)
BUILT_IN: Final[dict[str, Kind]] = {kind.name: kind for kind in _KINDS}


def kinds() -> Iterator[Kind]:
    """All kinds, the built-in ones first. Of those that cannot be loaded nothing is said: `find_kind` tells why."""
    yield from BUILT_IN.values()
    for name in plugin_names(GROUP):
        if name not in BUILT_IN:
            try:
                yield find_kind(name)
            except ConfigError:
                continue


def find_kind(name: str) -> Kind:
    """The kind with this name.

    Raises KeyError for an unknown name, ConfigError in one line naming the package when another package's kind is broken.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    kind = load_plugin(GROUP, name)
    if not isinstance(kind, Kind):
        raise ConfigError(f"{GROUP}: {name!r} leads to a {type(kind).__name__}, not to a Kind")
    if kind.name != name:
        raise ConfigError(f"{GROUP}: {name!r} leads to the kind {kind.name!r}: the two names must be one")
    return kind
