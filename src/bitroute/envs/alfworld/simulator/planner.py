"""The shortest way to win a game, found with full sight of it. Knows a game's data and the domain's rules; plays nothing.

The cost of a plan is its number of commands, each counting one. Every way to win one of the six goals is a chain of few
errands: fetch a target, treat it, bring it. What an errand costs depends only on where the agent stands, on the receptacles
it needs, and on which of them are open already; so the shortest plan is found by trying the targets, tools and parents that
differ in this. Several goals are planned one after the other, in their order: each plan is the shortest from where the one
before it ends, which need not make the whole the shortest of all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from bitroute.envs.alfworld.simulator.game import Game, Goal, Receptacle, TaskKind, Thing


@dataclass(frozen=True, slots=True)
class _Treatment:
    verb: str
    able: Callable[[Thing], bool]
    tools: frozenset[str]


_TREATMENTS: Mapping[TaskKind, _Treatment] = {
    TaskKind.CLEAN: _Treatment("clean", lambda thing: thing.cleanable, frozenset({"Sink", "SinkBasin"})),
    TaskKind.HEAT: _Treatment("heat", lambda thing: thing.heatable, frozenset({"Microwave"})),
    TaskKind.COOL: _Treatment("cool", lambda thing: thing.coolable, frozenset({"Fridge"})),
}


@dataclass(frozen=True, slots=True)
class _Walk:
    """A plan in the making: where the agent stands, what it opened, what it did."""

    location: str
    opened: frozenset[str] = frozenset()
    commands: tuple[str, ...] = ()

    def to(self, receptacle: Receptacle) -> _Walk:
        if receptacle.location == self.location:
            return self
        return _Walk(receptacle.location, self.opened, (*self.commands, f"go to {receptacle.name}"))

    def into(self, receptacle: Receptacle) -> _Walk:
        """Go there and have it open."""
        there = self.to(receptacle)
        if not receptacle.openable or receptacle.id in self.opened:
            return there
        return _Walk(there.location, there.opened | {receptacle.id}, (*there.commands, f"open {receptacle.name}"))

    def do(self, command: str) -> _Walk:
        return _Walk(self.location, self.opened, (*self.commands, command))

    def take(self, find: _Find) -> _Walk:
        return self.into(find.source).do(f"take {find.thing.name} from {find.source.name}")

    def move(self, find: _Find, parent: Receptacle) -> _Walk:
        return self.into(parent).do(f"move {find.thing.name} to {parent.name}")


@dataclass(frozen=True, slots=True)
class _Find:
    """A target and a receptacle that it can be taken from."""

    thing: Thing
    source: Receptacle


def shortest_plan(game: Game) -> tuple[str, ...] | None:
    """The fewest commands that win `game` from its start, None when nothing does.

    A game that is won as it stands has the plan (), any command ends it. Of several shortest plans it is one whose things
    and receptacles come early in the game. Several goals are planned in their order; their targets must be of different types.
    """
    walk = _Walk(game.start)
    for goal in game.goals:
        shortest = min(_plans(game, goal, walk), key=lambda plan: len(plan.commands), default=None)
        if shortest is None:
            return None
        walk = shortest
    return walk.commands


def with_walkthrough(game: Game) -> Game:
    """The game with its plan as walkthrough. Raises ValueError, naming the game, when it cannot be won."""
    plan = shortest_plan(game)
    if plan is None:
        raise ValueError(f"game {game.id} cannot be won")
    return replace(game, walkthrough=plan)


def _plans(game: Game, goal: Goal, start: _Walk) -> Iterator[_Walk]:
    """Plans that go on from `start` until `goal` is reached, a shortest one among them."""
    by_id = {receptacle.id: receptacle for receptacle in game.receptacles}
    targets = [thing for thing in game.things if _same(thing.type, goal.target)]
    finds = [_Find(thing, by_id[held]) for thing in targets if thing.pickupable for held in thing.receptacles]
    parents = [receptacle for receptacle in game.receptacles if _same(receptacle.type, goal.parent)]
    if goal.kind is TaskKind.LOOK:
        lamps = [thing for thing in game.things if thing.toggleable and _same(thing.type, goal.lamp)]
        yield from _look(start, _distinct(finds), [(lamp, by_id[held]) for lamp in lamps for held in lamp.receptacles])
        return
    goes = {(kind.lower(), name.lower()) for kind, name in game.can_contain}
    parents_of_target = [parent for parent in parents if (parent.type.lower(), goal.target.lower()) in goes]
    if goal.kind is TaskKind.TWO:
        yield from _two(start, targets, finds, parents, parents_of_target)
    elif (treatment := _TREATMENTS.get(goal.kind)) is None:
        if any(parent.id in thing.receptacles for thing in targets for parent in parents):
            yield start
        for find in _distinct(finds):
            for parent in _unlike(parents_of_target, [start.location, find.source.location], [find.source.id, *start.opened]):
                yield start.take(find).move(find, parent)
    else:
        tools = [receptacle for receptacle in game.receptacles if receptacle.type in treatment.tools]
        able = [find for find in finds if treatment.able(find.thing)]
        yield from _treated(start, goal.kind, treatment, able, tools, parents, parents_of_target)


def _look(start: _Walk, finds: Iterable[_Find], lamps: Sequence[tuple[Thing, Receptacle]]) -> Iterator[_Walk]:
    for find in finds:
        for lamp, stand in lamps:
            yield start.take(find).to(stand).do(f"use {lamp.name}")


def _treated(
    start: _Walk,
    kind: TaskKind,
    treatment: _Treatment,
    finds: Sequence[_Find],
    tools: Sequence[Receptacle],
    parents: Sequence[Receptacle],
    open_to: Sequence[Receptacle],
) -> Iterator[_Walk]:
    parent_ids = {parent.id for parent in parents}
    for find in finds:
        ready = kind is TaskKind.COOL and find.thing.cool
        if ready and not parent_ids.isdisjoint(find.thing.receptacles):
            yield start
        # What lies in two places at once still lies in the other one when it has been taken from the first.
        left = not parent_ids.isdisjoint(held for held in find.thing.receptacles if held != find.source.id)
        fetched = start.take(find)
        walks = [fetched] if ready else []
        for tool in tools:
            walks.append(fetched.to(tool).do(f"{treatment.verb} {find.thing.name} with {tool.name}"))
        for walk in walks:
            if left:
                yield walk
            for parent in _unlike(open_to, [walk.location], [find.source.id, *start.opened]):
                yield walk.move(find, parent)


def _two(
    start: _Walk,
    targets: Sequence[Thing],
    finds: Sequence[_Find],
    parents: Sequence[Receptacle],
    open_to: Sequence[Receptacle],
) -> Iterator[_Walk]:
    inside = {parent.id: [thing for thing in targets if parent.id in thing.receptacles] for parent in parents}
    if any(len(things) >= 2 for things in inside.values()):
        yield start
    places = [start.location, *(find.source.location for find in finds)]
    held = [*(find.source.id for find in finds), *start.opened]
    for parent in _unlike(open_to, places, held):
        outside = [find for find in finds if parent.id not in find.thing.receptacles]
        if inside[parent.id]:
            for find in outside:
                yield start.take(find).move(find, parent)
        for first, second in permutations(outside, 2):
            if first.thing is not second.thing:
                yield start.take(first).move(first, parent).take(second).move(second, parent)


def _distinct(finds: Iterable[_Find]) -> list[_Find]:
    """One find of each source: which of several targets there is taken makes no difference."""
    return list({find.source.id: find for find in reversed(list(finds))}.values())


def _unlike(receptacles: Iterable[Receptacle], places: Collection[str], known: Collection[str]) -> Collection[Receptacle]:
    """One of all receptacles that cost the same: those that share neither a location with `places` nor an id with `known`."""
    unlike: dict[tuple[str, bool], Receptacle] = {}
    for receptacle in receptacles:
        special = receptacle.location in places or receptacle.id in known
        unlike.setdefault((receptacle.id if special else "", receptacle.openable), receptacle)
    return unlike.values()


def _same(found: str, wanted: str | None) -> bool:
    return wanted is not None and found.lower() == wanted.lower()
