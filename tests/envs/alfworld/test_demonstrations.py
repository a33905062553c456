"""Demonstrations are reproducible, mark what is not to be imitated, and recover from it; relabelling replays faithfully."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bitroute.envs.alfworld.demonstrations import STEP_LIMIT, demonstrate, relabel
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.load import load_split
from bitroute.envs.alfworld.splits import task
from bitroute.envs.models import find_model
from bitroute.nn.tokenizer import Tokenizer

MODEL = find_model("alfworld-agent")


def test_without_noise_the_expert_plays() -> None:
    episode = demonstrate(task("lm-train", 0), seed=0, noise=0.0)
    assert episode.success
    assert episode.actions == episode.labels
    assert not any(episode.noise)
    assert len(episode.observations) == len(episode.actions)


def test_the_same_arguments_give_the_same_episode_and_seeds_differ() -> None:
    game = task("lm-train", 3)
    assert demonstrate(game, seed=5, noise=0.5) == demonstrate(game, seed=5, noise=0.5)
    assert len({demonstrate(game, seed=seed, noise=0.5).actions for seed in range(8)}) > 1


def test_noise_is_marked_and_has_the_asked_share() -> None:
    episodes = [demonstrate(task("lm-train", index), seed=1, noise=0.2) for index in range(90)]
    marks = [mark for episode in episodes for mark in episode.noise]
    assert len(marks) > 700
    assert 0.15 < sum(marks) / len(marks) < 0.22  # a stray action may happen to be the expert's
    for episode in episodes:
        assert episode.noise == tuple(a != b for a, b in zip(episode.actions, episode.labels, strict=True))
    assert sum(episode.success for episode in episodes) >= 88


def test_all_actions_and_labels_are_admissible_and_the_observations_are_the_worlds() -> None:
    for index in range(20):
        episode = demonstrate(task("lm-train", index), seed=2, noise=0.4)
        world = AlfworldEnvironment()
        observation = world.reset(episode.task)
        for told, action, label in zip(episode.observations, episode.actions, episode.labels, strict=True):
            assert told == observation
            assert {action, label} <= set(told.admissible)
            assert action != "help"
            observation = world.step(action).observation


def test_pure_noise_stops_at_the_limit(house: Callable[[TaskKind], AlfworldTask]) -> None:
    lengths = [len(demonstrate(house(TaskKind.HEAT), seed=seed, noise=1.0).actions) for seed in range(5)]
    assert max(lengths) == STEP_LIMIT
    assert len(demonstrate(house(TaskKind.HEAT), seed=0, noise=0.0, limit=3).actions) == 3


@pytest.mark.parametrize("noise", [-0.1, 1.1])
def test_no_probability_is_refused(house: Callable[[TaskKind], AlfworldTask], noise: float) -> None:
    with pytest.raises(ValueError, match="is not a probability"):
        demonstrate(house(TaskKind.PLACE), seed=0, noise=noise)


def test_relabelling_a_demonstration_gives_it_back() -> None:
    for index in range(10):
        episode = demonstrate(task("lm-train", index), seed=4, noise=0.3)
        assert relabel(episode.task, episode.actions) == episode


def test_relabelling_says_what_the_expert_would_have_done(house: Callable[[TaskKind], AlfworldTask]) -> None:
    actions = ["go to countertop 1", "take bowl 1 from countertop 1", "dance", "go to sidetable 1"]
    episode = relabel(house(TaskKind.PLACE), actions)
    assert episode.actions == tuple(actions)
    assert episode.labels[1:] == ("take book 1 from countertop 1", "move bowl 1 to countertop 1", "move bowl 1 to countertop 1")
    assert episode.noise[1:] == (True, True, True)
    assert episode.observations[3].text == "Nothing happens."
    assert not episode.success


def test_relabelling_ends_with_the_game(house: Callable[[TaskKind], AlfworldTask]) -> None:
    won = demonstrate(house(TaskKind.PLACE), seed=0, noise=0.0)
    assert relabel(won.task, [*won.actions, "look", "look"]) == won


@pytest.mark.official
def test_names_in_official_texts_are_two_tokens(official_root: Path) -> None:
    tokenizer = Tokenizer.load(MODEL)
    names: set[str] = set()
    for found in load_split(official_root, "valid_seen"):
        for observation in demonstrate(found, seed=0, noise=0.3).observations:
            names.update(re.findall(r"\ba (\w+ \d+)", observation.text))
    assert len(names) > 200
    assert {name for name in names if len(tokenizer.encode(" " + name)) != 2} == set()
