"""What a router is: it reads a view of the episode so far and picks the variant of the next step.

Fixed rules, heuristics, oracles and trained routers all stand behind this one contract. A router knows no environment and no
engine: what it wants measured it declares in `probes`, the rollout measures it and charges the cost. Whoever uses a router asks
what it declares, never of which class it is.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self

from bitroute.episode import Decision, View
from bitroute.errors import ConfigError


class Probe(StrEnum):
    """A measurement on the coming step, made before the decision and charged as cost."""

    LOW_GENERATION = "low-generation"  # View.probe: the signals of the action that the lowest variant would take
    VERIFICATION = "verification"  # View.verification: how far high would have chosen otherwise than low's draft of the action
    SENSITIVITY = "sensitivity"  # View.sensitivity: KL(high || low) of the coming action; needs both variants, so an oracle's


class Reads(StrEnum):
    """What of an episode a router must be shown; the number of steps it sees in any case."""

    NOTHING = "nothing"  # the texts of its views may be empty
    FEATURES = "features"  # View.features, or the episode itself to compute them from
    TEXT = "text"  # the episode itself: messages, actions, and what generating them revealed


class RouterCost(StrEnum):
    """Where a decision can be taken beside other work."""

    INLINE = "inline"  # in the event loop: it takes less than handing it over would
    THREAD = "thread"  # in a thread of its own: it takes milliseconds. Its states tell their size in bytes as `nbytes`


class Router(Protocol):
    """A policy over the ladder `variants` (cheapest first). A router is not changed while it is used: `with_options` makes
    another one.

    A class that says `class Mine(Router)` has the defaults below and writes `decide` alone; one that scores steps begins with
    `ThresholdRouter`.
    """

    name: str
    variants: tuple[str, ...]
    probes: frozenset[Probe] = frozenset()
    reads: Reads = Reads.TEXT
    cost: RouterCost = RouterCost.INLINE
    failures: tuple[str, ...] = ()  # phrases that its `View.features` count as a failure, besides `signals.FAILED`

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """One per rung above the lowest, ascending; None: the router does not score steps."""
        return None

    @property
    def draws(self) -> bool:
        """Whether its decisions are drawn at random, each with a propensity."""
        return False

    def with_options(self, *, threshold: float | Sequence[float] | None = None, sample: bool | None = None) -> Self:
        """The router at another threshold (one number for all rungs, or one per rung), or drawing its decisions where `sample`
        is on; None leaves it as it is. What was learned is shared with this one.

        Raises ConfigError naming the router when it does not score steps.
        """
        if threshold is not None or sample:
            what = "it has no threshold" if threshold is not None else "there is nothing to sample from"
            raise ConfigError(f"router {self.name} does not score steps, {what}")
        return self

    def to(self, device: str) -> Self:
        """The router, computing on `device` (in torch's spelling) from now on; most have nothing to move."""
        return self

    def begin(self, seed: int) -> Any:
        """The state of a new episode (its seed, a cache ...)."""
        return seed

    def branch(self, state: Any, seed: int) -> Any:
        """The state of an episode that begins with what another one read; `state` stays as it is. By default a fresh one."""
        return self.begin(seed)

    @abstractmethod
    def decide(self, views: Sequence[View], states: Sequence[Any]) -> list[Decision]:
        """One decision per view: batched, one view per running episode. States are updated in place and belong to the view at
        the same index. A router that scores gives each decision its score.

        The decision is a function of view and seed: a fresh state decides as one that has seen the whole episode. So an
        episode can be branched, or taken up again after a restart.
        """
        ...


class SavedRouter(Router, Protocol):
    """A trained router: what it learned goes to a file and comes back by its kind's `load` (`kinds.Kind`)."""

    def save(self, path: Path) -> None:
        """Write what `load` reads: a JSON file at `path`, or a directory with one named router.json. Its fields `router` (the
        kind's name), `model` (fingerprint of the language model it was trained for) and `variants` say what it is.
        """
        ...


def draw(seed: int, step: int) -> float:
    """The random number in 0..1 that belongs to `step` of the episode with `seed`."""
    return random.Random(f"{seed}|{step}").random()
