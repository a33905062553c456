"""Makes ALFWorld games out of seeds: rooms, what lies where, a goal. Knows the tables of `rooms.py`, no file and no simulator.

A room is drawn once (furniture, its places, which object types live there) and then hosts any number of games, as the
published games do: within a room the furniture stays, the objects and the goal change. Every generated game can be won:
a target exists where it can be reached, the tool for the goal stands in the room, and a receptacle that takes the target
does too. The same seeds give the same game on every machine.
"""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import TypeVar

from bitroute.envs.alfworld.simulator import rooms
from bitroute.envs.alfworld.simulator.game import TASK_MARK, Game, Goal, Receptacle, TaskKind, Thing, numbered_names
from bitroute.envs.alfworld.simulator.planner import with_walkthrough
from bitroute.envs.alfworld.simulator.rooms import RoomKind
from bitroute.envs.alfworld.simulator.stock import FLOOR, STOCK, Stock

T = TypeVar("T")

ROOM_KINDS = tuple(RoomKind)
KINDS = tuple(TaskKind)

# The official sentences, filled in with lower-case types. A goal's sentence is drawn from its kind's two.
TEMPLATES: Mapping[TaskKind, tuple[str, str]] = {
    TaskKind.PLACE: ("put a {target} in {parent}.", "put some {target} on {parent}."),
    TaskKind.CLEAN: ("put a clean {target} in {parent}.", "clean some {target} and put it in {parent}."),
    TaskKind.HEAT: ("put a hot {target} in {parent}.", "heat some {target} and put it in {parent}."),
    TaskKind.COOL: ("put a cool {target} in {parent}.", "cool some {target} and put it in {parent}."),
    TaskKind.LOOK: ("look at {target} under the {parent}.", "examine the {target} with the {parent}."),
    TaskKind.TWO: ("put two {target} in {parent}.", "find two {target} and put them in {parent}."),
}
LAMP = "DeskLamp"

_TOOL = {TaskKind.CLEAN: "SinkBasin", TaskKind.HEAT: "Microwave", TaskKind.COOL: "Fridge"}
_TREATABLE = {TaskKind.CLEAN: rooms.CLEANABLE, TaskKind.HEAT: rooms.HEATABLE, TaskKind.COOL: rooms.COOLABLE}
# Which receptacle types goals name, and how readily where several stand: a choice model fitted to the published games, which
# favour rare furniture. What is missing is never named (a sink basin, a towel holder).
_PARENTS: Mapping[TaskKind, Mapping[str, float]] = {
    kind: {name: float(weight) for name, weight in zip(words.split()[::2], words.split()[1::2], strict=True)}
    for kind, words in (
        (
            TaskKind.PLACE,
            "Ottoman 83 Cart 22 Safe 15 Sofa 12 ArmChair 12 CoffeeTable 11 Desk 10 Dresser 7 SideTable 4 "
            "Shelf 4 DiningTable 3 Toilet 3 Microwave 2 Bed 2 ToiletPaperHanger 2 Cabinet 2 "
            "CounterTop 1 GarbageCan 1 Drawer 1 Fridge 1 StoveBurner 1",
        ),
        (
            TaskKind.CLEAN,
            "Cart 67 SideTable 55 DiningTable 22 Shelf 14 Drawer 6 CounterTop 6 Toilet 5 "
            "Microwave 5 Cabinet 4 Dresser 4 Fridge 4 StoveBurner 3 CoffeeMachine 3 GarbageCan 2",
        ),
        (
            TaskKind.HEAT,
            "SideTable 108 Shelf 21 Fridge 17 DiningTable 16 Cabinet 11 CounterTop 10 CoffeeMachine 9 GarbageCan 8",
        ),
        (
            TaskKind.COOL,
            "SideTable 92 Shelf 29 DiningTable 23 Microwave 14 CounterTop 13 "
            "Cabinet 9 CoffeeMachine 7 GarbageCan 7 StoveBurner 6",
        ),
        (
            TaskKind.TWO,
            "Ottoman 58 Cart 53 Safe 12 CoffeeTable 11 ArmChair 11 Desk 10 Sofa 9 Dresser 8 Shelf 4 Drawer 3 "
            "SideTable 3 DiningTable 3 Bed 3 Cabinet 3 Toilet 2 Fridge 2 Microwave 1 CounterTop 1 GarbageCan 1",
        ),
    )
}
# Receptacles that hold one thing at the start.
_ONE_THING = frozenset({"StoveBurner", "CoffeeMachine", "ToiletPaperHanger", "HandTowelHolder", "TowelHolder"})
# Targets are hidden less often than other things: the odds of a receptacle that has to be opened are this much lower.
_HIDDEN = 0.5

