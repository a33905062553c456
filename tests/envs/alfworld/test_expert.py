"""The expert wins, by its rules, from any state, and never names a command that is not admissible."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pytest

from bitroute.envs.alfworld.expert import Expert, likely_places
from bitroute.envs.alfworld.notes import kind_of
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.load import load_split
from bitroute.envs.alfworld.splits import task
from bitroute.episode import Observation
from bitroute.errors import DataError

House = Callable[[TaskKind], AlfworldTask]


def play(game: AlfworldTask, before: Sequence[str] = (), limit: int = 50) -> tuple[list[str], bool]:
    """The expert's actions after somebody else played `before`, and whether it won within `limit` steps of its own."""
    world = AlfworldEnvironment()
    observation = world.reset(game)
    expert = Expert(observation)
    done = False
    for action in before:
        transition = world.step(action)
        observation, done = transition.observation, transition.done
        expert.observe(action, observation)
    actions: list[str] = []
    while not done and len(actions) < limit:
        action = expert.act(observation)
        assert action in observation.admissible
        assert expert.act(observation) == action
        transition = world.step(action)
        observation, done = transition.observation, transition.done
        expert.observe(action, observation)
        actions.append(action)
    return actions, done


@pytest.mark.parametrize(
    ("kind", "actions"),
    [
        (
            TaskKind.PLACE,
            ["go to countertop 1", "take book 1 from countertop 1", "go to sidetable 1", "move book 1 to sidetable 1"],
        ),
        (
            TaskKind.CLEAN,
            [
                *("go to sidetable 1", "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1"),
                *("go to sinkbasin 1", "clean apple 1 with sinkbasin 1", "go to fridge 1", "move apple 1 to fridge 1"),
            ],
        ),
        (
            TaskKind.HEAT,
            [
                *("go to sidetable 1", "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1"),
                *("go to microwave 1", "heat apple 1 with microwave 1", "go to countertop 1", "move apple 1 to countertop 1"),
            ],
        ),
        (
            TaskKind.LOOK,
            ["go to countertop 1", "take book 1 from countertop 1", "go to sidetable 1", "use desklamp 1"],
        ),
    ],
)
def test_it_explores_takes_treats_and_puts(house: House, kind: TaskKind, actions: list[str]) -> None:
    played, done = play(house(kind))
    assert done
    assert played == actions


def test_of_two_the_second_goes_where_the_first_lies(house: House) -> None:
    actions, done = play(house(TaskKind.TWO))
    assert done
    assert [action for action in actions if action.startswith(("take", "move"))] == [
        *("take mug 2 from countertop 1", "move mug 2 to sidetable 1"),
        *("take mug 1 from sinkbasin 1", "move mug 1 to sidetable 1"),
    ]


def test_a_remembered_target_is_fetched_at_once(house: House) -> None:
    actions, done = play(house(TaskKind.PLACE), ["go to countertop 1", "go to microwave 1"])
    assert done
    assert actions[:2] == ["go to countertop 1", "take book 1 from countertop 1"]


