"""What the ALFWorld agent's language model reads: expert episodes as token sequences with a weight per token.

Sequence i is a pure function of (seed, i), so a training run can stop and go on anywhere. Which weights, and why: the verb of
an action is where most mistakes happen (search on, or take?); a little loss on observations teaches the network the names that
it has to recognise. More weight on taking was tried: it made the network take what it should have passed by.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bitroute.agents.agent import Agent
from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.demonstrations import Demonstration, demonstrate
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.nn.weighted import WeightedSequence

OBSERVATION_WEIGHT = 0.1
VERB_WEIGHT = 3.0
PUBLISHED_SHARE = 0.15  # of the sequences, where official training games are given
NOISE = (0.0, 0.3)  # range of an episode's probability of a stray action


def weigh(agent: Agent, demonstration: Demonstration) -> WeightedSequence:
    """The episode as the model will see it; only actions that the expert would have chosen are to be imitated."""
    opening = demonstration.observations[0]
    tokens: list[int] = []
    weights: list[float] = []
    for index, (observation, action) in enumerate(zip(demonstration.observations, demonstration.actions, strict=True)):
        prompt = agent.prompt(agent.message(opening, observation), first=index == 0)
        completion = agent.completion(action)
        imitated = [VERB_WEIGHT] + [1.0] * (len(completion) - 1)
        tokens += [*prompt, *completion]
        weights += [OBSERVATION_WEIGHT] * len(prompt)
        weights += [OBSERVATION_WEIGHT] * len(completion) if demonstration.noise[index] else imitated
    return WeightedSequence(tokens, weights)


def expert_source(
    agent: Agent, seed: int, official: Sequence[AlfworldTask] = (), goals: int = 1
) -> Callable[[int], WeightedSequence]:
    """Endless noisy expert episodes: fresh tasks of `lm-train`, and every now and then one of the `official` training games.

    Tasks have one to `goals` goals, n of them with a probability in proportion to 1 / n, so that each number gets about as many
    tokens; the `official` games, which have one, stand among those of one goal.
    """
    numbers = range(1, goals + 1)

    def sequence(index: int) -> WeightedSequence:
        chance = random.Random(f"{seed}|{index}")
        number = chance.choices(numbers, [1 / n for n in numbers])[0] if goals > 1 else 1
        published = official and number == 1 and chance.random() < PUBLISHED_SHARE
        task = chance.choice(official) if published else splits.task("lm-train", index, number)
        return weigh(agent, demonstrate(task, seed=index, noise=chance.uniform(*NOISE)))

    return sequence
