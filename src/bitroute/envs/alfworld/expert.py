"""A player that sees only what the agent sees: it explores likely places first, remembers what it saw, then acts.

It reads the opening, each answer and the admissible commands, never the game. Its rules are few and follow from what was read,
because a small model shall learn them by imitation:

- exploring goes by type of receptacle in an order that depends on the sought type of object alone, and within a type in the
  order of the opening's list; what was looked at is skipped, what is closed is opened;
- a target in sight is taken; else the one seen last is fetched; else exploring goes on;
- a held target is treated, then put on the first listed place of the goal's type (of two, the second: where the first lies);
- a held object of another type is put down here if possible, else where it came from;
- of several goals whichever has a target in sight is worked on; what is to be looked at under a lamp is left alone until all
  else is done, for it must be in hand at the end; exploring goes round the places in one order, whichever goals are reached,
  and goes on where the hands were empty last: it takes no memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from math import sqrt
from typing import Final

from bitroute.envs.alfworld.notes import VERBS, Notes, kind_of, shown
from bitroute.envs.alfworld.simulator.game import TaskKind
from bitroute.envs.alfworld.simulator.goal import SpokenGoal, goal_sentence, read_goals
from bitroute.envs.alfworld.simulator.rooms import ALWAYS_OPENABLE, FURNITURE, OFTEN_OPENABLE
from bitroute.envs.alfworld.simulator.stock import STOCK
from bitroute.episode import Observation
from bitroute.errors import DataError

_ARRIVED: Final = re.compile(r"You arrive at (\w+ \d+)\.")

_APPLIANCES: Final = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}


class Expert:
    """The memory of one episode and the choice that follows from it.

    `observe` takes in any executed action, its own or a stranger's; `act` changes nothing.
    """

    def __init__(self, opening: Observation) -> None:
        """Read the room and the goals. Raises DataError for a task sentence of no official template."""
        self._goals = read_goals(opening.text)
        if not self._goals:
            raise DataError(f"task sentence {goal_sentence(opening.text)!r}: follows none of ALFWorld's templates")
        self._notes = Notes(opening.text)
        self._refused: set[str] = set()  # types of places that did not take it
        self._common_order = self._order_for_all()
        self._left_off: str | None = None  # the place that was last come to with empty hands

    def observe(self, action: str, observation: Observation) -> None:
        """Learn from what `action` was answered with; only the answer counts, so any player's action will do."""
        text, held = observation.text, self._notes.held
        if held is None and (arrived := _ARRIVED.match(text)):
            self._left_off = arrived[1]
        self._notes.read(text)
        if self._notes.held != held:
            self._refused = set()
        elif held and (name := shown(text)) and f"move {held} to {name}" not in observation.admissible:
            self._refused.add(kind_of(name))

    def act(self, observation: Observation) -> str:
        """The choice in the current state: always one of `observation.admissible`."""
        commands = frozenset(observation.admissible)
        wanted = self._wanted()
        if self._notes.held is None:
            return self._fetch(wanted, commands)
        goal = next((goal for goal in wanted if goal.target == kind_of(self._notes.held or "")), None)
        if goal is None:
            return self._put_down(wanted[0], self._notes.held, commands)
        verb = VERBS.get(goal.kind)
        if verb and self._notes.held not in self._notes.treated[verb]:
            return self._treat(goal, verb, self._notes.held, commands)
        if goal.kind is TaskKind.LOOK:
            return self._switch_on(goal, commands)
        return self._place(goal, self._notes.held, commands)

    def _wanted(self) -> list[SpokenGoal]:
        """The goals that may be worked on now, the last of the sentence first; never none."""
        left = [goal for goal in reversed(self._goals) if not self._notes.reached(goal)] or [self._goals[-1]]
        return [goal for goal in left if goal.kind is not TaskKind.LOOK] or left

    def _fetch(self, wanted: list[SpokenGoal], commands: frozenset[str]) -> str:
        """Take a target in sight, else go to where one was seen last, else explore; of several goals, else walk on."""
        finished = {goal.target: self._destination(goal) if goal.kind is TaskKind.TWO else None for goal in wanted}
        known = [
            (name, thing)
            for name in reversed(self._notes.contents)
            for thing in self._notes.contents[name]
            if kind_of(thing) in finished and finished[kind_of(thing)] != name
        ]
        for goal in wanted:
            for name, thing in known:
                if kind_of(thing) == goal.target and (take := f"take {thing} from {name}") in commands:
                    return take
        if len(self._goals) > 1:
            return self._walk_on(commands)
        for name, _ in known:
            if not _is_here(name, commands) or f"open {name}" in commands:
                return _approach(name, commands)
        return self._explore(self._order(wanted[0]), commands)

    def _walk_on(self, commands: frozenset[str]) -> str:
        """Back to where the hands were empty last, else open it, else to the place after it, round and round."""
        if self._left_off is None:
            return _approach(self._common_order[0], commands)
        if not _is_here(self._left_off, commands) or f"open {self._left_off}" in commands:
            return _approach(self._left_off, commands)
        number = self._common_order.index(self._left_off)
        for name in (*self._common_order[number + 1 :], *self._common_order[:number]):
            if not _is_here(name, commands):
                return _approach(name, commands)
        return "look"

    def _treat(self, goal: SpokenGoal, verb: str, held: str, commands: frozenset[str]) -> str:
        appliances = [name for name in self._notes.receptacles if kind_of(name) == _APPLIANCES[verb]]
        for name in appliances:
            if (treat := f"{verb} {held} with {name}") in commands:
                return treat
        return _approach(appliances[0], commands) if appliances else self._explore(self._order(goal), commands)

    def _switch_on(self, goal: SpokenGoal, commands: frozenset[str]) -> str:
        lamp = goal.lamp or ""
        known = [
            (name, thing)
            for name in reversed(self._notes.contents)
            for thing in self._notes.contents[name]
            if kind_of(thing) == lamp
        ]
        for _, thing in known:
            if (use := f"use {thing}") in commands:
                return use
        for name, _ in known:
            if not _is_here(name, commands):
                return _approach(name, commands)
        return self._explore(self._order(goal, lamp), commands)

    def _place(self, goal: SpokenGoal, held: str, commands: frozenset[str]) -> str:
        destination = self._destination(goal)
        if destination is None:
            return self._explore(self._order(goal), commands)
        if (move := f"move {held} to {destination}") in commands:
            return move
        return _approach(destination, commands)

    def _destination(self, goal: SpokenGoal) -> str | None:
        """The place for the target: in a goal of two the place of the goal's type that holds one already, else the first."""
        parents = self._notes.parents(goal)
        if goal.kind is TaskKind.TWO:
            for name in parents:
                if any(kind_of(thing) == goal.target for thing in self._notes.contents.get(name, ())):
                    return name
        return parents[0] if parents else None

    def _put_down(self, goal: SpokenGoal, held: str, commands: frozenset[str]) -> str:
        """Here if possible; else where it came from; else wherever such things lie, one type of place after the other."""
        for name in self._notes.receptacles:
            if (move := f"move {held} to {name}") in commands:
                return move
        first = [self._notes.origin] if self._notes.origin else []
        for name in (*first, *self._order(goal, kind_of(held))):
            if kind_of(name) not in self._refused:
                return _approach(name, commands)
        return "look"  # no place takes it: the episode is lost

    def _explore(self, route: list[str], commands: frozenset[str]) -> str:
        """The first place of the route that was not looked into; when all were, the one whose last look is longest ago."""
        for name in route:
            if name not in self._notes.contents:
                return _approach(name, commands)
        for name in self._notes.contents:
            if not _is_here(name, commands):
                return _approach(name, commands)
        return "look"

    def _order(self, goal: SpokenGoal, sought: str | None = None) -> list[str]:
        """The room's receptacles, likely places of the sought type (the goal's target unless another is given) first; last the
        goal's own, if a target there is no help."""
        last = goal.parent if goal.kind in (TaskKind.PLACE, TaskKind.TWO) else None
        rank = {name: number for number, name in enumerate(likely_places(sought or goal.target))}
        return sorted(
            self._notes.receptacles, key=lambda name: (kind_of(name) == last, rank.get(kind_of(name), len(rank)), kind_of(name))
        )

    def _order_for_all(self) -> list[str]:
        """The room's receptacles, those first where any of the targets is likely, whichever goals are reached already."""
        chance: dict[str, float] = defaultdict(float)
        for goal in self._goals:
            own = goal.parent if goal.kind in (TaskKind.PLACE, TaskKind.TWO) else None
            for place, odds in _chances(goal.target).items():
                chance[place] += odds if place != own else 0.0
        return sorted(self._notes.receptacles, key=lambda name: (-chance[kind_of(name)], kind_of(name)))