def test_a_foreign_object_goes_back_where_it_came_from(house: House) -> None:
    actions, done = play(house(TaskKind.PLACE), ["go to countertop 1", "take bowl 1 from countertop 1"])
    assert done
    assert actions[:2] == ["move bowl 1 to countertop 1", "take book 1 from countertop 1"]
    carried = ["go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "close fridge 1", "go to microwave 1"]
    actions, done = play(house(TaskKind.PLACE), carried)
    assert done
    assert actions[:3] == ["go to fridge 1", "open fridge 1", "move apple 1 to fridge 1"]


def test_a_closed_destination_is_opened(house: House) -> None:
    hot = ["go to fridge 1", "open fridge 1", "take apple 1 from fridge 1", "close fridge 1"]
    actions, done = play(house(TaskKind.CLEAN), hot)
    assert done
    assert actions == [
        "go to sinkbasin 1",
        "clean apple 1 with sinkbasin 1",
        "go to fridge 1",
        "open fridge 1",
        "move apple 1 to fridge 1",
    ]


def test_what_undoes_the_treatment_is_noticed(house: House) -> None:
    warm = ["go to countertop 1", "take apple 2 from countertop 1", "go to microwave 1", "heat apple 2 with microwave 1"]
    assert play(house(TaskKind.HEAT), warm)[0][0] == "go to countertop 1"
    actions, done = play(house(TaskKind.HEAT), [*warm, "go to fridge 1", "cool apple 2 with fridge 1"])
    assert done
    assert actions[:2] == ["go to microwave 1", "heat apple 2 with microwave 1"]


def test_a_target_put_elsewhere_is_found_again(house: House) -> None:
    moved = [
        "go to countertop 1",
        "take book 1 from countertop 1",
        "go to drawer 1",
        "open drawer 1",
        "move book 1 to drawer 1",
    ]
    actions, done = play(house(TaskKind.PLACE), [*moved, "close drawer 1", "go to fridge 1"])
    assert done
    assert actions[:3] == ["go to drawer 1", "open drawer 1", "take book 1 from drawer 1"]


def test_places_of_a_type_are_explored_in_the_order_of_the_list() -> None:
    listed = "a drawer 3, a drawer 2, a drawer 1, a shelf 2, and a shelf 1"
    room = f"Looking quickly around you, you see {listed}.\n\nYour task is to: put some pencil on shelf."
    expert = Expert(Observation(room))
    visited = []
    ways = tuple(f"go to {name}" for name in ("drawer 1", "drawer 2", "drawer 3", "shelf 1", "shelf 2"))
    action = expert.act(Observation(room, ways))
    while len(visited) < 5:
        name = action.removeprefix("go to ")
        visited.append(name)
        arrival = Observation(f"You arrive at {name}. On the {name}, you see nothing.", tuple(w for w in ways if w != action))
        expert.observe(action, arrival)
        action = expert.act(arrival)
    assert visited == ["drawer 3", "drawer 2", "drawer 1", "shelf 2", "shelf 1"]
    assert action == "go to drawer 3"  # everything was seen: the look that is longest ago is repeated


def test_likely_places_weigh_chance_against_effort() -> None:
    assert likely_places("towel")[0] == "towelholder"
    assert likely_places("pillow")[0] == "bed"
    mug = likely_places("mug")
    assert mug.index("countertop") < mug.index("cabinet")
    assert likely_places("unicorn") == ()


def test_a_goal_of_no_template_is_refused() -> None:
    with pytest.raises(DataError, match="task sentence 'dance': follows none"):
        Expert(Observation("You see a desk 1.\n\nYour task is to: dance."))


def test_it_wins_nearly_all_generated_games() -> None:
    played = [play(task("router-train", index)) for index in range(120)]
    assert sum(done for _, done in played) >= 119
    lengths = sorted(len(actions) for actions, _ in played)
    assert median(lengths) <= 9
    assert lengths[108] <= 16


def test_it_wins_from_wherever_a_stranger_left_the_game() -> None:
    won = 0
    for index in range(120):
        found = task("router-train", 1000 + index)
        chance = random.Random(index)
        world = AlfworldEnvironment()
        observation = world.reset(found)
        before: list[str] = []
        for _ in range(12):
            takes = {c for c in observation.admissible if c.startswith("take") and kind_of(c[5:]) == "teddybear"}
            before.append(chance.choice(sorted(set(observation.admissible) - takes)))  # who takes a teddy bear keeps it
            observation = world.step(before[-1]).observation
        won += play(found, before)[1]
    assert won >= 118


@pytest.mark.official
def test_it_wins_all_official_games(official_root: Path) -> None:
    played = [play(found) for found in load_split(official_root, "valid_seen")]
    assert len(played) == 140
    assert all(done for _, done in played)
    assert median(len(actions) for actions, _ in played) <= 8
