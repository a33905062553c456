"""Goals read from their sentences agree with the goals of the games."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.goal import SpokenGoal, goal_sentence, read_goals
from bitroute.envs.alfworld.simulator.load import load_split
from bitroute.envs.alfworld.splits import task


def matches(found: AlfworldTask) -> bool:
    goals = found.game.goals
    expected = tuple(
        SpokenGoal(goal.kind, goal.target.lower(), goal.parent and goal.parent.lower(), goal.lamp and goal.lamp.lower())
        for goal in goals
    )
    return read_goals(f"You are here.\n\n{found.game.task_line}") == expected


@pytest.mark.parametrize("kind", list(TaskKind))
def test_hand_made_goals_are_read(house: Callable[[TaskKind], AlfworldTask], kind: TaskKind) -> None:
    assert matches(house(kind))


@pytest.mark.parametrize("goals", [1, 2, 3])
def test_generated_goals_are_read(goals: int) -> None:
    assert all(matches(task("router-train", index, goals)) for index in range(60))


def test_several_goals_are_one_sentence_and_keep_their_order() -> None:
    opening = "You are here.\n\nYour task is to: clean some mug and put it in desk, and put two pen in safe."
    assert read_goals(opening) == (SpokenGoal(TaskKind.CLEAN, "mug", "desk"), SpokenGoal(TaskKind.TWO, "pen", "safe"))
    assert read_goals("Your task is to: put some mug on desk, and dance.") == ()


@pytest.mark.official
def test_official_goals_are_read(official_root: Path) -> None:
    assert all(matches(found) for found in load_split(official_root, "valid_seen"))


@pytest.mark.parametrize(
    "sentence", ["", "put a pan", "wash the pan", "put three mug in desk", "put a clean mug in desk please", "put mug in desk"]
)
def test_other_sentences_are_no_goal(sentence: str) -> None:
    opening = f"You are here.\n\nYour task is to: {sentence}."
    assert goal_sentence(opening) == sentence
    assert read_goals(opening) == ()
    assert read_goals(sentence) == ()