# How many targets a game holds, in the published games' proportions.
_TARGETS = (1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4)
_TWO_TARGETS = (2, 2, 2, 2, 3, 3, 3, 4, 4)

_NOWHERE = -1  # the place of what no receptacle holds
_TRIES = 8  # to find a receptacle with room


@dataclass(frozen=True, slots=True)
class Stocked:
    """A loose object type of a room. `places` are positions in the room's receptacles (-1: none), `weights` accumulate.

    A game holds one of it or, with probability `spread`, one, two or three.
    """

    type: str
    spread: float
    places: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """A furnished room without its loose objects.

    `positions` are where the receptacles stand (x, height, z in centimetres). At `spots` stands no receptacle: the first is
    where the agent starts. `goals` gives, for each task kind that the room can host, the receptacle types (LOOK: the lamp)
    that a goal may name, and for each the object types.
    """

    seed: int
    kind: RoomKind
    receptacles: tuple[Receptacle, ...]
    positions: tuple[tuple[int, int, int], ...]
    fixtures: tuple[Thing, ...]
    stock: tuple[Stocked, ...]
    spots: tuple[str, ...]
    can_contain: frozenset[tuple[str, str]]
    goals: Mapping[TaskKind, Mapping[str, tuple[str, ...]]]


def layout_hash(room: Room) -> str:
    """64 hex digits over what tells rooms apart for an agent: the kind, the furniture, and the types that live there.

    Coordinates do not enter: two rooms with the same furniture and the same stock count as the same layout.
    """
    furniture = sorted(f"{r.type}{'*' * r.openable}" for r in room.receptacles)
    return _digest([room.kind, *furniture, "|", *sorted({t.type for t in room.fixtures} | {s.type for s in room.stock})])


def game_hash(game: Game) -> str:
    """64 hex digits over a game's substance: its goals, its furniture, and which types lie in which receptacle.

    Sentence, identifiers and the numbers of things do not enter: games that differ in these only count as the same task.
    """
    names = {receptacle.id: receptacle.name for receptacle in game.receptacles}
    goals = [text for goal in game.goals for text in (goal.kind, goal.target, goal.parent or "", goal.lamp or "")]
    things = sorted(f"{thing.type}@{' '.join(names[held] for held in thing.receptacles)}" for thing in game.things)
    doors = sorted(f"{receptacle.name}{'*' * receptacle.openable}" for receptacle in game.receptacles)
    return _digest([*goals, *doors, "|", *things])


