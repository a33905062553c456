"""One ALFWorld game as data: receptacles, objects, the goal, and where everything is at the start.

The same value comes from an official game file (`load.py`) and from the generator (`generator.py`); the simulator
(`world.py`) plays it. Ids are the problem file's (already demangled, e.g. `Apple|+00.12|+00.90|+01.07`), names are what the player
reads (`apple 1`). Orders are kept as read: the official engine's texts depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bitroute.episode import Task


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
    """What wins the game. Types are without the `Type` suffix, e.g. `Mug`, `CoffeeMachine`; `text` is the task line."""

    kind: TaskKind
    text: str
    target: str  # object type
    parent: str | None = None  # receptacle type that must hold it (None for LOOK)
    lamp: str | None = None  # object type to be switched on (LOOK only)


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that holds objects."""

    id: str
    type: str
    name: str
    location: str
    openable: bool


@dataclass(frozen=True, slots=True)
class Thing:
    """An object. `receptacle` is the id of what holds it at the start (None: nothing does, it lies at `location`)."""

    id: str
    type: str
    name: str
    location: str | None
    receptacle: str | None
    pickupable: bool = False
    cleanable: bool = False
    heatable: bool = False
    coolable: bool = False
    toggleable: bool = False
    sliceable: bool = False
    holds_others: bool = False  # isReceptacleObject: a bowl, a box


@dataclass(frozen=True, slots=True)
class Game:
    """A playable game; equal values play alike."""

    id: str
    goal: Goal
    start: str  # location
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    can_contain: frozenset[tuple[str, str]]  # (receptacle type, object type)
    walkthrough: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AlfworldTask(Task):
    """A game as a task of some split."""

    game: Game
