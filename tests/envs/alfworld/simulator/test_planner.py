"""Shortest plans: they win, and no other way is shorter (checked by trying everything in tiny games)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask, Game, Goal, Receptacle, TaskKind, Thing, numbered_names
from bitroute.envs.alfworld.simulator.load import find_games, load_task
from bitroute.envs.alfworld.simulator.planner import shortest_plan, with_walkthrough

House = Callable[[TaskKind], AlfworldTask]
PARENTS = {
    TaskKind.PLACE: "Shelf",
    TaskKind.TWO: "Shelf",
    TaskKind.CLEAN: "Cabinet",
    TaskKind.HEAT: "Fridge",
    TaskKind.COOL: "Shelf",
    TaskKind.LOOK: None,
}


def rewards(task: AlfworldTask, commands: tuple[str, ...]) -> list[float]:
    world = AlfworldEnvironment()
    world.reset(task)
    return [world.step(command).reward for command in commands]


def as_task(game: Game) -> AlfworldTask:
    return AlfworldTask(game.id, game.goal.kind.value, "test", game)


def state(world: AlfworldEnvironment) -> Hashable:
    values = [getattr(world, slot) for slot in AlfworldEnvironment.__slots__ if slot != "_house"]
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def fewest_commands(task: AlfworldTask, limit: int) -> int | None:
    """Breadth first over all commands that change anything; None when nothing wins within `limit`."""
    world = AlfworldEnvironment()
    opening = world.reset(task)
    reached = {state(world)}
    edge = [(world, opening.admissible)]
    for depth in range(1, limit + 1):
        following = []
        for world, commands in edge:
            for command in commands:
                if command.split(" ", 1)[0] in ("examine", "help", "inventory", "look"):
                    continue
                twin = world.copy()
                outcome = twin.step(command)
                if outcome.reward:
                    return depth
                if state(twin) not in reached:
                    reached.add(state(twin))
                    following.append((twin, outcome.observation.admissible))
        edge = following
    return None


def tiny_game(seed: int) -> Game:
    """Five or six receptacles at few locations, two or three mugs and a lamp, each in one or two of them."""
    random = Random(f"tiny {seed}")
    kind = list(TaskKind)[seed % len(TaskKind)]
    types = ["Shelf", "Cabinet", "SinkBasin", "Microwave", "Fridge"] + ["Shelf"] * random.randrange(2)
    ids = [f"{name}_bar_{number}" for number, name in enumerate(types)]
    names = numbered_names(ids)
    spots = [f"loc_bar_{number}" for number in range(random.choice((2, 3, 6)))]
    receptacles = tuple(
        Receptacle(i, name, names[i], random.choice(spots), random.random() < 0.4) for i, name in zip(ids, types, strict=True)
    )
    things_ids = [f"Mug_bar_{number}" for number in range(random.choice((2, 2, 3)))] + ["DeskLamp_bar_0"]
    thing_names = numbered_names(things_ids)
    things = []
    for mangled in things_ids:
        holders = random.sample(receptacles, random.choice((1, 1, 1, 2)))
        mug = mangled.startswith("Mug")
        at = holders[0].location
        cool = mug and random.random() < 0.2
        abilities = dict.fromkeys(("pickupable", "cleanable", "heatable", "coolable"), mug)
        held = tuple(holder.id for holder in holders)
        thing = Thing(mangled, mangled.partition("_bar_")[0], thing_names[mangled], at, held, toggleable=not mug, cool=cool)
        things.append(replace(thing, **abilities))
    accepting = {name for name in types if random.random() < 0.8}
    goal = Goal(kind, "Your task is to: .", "Mug", PARENTS[kind], "DeskLamp" if kind is TaskKind.LOOK else None)
    start = random.choice([*spots, "loc_bar_start"])
    return Game(f"tiny-{seed}", goal, start, receptacles, tuple(things), frozenset((name, "Mug") for name in accepting))


def test_plan_is_as_short_as_trying_everything() -> None:
    lengths: Counter[int | None] = Counter()
    for seed in range(132):
        game = tiny_game(seed)
        plan = shortest_plan(game)
        if plan is None:
            assert fewest_commands(as_task(game), limit=6) is None, game.id
        elif plan == ():  # it starts won, so that the first command ends it
            assert fewest_commands(as_task(game), limit=1) == 1, game.id
        elif len(plan) <= 7:  # longer ones pass too many states to try them all
            assert fewest_commands(as_task(game), limit=len(plan)) == len(plan), (game.id, plan)
            assert rewards(as_task(game), plan) == [0.0] * (len(plan) - 1) + [1.0], (game.id, plan)
        lengths[None if plan is None else len(plan)] += 1
    assert lengths[None] >= 5 and lengths[0] >= 5
    assert {3, 4, 5, 6, 7} <= set(lengths)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_plan_of_the_house_wins_at_its_last_command(house: House, kind: TaskKind) -> None:
    task = house(kind)
    plan = shortest_plan(task.game)
    assert plan is not None
    assert rewards(task, plan) == [0.0] * (len(plan) - 1) + [1.0]
    if kind is TaskKind.TWO:  # eight commands reach too many states to try them all
        assert len(plan) == 8
    else:
        assert fewest_commands(task, limit=len(plan) - 1) is None


def test_game_without_target_cannot_be_won(house: House) -> None:
    game = house(TaskKind.PLACE).game
    without = replace(game, things=tuple(thing for thing in game.things if thing.type != "Book"))
    assert shortest_plan(without) is None
    with pytest.raises(ValueError, match="house-pick_and_place_simple cannot be won"):
        with_walkthrough(without)


def test_walkthroughs_of_generated_games_win_at_the_last_command() -> None:
    lengths: dict[str, set[int]] = {kind.value: set() for kind in TaskKind}
    for task in splits.split("validation", 300):
        plan = task.game.walkthrough
        assert rewards(task, plan) == [0.0] * (len(plan) - 1) + [1.0], task.id
        lengths[task.kind].add(len(plan))
    assert min(lengths[TaskKind.LOOK]) == 3 and max(lengths[TaskKind.LOOK]) == 5
    assert min(lengths[TaskKind.PLACE]) == 4 and max(lengths[TaskKind.TWO]) >= 9
    assert {6, 7} <= lengths[TaskKind.CLEAN] & lengths[TaskKind.HEAT] & lengths[TaskKind.COOL]


@pytest.mark.official
def test_plans_are_as_long_as_the_published_walkthroughs(official_root: Path) -> None:
    files = find_games(official_root, "valid_seen")
    assert files
    for file in files:
        task = load_task(file)
        plan = shortest_plan(task.game)
        assert plan is not None and len(plan) == len(task.game.walkthrough), task.id
        assert rewards(task, plan)[-1] == 1.0, task.id
