"""One ALFWorld game as data: receptacles, objects, what wins it, and where everything is at the start.

The same value comes from an official game file (`load.py`) and from the generator (`generator.py`); the simulator
(`world.py`) plays it. Ids are those of the problem file, mangled as they stand there
(`Apple_bar__plus_00_dot_12_bar__plus_00_dot_90_bar__minus_01_dot_07`): the official engine lists things in the order of
their lower-case ids and numbers them backwards, so ids decide texts. Names are what the player reads (`apple 1`) and must be
those of `numbered_names`. The order of the tuples in a `Game` has no influence on play.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bitroute.episode import Task

TASK_MARK: Final = "Your task is to: "
GOAL_JOINT: Final = ", and "  # between the sentences of several goals; no sentence of a single one has a comma


class TaskKind(StrEnum):
    """ALFWorld's six task types, by the names of `traj_data.json`."""

    PLACE = "pick_and_place_simple"
    CLEAN = "pick_clean_then_place_in_recep"
    HEAT = "pick_heat_then_place_in_recep"
    COOL = "pick_cool_then_place_in_recep"
    LOOK = "look_at_obj_in_light"
    TWO = "pick_two_obj_and_place"


@dataclass(frozen=True, slots=True)
class Goal:
    """What wins the game. Types are without the `Type` suffix, e.g. `Mug`, `CoffeeMachine`.

    `text` is the whole last line of the opening when nothing else is asked for, e.g. `Your task is to: put some mug on shelf.`
    """

    kind: TaskKind
    text: str
    target: str  # object type
    parent: str | None = None  # receptacle type that must hold it (None for LOOK)
    lamp: str | None = None  # object type to be switched on (LOOK only)


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that holds objects. It stands at one location for good and is closed at the start if it is openable.

    Several receptacles may share a location; at one of them the agent is at all of them.
    """

    id: str
    type: str
    name: str
    location: str
    openable: bool


@dataclass(frozen=True, slots=True)
class Thing:
    """An object. `receptacles` are the ids of what holds it at the start.

    Official games know objects that lie in two receptacles at once, in none (a floor lamp), or whose `location` is not that
    of their receptacle; generated games have one receptacle, and its location, for each thing.
    """

    id: str
    type: str
    name: str
    location: str | None
    receptacles: tuple[str, ...]
    pickupable: bool = False
    cleanable: bool = False
    heatable: bool = False
    coolable: bool = False
    toggleable: bool = False
    sliceable: bool = False
    holds_others: bool = False  # isReceptacleObject: a bowl, a box
    cool: bool = False  # isCool at the start: it comes from the fridge
    contents: tuple[str, ...] = ()  # ids of the things inside it (inReceptacleObject; only ever read by `examine`)


@dataclass(frozen=True, slots=True)
class Game:
    """A playable game; equal values play alike.

    It is won when all its goals hold at once: `goal` and, where several are asked for, the `earlier` ones. Only `goal` is ever
    of the kind LOOK, whose target must be in hand at the end.
    """

    id: str
    goal: Goal
    start: str  # location
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    can_contain: frozenset[tuple[str, str]]  # (receptacle type, object type)
    walkthrough: tuple[str, ...] = ()
    earlier: tuple[Goal, ...] = ()

    @property
    def goals(self) -> tuple[Goal, ...]:
        """All that must hold at the end, in the order in which the player reads them."""
        return (*self.earlier, self.goal)

    @property
    def task_line(self) -> str:
        """The last line of the opening: the sentences of all goals as one."""
        if not self.earlier:
            return self.goal.text
        return TASK_MARK + GOAL_JOINT.join(goal.text.removeprefix(TASK_MARK).removesuffix(".") for goal in self.goals) + "."


@dataclass(frozen=True, slots=True)
class AlfworldTask(Task):
    """A game as a task of some split. `source` is the file it was read from; the official engine plays that file."""

    game: Game
    source: str | None = None


def numbered_names(ids: Iterable[str]) -> dict[str, str]:
    """The player's name of each id, as the official demangler gives them: the last id of a kind is number 1.

    `ids` are all ids that occur in the game's facts. The name is the lower-case part before the first `_bar_`, with `basin`
    appended where the id speaks of a basin; ids without `_bar_` keep their text and a blank.
    """
    counts: defaultdict[str, int] = defaultdict(int)
    names: dict[str, str] = {}
    for mangled in sorted(set(ids), key=lambda text: (text.lower(), text), reverse=True):
        lower = mangled.lower()
        base, bar, _ = lower.partition("_bar_")
        if not bar:
            names[mangled] = f"{demangled(lower)} "
            continue
        base = demangled(base) + ("basin" if "basin" in lower else "")
        counts[base] += 1
        names[mangled] = f"{base} {counts[base]}"
    return names


def demangled(text: str) -> str:
    """The simulator's spelling of a mangled id: `_bar_` is `|`, `_minus_` is `-` and so on."""
    for mangled, plain in (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ",")):
        text = text.replace(mangled, plain)
    return text