def generate_room(seed: int) -> Room:
    """The room of a seed; its kind is `seed` counted off over the four kinds."""
    rng = random.Random(f"room {seed}")
    kind = ROOM_KINDS[seed % len(ROOM_KINDS)]
    types = [
        name
        for name, furniture in rooms.FURNITURE[kind].items()
        if rng.random() < furniture.share
        for _ in range(_pick(rng, furniture.counts))
    ]
    doorless = _pick(rng, rooms.DOORLESS_SHARES) if rng.random() < rooms.DOORLESS_ROOMS else 0.0
    spots = _spots(rng, len(types) + 12)
    positions = _positions(rng, len(types))
    ids = [_receptacle_id(name, *position) for name, position in zip(types, positions, strict=True)]
    names = numbered_names(ids)
    receptacles = tuple(
        Receptacle(mangled, name, names[mangled], spot, openable=_has_door(rng, name, doorless))
        for mangled, name, spot in zip(ids, types, spots, strict=False)
    )
    stock: list[Stocked] = []
    fixed: list[tuple[str, int]] = []
    for name, entry in STOCK[kind].items():
        if rng.random() >= entry.share:
            continue
        stocked = _stocked(name, entry, types)
        if not stocked.places:
            continue
        if name in rooms.FIXED:
            fixed.extend((name, _place(rng, stocked)) for _ in range(max(1, round(entry.mean + rng.random() - 0.5))))
        else:
            stock.append(stocked)
    spare = spots[len(types) :]
    object_types = {name for name, _ in fixed} | {stocked.type for stocked in stock}
    return Room(
        seed=seed,
        kind=kind,
        receptacles=receptacles,
        positions=positions,
        fixtures=_things(rng, fixed, receptacles, positions, spare),
        stock=tuple(stock),
        spots=spare,
        can_contain=frozenset((p, name) for p in set(types) for name in rooms.CAN_CONTAIN.get(p, frozenset()) & object_types),
        goals={kind: goals for kind in KINDS if (goals := _goals(kind, types, stock, {name for name, _ in fixed}))},
    )


def generate_game(room: Room, seed: int, kind: TaskKind | None = None, earlier: Sequence[TaskKind] = ()) -> Game:
    """The game of a seed in `room`, of `kind` or of a kind drawn among those the room can host; well under a millisecond.

    With `earlier` kinds, none of them LOOK, it asks for as many goals more. Goals never interfere: each has a target type of
    its own. Its walkthrough is a plan, which proves that it can be won, and never empty: no goal is reached at the start.
    Raises ValueError when the room has no goal of a kind (a bathroom for HEAT), or no target that is left for it.
    """
    if TaskKind.LOOK in earlier:
        raise ValueError("what is looked at must be in hand at the end: LOOK cannot be an earlier goal")
    rng = random.Random(f"game {room.seed} {seed}")
    chosen = _pick(rng, tuple(room.goals)) if kind is None else kind
    goals: list[Goal] = []
    for each in (*earlier, chosen):
        goals.append(_draw_goal(rng, room, each, {goal.target for goal in goals}))
    full: set[int] = set()
    placed = [find for goal in goals for find in _place_targets(rng, room, goal, full)]
    targets = {goal.target for goal in goals}
    for stocked in room.stock:
        if stocked.type not in targets:
            count = 1 if rng.random() >= stocked.spread else 1 + int(3 * rng.random())
            for _ in range(count):
                place = _free_place(rng, stocked, room.receptacles, full)
                if place is not None:
                    placed.append((stocked.type, place))
    parts = "+".join(f"{goal.kind}-{goal.target}-None-{goal.parent or goal.lamp}" for goal in goals)
    game = Game(
        id=f"{parts}-{room.seed}/trial_G{seed}",
        goal=goals[-1],
        start=room.spots[0],
        receptacles=room.receptacles,
        things=room.fixtures + _things(rng, placed, room.receptacles, room.positions, room.spots),
        can_contain=room.can_contain,
        earlier=tuple(goals[:-1]),
    )
    return with_walkthrough(game)


def _draw_goal(rng: random.Random, room: Room, kind: TaskKind, taken: Collection[str]) -> Goal:
    """A goal of `kind` in `room` whose target is none of the `taken` types."""
    left = {name: [t for t in targets if t not in taken] for name, targets in room.goals.get(kind, {}).items()}
    goals = {name: targets for name, targets in left.items() if targets}
    if not goals:
        raise ValueError(f"room {room.seed}, a {room.kind}, has no goal of kind {kind}" + (" left" if taken else ""))
    parent = _weighted(rng, {name: _PARENTS[kind][name] for name in goals} if kind in _PARENTS else {LAMP: 1.0})
    target = _pick(rng, goals[parent])
    sentence = TASK_MARK + _pick(rng, TEMPLATES[kind]).format(target=target.lower(), parent=parent.lower())
    look = kind is TaskKind.LOOK
    return Goal(kind, sentence, target, parent=None if look else parent, lamp=parent if look else None)


