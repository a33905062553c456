"""The shopper's episodes: each state with the shopper's choice, and now and then a stranger's action to recover from.

It knows the shop and the shopper, no tokenizer and no model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from bitroute.envs.webshop.actions import BUY, click
from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.goals import ShoppingTask
from bitroute.envs.webshop.shopper import Shopper
from bitroute.episode import Observation

STEPS: Final = 30  # of an episode at most
FINAL: Final = click(BUY.lower())  # no stray: it would end the episode


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
