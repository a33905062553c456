"""The native engine's texts, commands and rewards, in a small hand-made house."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitroute.envs.alfworld.simulator.environment import HELP, NOTHING_HAPPENS, AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.episode import Transition

House = Callable[..., AlfworldTask]

# apple 1 has the last id of its kind: `_plus_` sorts after `_minus_`.
SOLUTIONS = {
    TaskKind.PLACE: "go to countertop 1; take book 1 from countertop 1; go to sidetable 1; move book 1 to sidetable 1",
    TaskKind.CLEAN: "go to countertop 1; take apple 2 from countertop 1; go to sinkbasin 1; clean apple 2 with sinkbasin 1; "
    "go to fridge 1; open fridge 1; move apple 2 to fridge 1",
    TaskKind.HEAT: "go to countertop 1; take apple 2 from countertop 1; go to microwave 1; heat apple 2 with microwave 1; "
    "go to countertop 1; move apple 2 to countertop 1",
    TaskKind.COOL: "go to countertop 1; take apple 2 from countertop 1; go to fridge 1; cool apple 2 with fridge 1; "
    "go to sidetable 1; move apple 2 to sidetable 1",
    TaskKind.LOOK: "go to countertop 1; take book 1 from countertop 1; go to sidetable 1; use desklamp 1",
    TaskKind.TWO: "go to sinkbasin 1; take mug 1 from sinkbasin 1; go to sidetable 1; move mug 1 to sidetable 1; "
    "go to countertop 1; take mug 2 from countertop 1; go to sidetable 1; move mug 2 to sidetable 1",
}


def started(task: AlfworldTask) -> AlfworldEnvironment:
    world = AlfworldEnvironment()
    world.reset(task)
    return world


def play(world: AlfworldEnvironment, commands: str) -> Transition:
    for command in commands.split("; "):
        outcome = world.step(command)
    return outcome


def said(world: AlfworldEnvironment, commands: str) -> str:
    return play(world, commands).observation.text


def test_opening_lists_the_room_in_id_order_and_ends_with_the_goal(house: House) -> None:
    opening = AlfworldEnvironment().reset(house())
    assert opening.text == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a "
        "countertop 1, a drawer 2, a drawer 1, a fridge 1, a microwave 1, a sidetable 1, and a sinkbasin 1.\n\n"
        "Your task is to: put some book on sidetable."
    )
    assert opening.admissible == (
        "go to countertop 1",
        "go to drawer 1",
        "go to drawer 2",
        "go to fridge 1",
        "go to microwave 1",
        "go to sidetable 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
    )


def test_texts_of_arriving_opening_and_closing(house: House) -> None:
    world = started(house())
    assert said(world, "look") == "You are in the middle of a room. Looking quickly around you, you see nothing."
    assert said(world, "go to countertop 1") == (
        "You arrive at countertop 1. On the countertop 1, you see a apple 2, a book 1, a bowl 1, a egg 1, and a mug 2."
    )
    assert said(world, "look") == "You are facing the countertop 1. Next to it, you see nothing."
    assert said(world, "go to fridge 1") == "You arrive at fridge 1. The fridge 1 is closed."
    assert said(world, "open fridge 1") == "You open the fridge 1. The fridge 1 is open. In it, you see a apple 1."
    assert said(world, "examine fridge 1") == "The fridge 1 is open. In it, you see a apple 1."
    assert said(world, "close fridge 1") == "You close the fridge 1."
    assert said(world, "examine fridge 1") == "The fridge 1 is closed."
    assert said(world, "go to microwave 1; open microwave 1") == (
        "You open the microwave 1. The microwave 1 is open. In it, you see nothing."
    )
    assert said(world, "help") == HELP
    assert said(world, "inventory") == "You are not carrying anything."


def test_commands_at_an_open_fridge_are_sorted_as_strings(house: House) -> None:
    world = started(house())
    outcome = play(world, "go to countertop 1; take egg 1 from countertop 1; go to fridge 1; open fridge 1")
    assert outcome.observation.admissible == (
        "close fridge 1",
        "cool egg 1 with fridge 1",
        "examine egg 1",
        "examine fridge 1",
        "go to countertop 1",
        "go to drawer 1",
        "go to drawer 2",
        "go to microwave 1",
        "go to sidetable 1",
        "go to sinkbasin 1",
        "help",
        "inventory",
        "look",
        "move egg 1 to fridge 1",
    )
    assert said(world, "inventory") == "You are carrying: a egg 1."


def test_receptacles_at_one_location_are_reached_together(house: House) -> None:
    world = started(house())
    outcome = play(world, "go to drawer 1; open drawer 2")
    assert outcome.observation.text == "You open the drawer 2. The drawer 2 is open. In it, you see a butterknife 1."
    assert "go to drawer 1" not in outcome.observation.admissible
    assert "go to drawer 2" not in outcome.observation.admissible
    assert said(world, "go to drawer 2") == NOTHING_HAPPENS
    assert said(world, "look") == "You are facing the drawer 2, and drawer 1. Next to it, you see nothing."
    # What was taken out of one of them and lies in the other is reported as lying beside.
    assert said(world, "open drawer 1; take butterknife 1 from drawer 2; move butterknife 1 to drawer 1; look") == (
        "You are facing the drawer 2, and drawer 1. Next to it, you see a butterknife 1."
    )
    assert said(world, "take butterknife 1 from drawer 1; move butterknife 1 to drawer 2; look") == (
        "You are facing the drawer 2, and drawer 1. Next to it, you see a butterknife 1."
    )


def test_a_thing_in_two_receptacles_stays_in_the_other(house: House) -> None:
    world = started(house())
    play(world, "go to countertop 1; take mug 2 from countertop 1")
    assert said(world, "examine countertop 1") == "On the countertop 1, you see a apple 2, a book 1, a bowl 1, and a egg 1."
    assert said(world, "go to drawer 1; open drawer 1") == (
        "You open the drawer 1. The drawer 1 is open. In it, you see a mug 2."
    )
    assert said(world, "move mug 2 to drawer 1") == "You move the mug 2 to the drawer 1."


def test_only_held_things_can_be_examined(house: House) -> None:
    world = started(house())
    assert said(world, "go to countertop 1; examine bowl 1") == NOTHING_HAPPENS
    assert said(world, "take bowl 1 from countertop 1; examine bowl 1") == "This is a normal bowl 1. In it, you see a egg 1."
    assert said(world, "move bowl 1 to countertop 1; take book 1 from countertop 1; examine book 1") == (
        "There's nothing special about book 1."
    )


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        ("", "There's nothing special about apple 2."),
        ("go to sinkbasin 1; clean apple 2 with sinkbasin 1", "This is a clean apple 2."),
        ("go to microwave 1; heat apple 2 with microwave 1", "This is a hot apple 2."),
        ("go to fridge 1; cool apple 2 with fridge 1", "This is a cold apple 2."),
        (
            "go to sinkbasin 1; clean apple 2 with sinkbasin 1; go to microwave 1; heat apple 2 with microwave 1",
            "This is a hot and clean apple 2.",
        ),
        (
            "go to microwave 1; heat apple 2 with microwave 1; go to fridge 1; cool apple 2 with fridge 1; "
            "go to sinkbasin 1; clean apple 2 with sinkbasin 1",
            "This is a cool and clean apple 2.",
        ),
    ],
)
def test_examine_tells_the_state(house: House, commands: str, text: str) -> None:
    for sliced in (False, True):
        world = started(house())
        if sliced:
            assert said(world, "go to drawer 1; open drawer 2; take butterknife 1 from drawer 2; go to countertop 1; "
                        "slice apple 2 with butterknife 1") == "You sliced the apple 2 with the butterknife 1."  # fmt: skip
            play(world, "move butterknife 1 to countertop 1")
            text = text.replace("apple", "sliced apple").replace("cold", "cool")
            text = text.replace("There's nothing special about", "This is a")
        play(world, "go to countertop 1; take apple 2 from countertop 1")
        if commands:
            play(world, commands)
        assert said(world, "examine apple 2") == text


def test_a_knife_reaches_into_a_closed_fridge_but_not_to_a_thing_carried_away(house: House) -> None:
    world = started(house())
    outcome = play(world, "go to drawer 1; open drawer 2; take butterknife 1 from drawer 2; go to fridge 1")
    assert "slice apple 1 with butterknife 1" in outcome.observation.admissible
    assert said(world, "slice apple 2 with butterknife 1") == NOTHING_HAPPENS
    assert said(world, "slice egg 1 with butterknife 1") == NOTHING_HAPPENS


def test_lamps_only_ever_turn_on(house: House) -> None:
    world = started(house())
    assert said(world, "use desklamp 1") == NOTHING_HAPPENS
    assert said(world, "go to sidetable 1; use desklamp 1") == "You turn on the desklamp 1."
    assert said(world, "use desklamp 1") == "You turn on the desklamp 1."
    assert said(world, "take desklamp 1 from sidetable 1") == NOTHING_HAPPENS


@pytest.mark.parametrize(
    "command",
    [
        "",
        " ",
        "go",
        "go to",
        "go to countertop",
        "go to countertop 2",
        "go  to countertop 1",
        "Go to countertop 1",
        "go near countertop 1",
        "take apple 2 from countertop 1",
        "take apple 1",
        "take book 1 from drawer 1",
        "move book 1 to countertop 1",
        "open countertop 1",
        "open fridge 1",
        "close drawer 1",
        "clean book 1 with sinkbasin 1",
        "heat apple 2 with fridge 1",
        "slice apple 2 with book 1",
        "use poster 1",
        "examine fridge 1",
        "look around",
        "put book 1 in/on countertop 1",
    ],
)
def test_what_is_not_admissible_changes_nothing(house: House, command: str) -> None:
    world = started(house())
    before = play(world, "go to drawer 1; inventory")
    outcome = world.step(command)
    assert outcome.observation.text == NOTHING_HAPPENS
    assert outcome.observation.admissible == before.observation.admissible
    assert (outcome.reward, outcome.done) == (0.0, False)


def test_blanks_around_a_command_are_ignored(house: House) -> None:
    assert said(started(house()), "  go to drawer 1\n").startswith("You arrive at drawer 1.")


def test_hands_full_types_that_do_not_fit_and_closed_doors(house: House) -> None:
    world = started(house())
    play(world, "go to countertop 1; take book 1 from countertop 1")
    assert said(world, "take egg 1 from countertop 1") == NOTHING_HAPPENS
    assert said(world, "go to fridge 1; move book 1 to fridge 1") == NOTHING_HAPPENS
    assert said(world, "go to microwave 1; open microwave 1; move book 1 to microwave 1") == NOTHING_HAPPENS


@pytest.mark.parametrize("kind", TaskKind)
def test_each_kind_of_task_is_rewarded_once_on_the_winning_step(house: House, kind: TaskKind) -> None:
    world = started(house(kind))
    commands = SOLUTIONS[kind].split("; ")
    outcomes = [world.step(command) for command in commands]
    assert [o.reward for o in outcomes] == [0.0] * (len(commands) - 1) + [1.0]
    assert [o.done for o in outcomes] == [False] * (len(commands) - 1) + [True]
    after = [world.step(command) for command in (commands[-1], "look", "go to drawer 1")]
    assert [(o.reward, o.done) for o in after] == [(0.0, True)] * 3


def test_two_things_must_be_two(house: House) -> None:
    world = started(house(TaskKind.TWO))
    outcome = play(
        world,
        "go to sinkbasin 1; take mug 1 from sinkbasin 1; go to sidetable 1; move mug 1 to sidetable 1; "
        "take mug 1 from sidetable 1; move mug 1 to sidetable 1",
    )
    assert (outcome.reward, outcome.done) == (0.0, False)


def test_heating_undoes_cooling(house: House) -> None:
    world = started(house(TaskKind.COOL))
    outcome = play(
        world,
        "go to countertop 1; take apple 2 from countertop 1; go to fridge 1; cool apple 2 with fridge 1; go to microwave 1; "
        "heat apple 2 with microwave 1; go to sidetable 1; move apple 2 to sidetable 1",
    )
    assert not outcome.done


def test_what_comes_from_the_fridge_is_cool_already(house: House) -> None:
    world = started(house(TaskKind.COOL))
    outcome = play(
        world,
        "go to fridge 1; open fridge 1; take apple 1 from fridge 1; go to sidetable 1; move apple 1 to sidetable 1",
    )
    assert outcome.reward == 1.0


def test_a_lamp_must_be_where_the_agent_is(house: House) -> None:
    world = started(house(TaskKind.LOOK))
    outcome = play(world, "go to sidetable 1; use desklamp 1; go to countertop 1; take book 1 from countertop 1")
    assert not outcome.done
    assert world.step("go to sidetable 1").reward == 1.0


def test_the_order_of_the_game_s_tuples_does_not_matter(house: House) -> None:
    task = house(TaskKind.HEAT)
    game = dataclasses.replace(
        task.game, receptacles=task.game.receptacles[::-1], things=tuple(sorted(task.game.things, key=lambda t: t.name))
    )
    worlds = AlfworldEnvironment(), AlfworldEnvironment()
    assert worlds[0].reset(task) == worlds[1].reset(dataclasses.replace(task, game=game))
    for command in SOLUTIONS[TaskKind.HEAT].split("; "):
        assert worlds[0].step(command) == worlds[1].step(command)


def test_reset_starts_over_and_changes_games(house: House) -> None:
    world = AlfworldEnvironment()
    first = world.reset(house(TaskKind.HEAT))
    play(world, "go to countertop 1; take apple 2 from countertop 1")
    assert world.reset(house(TaskKind.TWO)).text.endswith("put two mug in sidetable.")
    assert world.reset(house(TaskKind.HEAT)) == first


choices = st.lists(st.integers(0, 10_000), max_size=25)


def wander(world: AlfworldEnvironment, first: Transition | None, numbers: list[int]) -> list[Transition]:
    """Play the numbered admissible commands; every seventh number stands for nonsense."""
    outcomes = [first] if first else [world.step("look")]
    for number in numbers:
        admissible = outcomes[-1].observation.admissible
        outcomes.append(world.step("xyzzy" if number % 7 == 0 else admissible[number % len(admissible)]))
    return outcomes[1:]


@given(kind=st.sampled_from(TaskKind), before=choices, ours=choices, theirs=choices)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copies_are_independent(house: House, kind: TaskKind, before: list[int], ours: list[int], theirs: list[int]) -> None:
    world, reference = started(house(kind)), started(house(kind))
    last = (wander(world, None, before) or [None])[-1]
    same = (wander(reference, None, before) or [None])[-1]
    assert last == same
    twin = world.copy()
    wander(twin, last, theirs)
    assert wander(world, last, ours) == wander(reference, same, ours)


@given(kind=st.sampled_from(TaskKind), numbers=choices)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_the_admissible_commands_do_something(house: House, kind: TaskKind, numbers: list[int]) -> None:
    world = started(house(kind))
    wander(world, None, numbers)
    admissible = world.copy().step("xyzzy").observation.admissible
    assert list(admissible) == sorted(set(admissible))
    receptacles = [r.name for r in house(kind).game.receptacles]
    things = [t.name for t in house(kind).game.things]
    for name in receptacles:
        for verb in ("go to", "open", "close", "examine"):
            check(world, f"{verb} {name}", admissible)
        for thing in things:
            for pattern in ("take {} from {}", "move {} to {}", "clean {} with {}", "heat {} with {}", "cool {} with {}"):
                check(world, pattern.format(thing, name), admissible)
    for thing in things:
        for verb in ("examine", "use"):
            check(world, f"{verb} {thing}", admissible)
        for other in things:
            check(world, f"slice {thing} with {other}", admissible)


def check(world: AlfworldEnvironment, command: str, admissible: tuple[str, ...]) -> None:
    answered = world.copy().step(command).observation.text != NOTHING_HAPPENS
    assert answered == (command in admissible), command