def _goals(
    kind: TaskKind, types: Sequence[str], stock: Sequence[Stocked], fixed: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """The object types that a goal of `kind` may name, by the receptacle type that must hold them (LOOK: by lamp)."""
    homes = {stocked.type: {types[place] for place in stocked.places if place != _NOWHERE} for stocked in stock}
    if kind is TaskKind.LOOK:
        reachable = tuple(name for name, places in homes.items() if places)
        return {LAMP: reachable} if LAMP in fixed and reachable else {}
    tool = _TOOL.get(kind)
    if tool is not None:
        if tool not in types:
            return {}
        homes = {name: places for name, places in homes.items() if name in _TREATABLE[kind]}
    goals: dict[str, tuple[str, ...]] = {}
    for parent in dict.fromkeys(types):
        if parent in _PARENTS[kind]:
            # A target needs a place that is neither where it is wanted nor where it is treated.
            accepted = rooms.CAN_CONTAIN[parent]
            names = tuple(name for name in homes if name in accepted and homes[name] - {parent, tool})
            if names:
                goals[parent] = names
    return goals


def _place_targets(rng: random.Random, room: Room, goal: Goal, full: set[int]) -> list[tuple[str, int]]:
    """Places for the goal's targets: enough of them in receptacles.

    As in the published games none starts where the goal wants it (PLACE, TWO) or in what it is to be treated with.
    """
    stocked = next(entry for entry in room.stock if entry.type == goal.target)
    two = goal.kind is TaskKind.TWO
    barred = _TOOL.get(goal.kind, goal.parent)

    def odds(place: int) -> float:
        receptacle = room.receptacles[place]
        if receptacle.type == barred:
            return 0.0
        return _HIDDEN if receptacle.openable else 1.0

    apart = _reweighted(stocked, lambda place: 1.0 if place == _NOWHERE else odds(place))
    reachable = _reweighted(apart, lambda place: float(place != _NOWHERE))
    placed: list[tuple[str, int]] = []
    for index in range(_pick(rng, _TWO_TARGETS if two else _TARGETS)):
        needed = index < (2 if two else 1)
        source = reachable if needed else apart
        place = _free_place(rng, source, room.receptacles, full)
        if place is not None:
            placed.append((goal.target, place))
        elif needed:
            placed.append((goal.target, _place(rng, source)))
    return placed


def _stocked(name: str, entry: Stock, types: Sequence[str]) -> Stocked:
    """What `entry` means in a room with these receptacles: its places that stand there, and their weights."""
    places: list[int] = []
    weights: list[float] = []
    for place, found in enumerate(types):
        if found in entry.places:
            places.append(place)
            weights.append(entry.places[found] / math.sqrt(types.count(found)))
    if FLOOR in entry.places:
        places.append(_NOWHERE)
        weights.append(entry.places[FLOOR])
    return Stocked(name, min(1.0, entry.mean - 1), tuple(places), tuple(accumulate(weights)))


def _reweighted(stocked: Stocked, odds: Callable[[int], float]) -> Stocked:
    """The same with each place's weight multiplied by its odds; places without odds drop out."""
    steps = zip(stocked.places, stocked.weights, (0.0, *stocked.weights), strict=False)
    kept = [(place, (high - low) * odds(place)) for place, high, low in steps if odds(place)]
    return Stocked(
        stocked.type, stocked.spread, tuple(place for place, _ in kept), tuple(accumulate(weight for _, weight in kept))
    )


def _place(rng: random.Random, stocked: Stocked) -> int:
    return stocked.places[bisect_right(stocked.weights, rng.random() * stocked.weights[-1], hi=len(stocked.places) - 1)]


def _free_place(rng: random.Random, stocked: Stocked, receptacles: Sequence[Receptacle], full: set[int]) -> int | None:
    """A place with room for the thing, marked in `full` where it takes one thing only; None when none is found."""
    for _ in range(_TRIES):
        place = _place(rng, stocked)
        if place == _NOWHERE or receptacles[place].type not in _ONE_THING:
            return place
        if place not in full:
            full.add(place)
            return place
    return None


def _things(
    rng: random.Random,
    placed: Sequence[tuple[str, int]],
    receptacles: Sequence[Receptacle],
    positions: Sequence[tuple[int, int, int]],
    spots: Sequence[str],
) -> tuple[Thing, ...]:
    """Things of the given types at the given places, with identifiers near what holds them, numbered as the player reads."""
    ids: list[str] = []
    taken: set[str] = set()
    for name, place in placed:
        x, height, z = positions[place] if place != _NOWHERE else (_within(rng, 400), 0, _within(rng, 400))
        mangled = _id(name, x + _within(rng, 40), height + int(20 * rng.random()), z + _within(rng, 40))
        while mangled in taken:
            mangled = _id(name, x + _within(rng, 40), height, z + _within(rng, 40))
        taken.add(mangled)
        ids.append(mangled)
    names = numbered_names(ids)
    things = []
    for mangled, (name, place) in zip(ids, placed, strict=True):
        holder = receptacles[place] if place != _NOWHERE else None
        things.append(
            Thing(
                mangled,
                name,
                names[mangled],
                holder.location if holder is not None else _pick(rng, spots[1:]),
                (holder.id,) if holder is not None else (),
                *_abilities(name),
            )
        )
    return tuple(things)


@cache
def _abilities(name: str) -> tuple[bool, bool, bool, bool, bool, bool, bool]:
    """What can be done with a thing of this type, in the order of `Thing`'s fields."""
    return (
        name not in rooms.FIXED,
        name in rooms.CLEANABLE,
        name in rooms.HEATABLE,
        name in rooms.COOLABLE,
        name in rooms.TOGGLEABLE,
        name in rooms.SLICEABLE,
        name in rooms.HOLDS_OTHERS,
    )


def _has_door(rng: random.Random, name: str, doorless: float) -> bool:
    if name in rooms.OFTEN_OPENABLE:
        return rng.random() >= doorless
    return name in rooms.ALWAYS_OPENABLE


def _spots(rng: random.Random, count: int) -> tuple[str, ...]:
    """Distinct locations: grid point, direction and tilt, as the published games name them."""
    found: dict[str, None] = {}
    while len(found) < count:
        x, z = _within(rng, 16), _within(rng, 16)
        found[f"loc{_grid(x)}{_grid(z)}_bar_{int(4 * rng.random())}_bar_{_pick(rng, (0, 30, 45, 60))}"] = None
    return tuple(found)


def _positions(rng: random.Random, count: int) -> tuple[tuple[int, int, int], ...]:
    found: dict[tuple[int, int, int], None] = {}
    while len(found) < count:
        found[_within(rng, 400), 100 + _within(rng, 100), _within(rng, 400)] = None
    return tuple(found)


def _receptacle_id(name: str, x: int, height: int, z: int) -> str:
    # Sinks and bathtubs are things of their own; what holds objects is their basin.
    if name.endswith("Basin"):
        return f"{_id(name.removesuffix('Basin'), x, height, z)}_bar_{name}"
    return _id(name, x, height, z)


def _id(name: str, x: int, height: int, z: int) -> str:
    return f"{name}{_metres(x)}{_metres(height)}{_metres(z)}"


def _grid(step: int) -> str:
    return f"_bar_{step}" if step >= 0 else f"_bar__minus_{-step}"


@lru_cache(maxsize=4096)
def _metres(centimetres: int) -> str:
    sign = "plus" if centimetres >= 0 else "minus"
    whole, rest = divmod(abs(centimetres), 100)
    return f"_bar__{sign}_{whole:02d}_dot_{rest:02d}"


def _within(rng: random.Random, span: int) -> int:
    return int(2 * span * rng.random()) - span


def _weighted(rng: random.Random, weights: Mapping[str, float]) -> str:
    names = tuple(weights)
    steps = tuple(accumulate(weights.values()))
    return names[bisect_right(steps, rng.random() * steps[-1], hi=len(names) - 1)]


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(len(options) * rng.random())]


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
