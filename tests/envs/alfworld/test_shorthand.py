"""The short form of ALFWorld's texts: each sentence by hand, and over whole games nothing that matters is lost."""

from __future__ import annotations

import re

import pytest

from bitroute.envs.alfworld.agent import AlfworldLineAgent
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.alfworld.message import message
from bitroute.envs.alfworld.shorthand import AlfworldShorthand
from bitroute.envs.alfworld.splits import task
from bitroute.envs.alfworld.suite import AlfworldSuite
from support.text_tokenizer import text_tokenizer

SHORT = AlfworldShorthand()


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("You arrive at shelf 1. On the shelf 1, you see a mug 2, and a plate 12.", "On shelf1: mug2, plate12."),
        ("You arrive at shelf 1. On the shelf 1, you see nothing.", "On shelf1: nothing."),
        ("You arrive at fridge 1. The fridge 1 is closed.", "Closed fridge1."),
        ("You open the fridge 1. The fridge 1 is open. In it, you see an egg 1.", "In fridge1: egg1."),
        ("You arrive at fridge 1. The fridge 1 is open. In it, you see nothing.", "In fridge1: nothing."),
        ("You close the fridge 1.", "Closed fridge1."),
        ("You pick up the mug 2 from the shelf 1.", "Took mug2."),
        ("You move the mug 2 to the shelf 1.", "Moved mug2."),
        ("You heat the mug 2 using the microwave 1.", "Done: heat mug2."),
        ("Nothing happens.", "Nothing happens."),
        ("You are carrying: a mug 2.", "You are carrying: mug2."),
        (
            "You are in the middle of a room. Looking quickly around you, you see a shelf 3, a shelf 2, a shelf 1, a desk 1, "
            "a drawer 4, and a drawer 1.\n\nYour task is to: put a mug in desk.\nGoal: desk put mug",
            "Room: shelf1-3, desk1, drawer1, drawer4.\nTask: put a mug in desk.\nGoal: desk put mug",
        ),
    ],
)
def test_sentences_by_hand(text: str, short: str) -> None:
    assert SHORT.message(text) == short


@pytest.mark.parametrize("goals", [1, 3])
def test_over_whole_games_every_command_comes_back_and_every_object_in_sight_is_named(goals: int) -> None:
    shown = 0
    for index in range(6):
        episode = demonstrate(task("lm-train", index, goals), seed=0, noise=0.2)
        for number, observation in enumerate(episode.observations):
            commands = {SHORT.write(command) for command in observation.admissible}
            assert len(commands) == len(observation.admissible)
            assert {SHORT.read(line) for line in commands} == set(observation.admissible)
            text = message(episode.observations[: number + 1])
            short = SHORT.message(text)
            assert short.splitlines()[-1] == text.splitlines()[-1]  # the goal
            if "You arrive at" in text:
                listed = re.findall(r"an? ([a-z]+) (\d+)", text.partition("\nGoal")[0])
                assert all(re.search(rf"\b{name}{number}\b", short) for name, number in listed)
                shown += len(listed)
    assert shown > 50


def test_the_suite_takes_the_format_for_tokenizers_without_turns_and_routers_read_the_whole_message() -> None:
    suite = AlfworldSuite()
    agent = suite.agent(text_tokenizer())
    assert isinstance(agent, AlfworldLineAgent)
    episode = demonstrate(task("lm-train", 1), seed=0, noise=0)
    opening = episode.observations[:1]
    assert agent.message(opening) == suite.message(opening)
    prompt = agent.tokenizer.decode(agent.prompt(agent.message(opening), first=True))
    assert prompt.startswith("Room: ") and prompt.endswith("\n>")
