"""ALFWorld's fixed domain, played natively: exact texts, exact admissible commands in order, exact reward.

It knows the rules of the domain and one compiled game; it reads no files and knows no LLM. What looks odd here is what the
official engine does (things in two receptacles at once, lamps that only ever turn on, knives that reach into closed fridges);
the differential test holds both against each other.

State is small integers and bit masks over things and receptacles, both numbered in the order of their lower-case ids, which
is the order of all lists the player reads. A copy shares everything that does not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.house import House, Wanted
from bitroute.episode import Observation, Transition

NOTHING_HAPPENS = "Nothing happens."

HELP = """Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""

_MIDDLE = "You are in the middle of a room. Looking quickly around you, you see {}."


def _bits(mask: int) -> Iterator[int]:
    """The numbers of the set bits, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _listing(phrases: Sequence[str]) -> str:
    if not phrases:
        return "nothing"
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + ", and " + phrases[-1]


class AlfworldEnvironment:
    """The native engine behind the `Environment` contract for `AlfworldTask`.

    `reset` compiles the game (about a millisecond) unless it is the one already loaded. `step` never raises for a command;
    `done` stays true from the step on that wins the game. The reward is what the step changed in the share of goals that hold:
    1.0 on the winning step of a game with one goal, 0.0 on all others; over an episode it adds up to the share at its end.
    """

    __slots__ = (
        "_clean",
        "_cool",
        "_done",
        "_gone",
        "_held",
        "_hot",
        "_house",
        "_inside",
        "_lying",
        "_opened",
        "_place",
        "_reached",
        "_sliced",
        "_toggled",
    )

    _house: House

    def reset(self, task: AlfworldTask) -> Observation:
        """Start the game of `task`; the observation lists the room and ends with the goal."""
        house = getattr(self, "_house", None)
        if house is None or house.game is not task.game:
            house = self._house = House(task.game)
        inside, lying = house.initial
        self._inside = inside.copy()  # by receptacle: the things in or on it
        self._lying = lying.copy()  # by location: the things there, as far as the domain keeps track of them
        self._gone = [0] * len(inside)  # by receptacle: the things that were taken out of it and not put back
        self._place = 0
        self._opened = 0
        self._held = -1
        self._clean = self._hot = self._sliced = self._toggled = 0
        self._cool = house.flags["cool"]
        self._done = False
        self._reached = 0
        if house.here[0]:
            surroundings = self._look()
        else:
            surroundings = _MIDDLE.format(_listing(["a " + name for name in house.receptacle_names]))
        opening = f"-= Welcome to TextWorld, ALFRED! =-\n\n{surroundings}\n\n{task.game.task_line}"
        return Observation(opening, self._admissible())

    def step(self, action: str) -> Transition:
        """Play one command; anything that is not admissible, to the letter, is answered with `Nothing happens.`"""
        text = self._play(action.strip())
        before, goals = self._reached, self._house.wanted
        if not self._done:
            self._reached = sum(self._holds(goal) for goal in goals)
        won = not self._done and self._reached == len(goals)
        self._done = self._done or won
        reward = (self._reached - before) / len(goals)
        return Transition(Observation(text or NOTHING_HAPPENS, self._admissible()), reward, self._done, won)

    def copy(self) -> Self:
        """An independent copy of the running game; it shares what never changes."""
        twin = object.__new__(type(self))
        twin._house = self._house
        twin._inside = self._inside.copy()
        twin._lying = self._lying.copy()
        twin._gone = self._gone.copy()
        twin._place = self._place
        twin._opened = self._opened
        twin._held = self._held
        twin._clean = self._clean
        twin._hot = self._hot
        twin._cool = self._cool
        twin._sliced = self._sliced
        twin._toggled = self._toggled
        twin._done = self._done
        twin._reached = self._reached
        return twin

    def _play(self, command: str) -> str | None:
        """Carry out a command and return its answer, or None where it is not admissible."""
        match command:
            case "look":
                return self._look()
            case "inventory":
                if self._held < 0:
                    return "You are not carrying anything."
                return f"You are carrying: {self._house.articles[self._held]}."
            case "help":
                return HELP
        verb, _, rest = command.partition(" ")
        match verb:
            case "go":
                return self._go(rest)
            case "take":
                return self._take(*rest.partition(" from ")[::2])
            case "move":
                return self._move(*rest.partition(" to ")[::2])
            case "open" | "close":
                return self._turn(verb, rest)
            case "examine":
                return self._examine(rest)
            case "use":
                return self._use(rest)
            case "clean" | "heat" | "cool":
                return self._treat(verb, *rest.partition(" with ")[::2])
            case "slice":
                return self._slice(*rest.partition(" with ")[::2])
        return None

    def _receptacle_here(self, name: str) -> int:
        """The number of the receptacle of this name at the agent's location, else -1."""
        number = self._house.receptacle_numbers.get(name, -1)
        return number if number >= 0 and self._house.place_of[number] == self._place else -1

    def _accessible(self, receptacle: int) -> bool:
        return bool((~self._house.openable | self._opened) >> receptacle & 1)

    def _look(self) -> str:
        house = self._house
        here = house.here[self._place]
        if not here:
            # In the official grammar only the opening lists the room: `look` asks for receptacles at the agent's own place.
            return _MIDDLE.format("nothing")
        facing = _listing([house.receptacle_names[r] for r in here])
        # The official text lists what lies here and is known not to be in a receptacle here: only a thing taken from a
        # receptacle and put into another one at the same location, once for each such receptacle.
        beside = [house.articles[t] for t in _bits(self._lying[self._place]) for r in here if self._gone[r] >> t & 1]
        return f"You are facing the {facing}. Next to it, you see {_listing(beside)}."

    def _show(self, receptacle: int) -> str:
        house = self._house
        name = house.receptacle_names[receptacle]
        if house.openable >> receptacle & 1:
            if not self._opened >> receptacle & 1:
                return f"The {name} is closed."
            start = f"The {name} is open. In it, you see "
        else:
            start = f"On the {name}, you see "
        return start + _listing([house.articles[t] for t in _bits(self._inside[receptacle])]) + "."

    def _go(self, rest: str) -> str | None:
        word, _, name = rest.partition(" ")
        receptacle = self._house.receptacle_numbers.get(name, -1)
        if word != "to" or receptacle < 0 or self._house.place_of[receptacle] == self._place:
            return None
        self._place = self._house.place_of[receptacle]
        return f"You arrive at {name}. {self._show(receptacle)}"

    def _take(self, thing_name: str, receptacle_name: str) -> str | None:
        receptacle = self._receptacle_here(receptacle_name)
        thing = self._house.thing_numbers.get(thing_name, -1)
        if receptacle < 0 or thing < 0 or self._held >= 0 or not self._accessible(receptacle):
            return None
        bit = 1 << thing
        if not self._inside[receptacle] & self._house.flags["pickupable"] & bit:
            return None
        self._inside[receptacle] &= ~bit
        self._gone[receptacle] |= bit
        self._lying[self._place] &= ~bit
        self._held = thing
        return f"You pick up the {thing_name} from the {receptacle_name}."

    def _move(self, thing_name: str, receptacle_name: str) -> str | None:
        receptacle = self._receptacle_here(receptacle_name)
        thing = self._house.thing_numbers.get(thing_name, -1)
        if receptacle < 0 or thing < 0 or thing != self._held or not self._accessible(receptacle):
            return None
        bit = 1 << thing
        if not self._house.can_hold[receptacle] & bit:
            return None
        self._inside[receptacle] |= bit
        self._gone[receptacle] &= ~bit
        self._lying[self._place] |= bit
        self._held = -1
        return f"You move the {thing_name} to the {receptacle_name}."

    def _turn(self, verb: str, name: str) -> str | None:
        receptacle = self._receptacle_here(name)
        if receptacle < 0 or not self._house.openable >> receptacle & 1:
            return None
        is_open = bool(self._opened >> receptacle & 1)
        if is_open == (verb == "open"):
            return None
        self._opened ^= 1 << receptacle
        return f"You close the {name}." if is_open else f"You open the {name}. {self._show(receptacle)}"

    def _examine(self, name: str) -> str | None:
        receptacle = self._receptacle_here(name)
        if receptacle >= 0:
            return self._show(receptacle)
        thing = self._house.thing_numbers.get(name, -1)
        # Only what the agent holds can be examined: the domain means to allow what it sees as well, but asks for a place of
        # the type `location,` (with the comma), of which there is none.
        return self._describe(thing) if 0 <= thing == self._held else None

    def _describe(self, thing: int) -> str:
        house = self._house
        name = house.thing_names[thing]
        if house.flags["holds_others"] >> thing & 1:
            inside = _listing([house.articles[t] for t in _bits(house.contents.get(thing, 0))])
            return f"This is a normal {name}. In it, you see {inside}."
        clean, hot, cool, sliced, toggled = (
            bool(mask >> thing & 1) for mask in (self._clean, self._hot, self._cool, self._sliced, self._toggled)
        )
        if clean or hot or cool:
            if clean and not (hot or cool):
                state = "clean"
            elif clean:
                state = "hot and clean" if hot else "cool and clean"
            elif hot:
                state = "hot"
            else:
                state = "cool" if sliced else "cold"
            return f"This is a {state} sliced {name}." if sliced else f"This is a {state} {name}."
        if toggled:
            return f"This {name} is on."
        return f"This is a sliced {name}." if sliced else f"There's nothing special about {name}."

    def _use(self, name: str) -> str | None:
        house = self._house
        thing = house.thing_numbers.get(name, -1)
        if thing < 0 or not house.flags["toggleable"] >> thing & 1:
            return None
        if not any(self._inside[r] >> thing & 1 for r in house.here[self._place]):
            return None
        self._toggled |= 1 << thing  # the domain remembers that it was switched, and answers the same ever after
        return f"You turn on the {name}."

    def _treat(self, verb: str, thing_name: str, receptacle_name: str) -> str | None:
        house = self._house
        receptacle = self._receptacle_here(receptacle_name)
        thing = house.thing_numbers.get(thing_name, -1)
        if receptacle < 0 or thing < 0 or thing != self._held:
            return None
        match verb:
            case "clean":
                able, places = house.flags["cleanable"], house.cleaners
            case "heat":
                able, places = house.flags["heatable"], house.heaters
            case _:
                able, places = house.flags["coolable"], house.coolers
        if not able >> thing & 1 or not places >> receptacle & 1:
            return None
        bit = 1 << thing
        if verb == "clean":
            self._clean |= bit
        elif verb == "heat":
            self._hot |= bit
            self._cool &= ~bit
        else:
            self._cool |= bit
            self._hot &= ~bit
        return f"You {verb} the {thing_name} using the {receptacle_name}."

    def _slice(self, thing_name: str, knife_name: str) -> str | None:
        house = self._house
        thing = house.thing_numbers.get(thing_name, -1)
        knife = house.thing_numbers.get(knife_name, -1)
        if thing < 0 or knife < 0 or knife != self._held or not house.knives >> knife & 1:
            return None
        if not (self._lying[self._place] & house.flags["sliceable"]) >> thing & 1:
            return None
        self._sliced |= 1 << thing
        return f"You sliced the {thing_name} with the {knife_name}."

    def _holds(self, goal: Wanted) -> bool:
        """Whether a goal is reached as things are now."""
        targets = goal.targets
        match goal.kind:
            case TaskKind.LOOK:
                if self._held < 0 or not targets >> self._held & 1:
                    return False
                lit = self._toggled & goal.lamps
                return bool(lit) and any(self._inside[r] & lit for r in self._house.here[self._place])
            case TaskKind.TWO:
                return any((self._inside[r] & targets).bit_count() >= 2 for r in goal.parents)
            case TaskKind.CLEAN:
                targets &= self._clean
            case TaskKind.HEAT:
                targets &= self._hot
            case TaskKind.COOL:
                targets &= self._cool
        return any(self._inside[r] & targets for r in goal.parents)

    def _admissible(self) -> tuple[str, ...]:
        """All commands that do something (or say something) now, sorted as strings."""
        house = self._house
        names = house.receptacle_names
        here = house.here[self._place]
        held = self._held
        opened = [r for r in here if self._opened >> r & 1]
        closed = [r for r in here if house.openable >> r & 1 and not self._opened >> r & 1]
        accessible = [r for r in here if r not in closed]

        commands = ["help", "inventory", "look", *house.goto[self._place]]
        commands += ["examine " + names[r] for r in here]
        commands += ["open " + names[r] for r in closed]
        commands += ["close " + names[r] for r in opened]
        if held >= 0:
            thing = house.thing_names[held]
            commands.append("examine " + thing)
            bit = 1 << held
            for verb, ability, places in (
                ("clean", "cleanable", house.cleaners),
                ("heat", "heatable", house.heaters),
                ("cool", "coolable", house.coolers),
            ):
                if house.flags[ability] & bit:
                    commands += [f"{verb} {thing} with {names[r]}" for r in here if places >> r & 1]
            commands += [f"move {thing} to {names[r]}" for r in accessible if house.can_hold[r] & bit]
            if house.knives & bit:
                reach = self._lying[self._place] & house.flags["sliceable"]
                commands += [f"slice {house.thing_names[t]} with {thing}" for t in _bits(reach)]
        else:
            for receptacle in accessible:
                takeable = self._inside[receptacle] & house.flags["pickupable"]
                commands += [f"take {house.thing_names[t]} from {names[receptacle]}" for t in _bits(takeable)]
        switches = 0
        for receptacle in here:
            switches |= self._inside[receptacle]
        commands += ["use " + house.thing_names[t] for t in _bits(switches & house.flags["toggleable"])]
        commands.sort()
        return tuple(commands)
