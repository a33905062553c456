"""What the ALFWorld agent's language model reads: expert episodes as token sequences with a weight per token.

Sequence i is a pure function of (seed, i), so a training run can stop and go on anywhere. Which weights, and why: the verb of
an action is where most mistakes happen (search on, or take?); a little loss on observations teaches the network the names that
it has to recognise. More weight on taking was tried: it made the network take what it should have passed by.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bitroute.agents.agent import Agent
from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.demonstrations import Demonstration, demonstrate
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.nn.weighted import WeightedSequence

PUBLISHED_SHARE = 0.15  # of the sequences, where official training games are given


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an episode teaches: the loss's weights (other tokens of an action weigh 1), and how often its actor strays."""

    verb: float  # weight of an action's first token
    observation: float
    stray: float  # weight of a stray action's tokens
    noise: Callable[[random.Random], float]  # draws an episode's probability of a stray action
    refused: float  # share of the stray actions that the environment refuses


# For a network that learns to read from these texts alone, and for one that learned to read before.
SCRATCH: Final = Lesson(verb=3.0, observation=0.1, stray=0.1, noise=lambda chance: chance.uniform(0.0, 0.3), refused=0.0)
PRETRAINED: Final = Lesson(
    verb=2.0, observation=0.05, stray=0.0, noise=lambda chance: chance.choice((0.0, 0.1, 0.25)), refused=0.3
)


def weigh(agent: Agent, demonstration: Demonstration, lesson: Lesson = SCRATCH) -> WeightedSequence:
    """The episode as the model will see it; only actions that the expert would have chosen are to be imitated."""
    tokens: list[int] = []
    weights: list[float] = []
    for index, action in enumerate(demonstration.actions):
        prompt = agent.prompt(agent.message(demonstration.observations[: index + 1]), first=index == 0)
        completion = agent.completion(action)
        imitated = [lesson.verb] + [1.0] * (len(completion) - 1)
        tokens += [*prompt, *completion]
        weights += [lesson.observation] * len(prompt)
        weights += [lesson.stray] * len(completion) if demonstration.noise[index] else imitated
    return WeightedSequence(tokens, weights)


def expert_source(
    agent: Agent, seed: int, official: Sequence[AlfworldTask] = (), goals: int = 1, lesson: Lesson = SCRATCH
) -> Callable[[int], WeightedSequence]:
    """Endless noisy expert episodes: fresh tasks of `lm-train`, and every now and then one of the `official` training games.

    Tasks have one to `goals` goals, n of them with a probability in proportion to 1 / n, so that each number gets about as many
    tokens; the `official` games, which have one, stand among those of one goal. Strays are n^2 times rarer: each costs more
    steps where the expert walks round, and an episode should fit into what is learned from.
    """
    numbers = range(1, goals + 1)

    def sequence(index: int) -> WeightedSequence:
        chance = random.Random(f"{seed}|{index}")
        number = chance.choices(numbers, [1 / n for n in numbers])[0] if goals > 1 else 1
        published = official and number == 1 and chance.random() < PUBLISHED_SHARE
        task = chance.choice(official) if published else splits.task("lm-train", index, number)
        noise = lesson.noise(chance) / number**2
        return weigh(agent, demonstrate(task, seed=index, noise=noise, refused=lesson.refused), lesson)

    return sequence
