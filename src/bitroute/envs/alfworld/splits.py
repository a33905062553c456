"""Which generated games belong to which split. Knows names and numbers of splits, and nobody who plays them.

Task `i` of a split is the same game forever. Splits never share a game, by construction:

- each split draws its rooms from its own range of room seeds, and only rooms whose layout hash falls to it: rooms with the
  same furniture and stock never stand in two splits. `seen` alone has the rooms of `lm-train`;
- `seen` and `lm-train` share out the games of these rooms by the hash of the game's substance.

The same holds for games of several goals: more splits of the same names, in the same rooms.

Kinds of tasks take turns, so that every prefix of a split is balanced; within a kind the rooms come in the published
games' proportions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, count

from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.generator import (
    KINDS,
    ROOM_KINDS,
    Room,
    game_hash,
    generate_game,
    generate_room,
    layout_hash,
)
from bitroute.errors import ConfigError

# Kitchen, living room, bedroom, bathroom: the published training games of each kind, counted by room.
_ROOM_WEIGHTS: Mapping[TaskKind, tuple[int, int, int, int]] = {
    TaskKind.PLACE: (92, 231, 257, 291),
    TaskKind.CLEAN: (547, 0, 0, 167),
    TaskKind.HEAT: (1, 0, 0, 0),
    TaskKind.COOL: (1, 0, 0, 0),
    TaskKind.LOOK: (0, 54, 286, 0),
    TaskKind.TWO: (129, 237, 260, 256),
}
_SEEN_OF = 8  # one game in so many of the lm-train rooms is `seen`'s
_LAYOUTS = 10  # layouts are dealt out in so many parts
_MAX_TRIES = 4096


@dataclass(frozen=True, slots=True)
class Split:
    """A named set of generated tasks. `layouts` are its parts of all layouts; `number` keeps its game seeds apart."""

    name: str
    number: int
    seeds: range
    layouts: frozenset[int]

    def owns(self, room_seed: int) -> bool:
        """Whether games in the room of this seed belong here, as far as the room decides it."""
        return room_seed in self.seeds and _layout(room_seed) in self.layouts

    def takes(self, substance: str) -> bool:
        """Whether a game with this `game_hash` in an owned room belongs here."""
        if self.name not in ("lm-train", "seen"):
            return True
        return (int(substance[:8], 16) % _SEEN_OF == 0) == (self.name == "seen")


_LM_SEEDS, _LM_LAYOUTS = range(4000), frozenset({0, 1, 2, 3})
SPLITS: Mapping[str, Split] = {
    split.name: split
    for split in (
        Split("lm-train", 0, _LM_SEEDS, _LM_LAYOUTS),
        Split("seen", 1, _LM_SEEDS, _LM_LAYOUTS),
        Split("router-train", 2, range(4000, 6000), frozenset({4, 5})),
        Split("validation", 3, range(6000, 8000), frozenset({6, 7})),
        Split("unseen", 4, range(8000, 10000), frozenset({8, 9})),
    )
}


def task(name: str, index: int, goals: int = 1) -> AlfworldTask:
    """Task `index` (from 0) of a split, with that many goals. The last one has the kind whose turn it is, the kinds of the
    others are drawn among those that its room can host. Raises ConfigError for a split that does not exist, a negative index,
    or no goal.
    """
    found = _split(name)
    if index < 0:
        raise ConfigError(f"task index of split {name} must not be negative, it is {index}")
    if goals < 1:
        raise ConfigError(f"a game has at least one goal, not {goals}")
    kind = KINDS[index % len(KINDS)]
    several = f" {goals} goals" if goals > 1 else ""
    rng = random.Random(f"task {name} {index}{several}")
    for attempt in range(_MAX_TRIES):
        room = _draw_room(rng, found, kind)
        movable = [each for each in room.goals if each is not TaskKind.LOOK]
        earlier = [rng.choice(movable) for _ in range(goals - 1)]
        seed = (index * _MAX_TRIES + attempt) * len(SPLITS) + found.number
        try:
            game = generate_game(room, seed, kind, earlier)
        except ValueError:  # its targets do not suffice: the next room's may
            continue
        if found.takes(game_hash(game)):
            number = f"{goals}x{index}" if goals > 1 else str(index)
            return AlfworldTask(id=f"{name}-{number}", kind=kind.value, split=name, game=game)
    raise AssertionError(f"no game for task {index} of {name}")


def tasks(name: str, start: int = 0, goals: int = 1) -> Iterator[AlfworldTask]:
    """The tasks of a split from `start` on, without end. Raises ConfigError for a split that does not exist."""
    _split(name)
    return (task(name, index, goals) for index in count(start))


def split(name: str, size: int, start: int = 0, goals: int = 1) -> list[AlfworldTask]:
    """`size` tasks of a split from `start` on. Raises ConfigError for a split that does not exist."""
    return [task(name, index, goals) for index in range(start, start + size)]


@lru_cache(maxsize=1 << 14)
def room_of(seed: int) -> Room:
    """The room of a seed, kept for later games."""
    return generate_room(seed)


@lru_cache(maxsize=1 << 14)
def _layout(seed: int) -> int:
    """The part of all layouts to which the room of a seed belongs."""
    return int(layout_hash(room_of(seed))[:8], 16) % _LAYOUTS


def _split(name: str) -> Split:
    if name not in SPLITS:
        raise ConfigError(f"unknown split {name!r}; generated splits are {', '.join(SPLITS)}")
    return SPLITS[name]


def _draw_room(rng: random.Random, owner: Split, kind: TaskKind) -> Room:
    weights = tuple(accumulate(_ROOM_WEIGHTS[kind]))
    ticket = rng.random() * weights[-1]
    offset = next(number for number, weight in enumerate(weights) if ticket < weight)
    first = owner.seeds.start
    for _ in range(_MAX_TRIES):
        seed = first + len(ROOM_KINDS) * int(rng.random() * (len(owner.seeds) // len(ROOM_KINDS))) + offset
        room = room_of(seed)
        if kind in room.goals and owner.owns(seed):
            return room
    raise AssertionError(f"no room for {kind} in {owner.name}")
