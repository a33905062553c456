"""A game compiled for play: everything that never changes, numbered and masked. It knows no state and answers no command.

Receptacles and things are numbered in the order of their lower-case ids, the order of all lists that the player reads; bit i of
a mask stands for number i.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitroute.envs.alfworld.simulator.game import Game, Goal, TaskKind

_CLEANERS = ("sink", "sinkbasin")
_KNIVES = ("knife", "butterknife")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What can reach one goal: masks of things (the lamps of LOOK among them), numbers of receptacles."""

    kind: TaskKind
    targets: int
    parents: tuple[int, ...]
    lamps: int


class House:
    """What never changes while a game is played, numbered and masked. Shared by all copies of a world."""

    __slots__ = (
        "articles",
        "can_hold",
        "cleaners",
        "contents",
        "coolers",
        "flags",
        "game",
        "goto",
        "heaters",
        "here",
        "initial",
        "knives",
        "openable",
        "place_of",
        "receptacle_names",
        "receptacle_numbers",
        "thing_names",
        "thing_numbers",
        "wanted",
    )

    def __init__(self, game: Game) -> None:
        self.game = game
        receptacles = sorted(game.receptacles, key=lambda r: r.id.lower())
        things = sorted(game.things, key=lambda t: t.id.lower())
        self.receptacle_names = [r.name for r in receptacles]
        self.receptacle_numbers = {r.name: i for i, r in enumerate(receptacles)}
        self.thing_names = [t.name for t in things]
        self.thing_numbers = {t.name: i for i, t in enumerate(things)}
        self.articles = ["a " + t.name for t in things]
        by_id = {r.id: i for i, r in enumerate(receptacles)}

        # Locations that matter: where the agent starts, and where receptacles and things are.
        places: dict[str, int] = {game.start: 0}
        for receptacle in receptacles:
            places.setdefault(receptacle.location, len(places))
        for thing in things:
            if thing.location is not None:
                places.setdefault(thing.location, len(places))
        # By receptacle: its place. By place: its receptacles, and the sorted commands that lead away from it.
        self.place_of = [places[r.location] for r in receptacles]
        self.here: list[list[int]] = [[] for _ in places]
        for number, place in enumerate(self.place_of):
            self.here[place].append(number)
        self.goto = [
            sorted("go to " + r.name for r, there in zip(receptacles, self.place_of, strict=True) if there != place)
            for place in range(len(places))
        ]

        # Masks of receptacles; by receptacle, the mask of things whose type it takes.
        self.openable = sum(1 << i for i, r in enumerate(receptacles) if r.openable)
        self.cleaners = sum(1 << i for i, r in enumerate(receptacles) if r.type.lower() in _CLEANERS)
        self.heaters = sum(1 << i for i, r in enumerate(receptacles) if r.type.lower() == "microwave")
        self.coolers = sum(1 << i for i, r in enumerate(receptacles) if r.type.lower() == "fridge")
        allowed = {(r.lower(), t.lower()) for r, t in game.can_contain}
        self.can_hold = [
            sum(1 << i for i, t in enumerate(things) if (r.type.lower(), t.type.lower()) in allowed) for r in receptacles
        ]

        def those(flag: str) -> int:
            return sum(1 << i for i, t in enumerate(things) if getattr(t, flag))

        # Masks of things: one a boolean field of `Thing`; knives; by outer thing, what is inside it (never itself).
        names = ("pickupable", "cleanable", "heatable", "coolable", "toggleable", "sliceable", "holds_others", "cool")
        self.flags = {name: those(name) for name in names}
        self.knives = sum(1 << i for i, t in enumerate(things) if t.type.lower() in _KNIVES)
        number_of = {t.id: i for i, t in enumerate(things)}
        self.contents = {
            i: sum(1 << n for n in {number_of[c] for c in t.contents} if n != i) for i, t in enumerate(things) if t.contents
        }

        # The start: things by receptacle, and things by place.
        inside = [0] * len(receptacles)
        lying = [0] * len(places)
        for i, thing in enumerate(things):
            for holder in thing.receptacles:
                inside[by_id[holder]] |= 1 << i
            if thing.location is not None:
                lying[places[thing.location]] |= 1 << i
        self.initial = (inside, lying)

        self.wanted = tuple(_wanted(goal, game, self) for goal in game.goals)


def _wanted(goal: Goal, game: Game, house: House) -> Wanted:
    """A goal in numbers. The domain asks of treated things that they can be treated, of lamps that they can be switched."""

    def things_of(kind: str | None) -> int:
        return sum(1 << house.thing_numbers[t.name] for t in game.things if kind and t.type.lower() == kind.lower())

    ability = {TaskKind.CLEAN: "cleanable", TaskKind.HEAT: "heatable", TaskKind.COOL: "coolable"}.get(goal.kind)
    parent = (goal.parent or "").lower()
    return Wanted(
        goal.kind,
        targets=things_of(goal.target) & (house.flags[ability] if ability else -1),
        parents=tuple(sorted(house.receptacle_numbers[r.name] for r in game.receptacles if r.type.lower() == parent)),
        lamps=things_of(goal.lamp) & house.flags["toggleable"],
    )
