"""What the texts of an episode tell: where things lie, what is held and treated, which goals hold. It knows texts alone."""

from __future__ import annotations

import re
from typing import Final

from bitroute.envs.alfworld.simulator.game import TaskKind
from bitroute.envs.alfworld.simulator.goal import SpokenGoal

_LISTED: Final = re.compile(r"\ba (\w+ \d+)")
_SHOWN: Final = re.compile(r"(?:On the (\w+ \d+), you see|The (\w+ \d+) is open\. In it, you see) ([^.]*)\.")
_TAKEN: Final = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_MOVED: Final = re.compile(r"You move the (\w+ \d+) to the (\w+ \d+)\.")
_TREATED: Final = re.compile(r"You (clean|heat|cool) the (\w+ \d+) using the \w+ \d+\.")
_CARRIED: Final = re.compile(r"You are carrying: a (\w+ \d+)\.")

VERBS: Final = {TaskKind.CLEAN: "clean", TaskKind.HEAT: "heat", TaskKind.COOL: "cool"}
_UNDOES: Final = {"heat": "cool", "cool": "heat"}


class Notes:
    """What one episode's texts told so far. `read` takes them in order, behind the opening's."""

    def __init__(self, opening: str) -> None:
        room = opening.partition("you see ")[2].partition("\n")[0]
        self.receptacles: list[str] = _LISTED.findall(room)  # in the opening's order
        self.contents: dict[str, list[str]] = {}  # of the receptacles that were looked into, the last seen at the end
        self.held: str | None = None
        self.origin: str | None = None  # where the held object was
        self.treated: dict[str, set[str]] = {verb: set() for verb in VERBS.values()}  # by verb: what was treated and still is

    def read(self, text: str) -> None:
        """Learn from what an action was answered with; only the answer counts, so any player's action will do."""
        if found := _SHOWN.search(text):
            name = found[1] or found[2]
            self.contents.pop(name, None)
            self.contents[name] = _LISTED.findall(found[3])
        elif taken := _TAKEN.match(text):
            self.held, self.origin = taken[1], taken[2]
            if self.held in self.contents.get(self.origin, ()):
                self.contents[self.origin].remove(self.held)
        elif moved := _MOVED.match(text):
            self.held = None
            self.contents.setdefault(moved[2], []).append(moved[1])
        elif treated := _TREATED.match(text):
            self.treated[treated[1]].add(treated[2])
            if undone := _UNDOES.get(treated[1]):
                self.treated[undone].discard(treated[2])
        elif carried := _CARRIED.match(text):
            self.held = carried[1]

    def parents(self, goal: SpokenGoal) -> list[str]:
        """The receptacles where the goal's target may be put."""
        return [name for name in self.receptacles if kind_of(name) == goal.parent]

    def reached(self, goal: SpokenGoal) -> bool:
        """Whether what was read says that the goal holds; of what is to be looked at nothing says so before the game is won."""
        verb = VERBS.get(goal.kind)
        for name in self.parents(goal):
            there = [thing for thing in self.contents.get(name, ()) if kind_of(thing) == goal.target]
            if verb:
                there = [thing for thing in there if thing in self.treated[verb]]
            if len(there) >= (2 if goal.kind is TaskKind.TWO else 1):
                return True
        return False


def shown(text: str) -> str | None:
    """The receptacle whose contents a text lists, if any."""
    found = _SHOWN.search(text)
    return (found[1] or found[2]) if found else None


def kind_of(name: str) -> str:
    """The type in a name: `countertop` of `countertop 2`."""
    return name.partition(" ")[0]
