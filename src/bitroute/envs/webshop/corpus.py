"""What the WebShop agent's language model reads: the shopper's episodes as token sequences with a weight per token.

Sequence i is a pure function of (seed, i), so a training run can stop and go on anywhere. Some actions are a stranger's: the
shopper's next choice teaches how one recovers, and strays themselves are not learned.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bitroute.agents.agent import Agent
from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.goals import ShoppingTask
from bitroute.envs.webshop.shopper import Shopper
from bitroute.episode import Observation
from bitroute.nn.weighted import WeightedSequence

STEPS: Final = 30  # of an episode at most
NOISE: Final = 0.15  # highest probability of a stray action
OBSERVED: Final = 0.1  # weight of what the shop says: it teaches the words that the model has to recognise
FINAL: Final = "click[buy now]"  # no stray: it would end the episode


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode: `observations[t]` was answered with `actions[t]`, where the shopper would have chosen `labels[t]`."""

    observations: tuple[Observation, ...]
    actions: tuple[str, ...]
    labels: tuple[str, ...]
    reward: float


def demonstrate(world: WebShopEnvironment, task: ShoppingTask, seed: int, noise: float) -> Demonstration:
    """The shopper's episode, with a random click in the place of a choice with probability `noise`.

    The same arguments give the same episode.
    """
    chance = random.Random(f"{task.id}|{seed}")
    observation = world.reset(task)
    shopper = Shopper(observation)
    observations, actions, labels, reward = [observation], list[str](), list[str](), 0.0
    for _ in range(STEPS):
        label = shopper.act(observation)
        clicks = [command for command in observation.admissible if command != FINAL]
        action = chance.choice(clicks) if clicks and chance.random() < noise else label
        transition = world.step(action)
        observation = transition.observation
        actions.append(action)
        labels.append(label)
        if transition.done:
            reward = transition.reward
            break
        shopper.observe(action, observation)
        observations.append(observation)
    return Demonstration(tuple(observations[: len(actions)]), tuple(actions), tuple(labels), reward)


def weigh(agent: Agent, demonstration: Demonstration) -> WeightedSequence:
    """The episode as the model will see it; only actions that the shopper would have chosen are to be imitated."""
    tokens: list[int] = []
    weights: list[float] = []
    for index, action in enumerate(demonstration.actions):
        prompt = agent.prompt(agent.message(demonstration.observations[: index + 1]), first=index == 0)
        completion = agent.completion(action)
        tokens += [*prompt, *completion]
        weights += [OBSERVED] * len(prompt)
        weights += [float(action == demonstration.labels[index])] * len(completion)
    return WeightedSequence(tokens, weights)


def shopping_source(
    agent: Agent, world: WebShopEnvironment, goals: Sequence[ShoppingTask], seed: int
) -> Callable[[int], WeightedSequence]:
    """Endless noisy episodes: goals in their order, round and round."""

    def sequence(index: int) -> WeightedSequence:
        noise = random.Random(f"{seed}|{index}").uniform(0.0, NOISE)
        return weigh(agent, demonstrate(world, goals[index % len(goals)], index, noise))

    return sequence