@cache
def likely_places(sought: str) -> tuple[str, ...]:
    """Types of receptacles that hold the sought type of object, by the chance to find it per command, best first."""
    chance = _chances(sought)
    return tuple(sorted(chance, key=lambda place: (-chance[place], place)))


@cache
def _chances(sought: str) -> Mapping[str, float]:
    """By type of receptacle, how readily one of them holds the sought type of object, per command that it takes to look.

    n receptacles of a type attract sqrt(n) times as much as one (`rooms`), so one of them has 1 / sqrt(n) of the weight.
    """
    chance: dict[str, float] = defaultdict(float)
    for room, stock in STOCK.items():
        for thing, facts in stock.items():
            if thing.lower() != sought:
                continue
            for place, weight in facts.places.items():
                if place in FURNITURE[room]:
                    counts = FURNITURE[room][place].counts
                    effort = 2 if place in ALWAYS_OPENABLE | OFTEN_OPENABLE else 1  # closed at first: go, then open
                    chance[place.lower()] += facts.share * weight / sqrt(sum(counts) / len(counts)) / effort
    return chance


def _is_here(name: str, commands: frozenset[str]) -> bool:
    """Whether the agent stands at a receptacle: at another one it could go there instead."""
    return f"go to {name}" not in commands


def _approach(name: str, commands: frozenset[str]) -> str:
    """The next command towards seeing what is in a receptacle."""
    for command in (f"go to {name}", f"open {name}"):
        if command in commands:
            return command
    return f"examine {name}"
