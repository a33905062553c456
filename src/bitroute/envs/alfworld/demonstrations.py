"""Played episodes with the expert's choice at every state: noisy demonstrations, and agents' own episodes relabelled (DAgger).

It knows the simulator and the expert, no tokenizer and no model: what of an episode enters a loss is the trainer's affair.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from bitroute.envs.alfworld.expert import Expert
from bitroute.envs.alfworld.notes import kind_of
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask, Game
from bitroute.episode import Observation

STEP_LIMIT: Final = 50  # a goal
TRIES: Final = 50  # at a command that is refused
_NAME: Final = re.compile(r"[a-z]+ \d+")

# What a stranger at the controls would do, and how often: mostly plausible detours, now and then anything at all.
_STRAY: Final = (
    (50, ("go to ",)),
    (22, ("take ", "move ")),
    (15, ("open ", "close ")),
    (5, ("use ", "clean ", "heat ", "cool ")),
    (8, ("",)),
)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode: `observations[t]` (the first is the opening) was answered with `actions[t]`; the expert chose `labels[t]`.

    All three have one entry a step; what the last action was answered with is left out. `success`: the game was won.
    """

    task: AlfworldTask
    observations: tuple[Observation, ...]
    actions: tuple[str, ...]
    labels: tuple[str, ...]
    success: bool

    @property
    def noise(self) -> tuple[bool, ...]:
        """Which of the executed actions were not the expert's choice: nothing to imitate, only to recover from."""
        return tuple(action != label for action, label in zip(self.actions, self.labels, strict=True))


def demonstrate(
    task: AlfworldTask, seed: int, noise: float, limit: int | None = None, *, refused: float = 0.0
) -> Demonstration:
    """The expert's episode of at most `limit` steps (by default `STEP_LIMIT` a goal), in which a random action is played with
    probability `noise`: an admissible one, or, with probability `refused`, one that the environment refuses.

    The same arguments give the same episode. Raises ValueError for a probability outside 0..1.
    """
    for probability in (noise, refused):
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"noise {probability} is not a probability")
    chance = random.Random(f"{task.id}|{seed}")
    storable = _storable(task.game)
    most = STEP_LIMIT * len(task.game.goals) if limit is None else limit

    def choose(step: int, observation: Observation, label: str) -> str | None:
        if step == most:
            return None
        if chance.random() >= noise:
            return label
        if refused and chance.random() < refused:
            return _refused(chance, observation.admissible)
        return _stray(chance, observation.admissible, storable)

    return _play(task, choose)


def relabel(task: AlfworldTask, actions: Sequence[str]) -> Demonstration:
    """Replay an agent's `actions` (until the game is won) and note what the expert would have done at each state.

    Actions that were no admissible commands are played as they are: the environment answers them as it did.
    """

    def choose(step: int, _: Observation, label: str) -> str | None:
        return actions[step] if step < len(actions) else None

    return _play(task, choose)


def _play(task: AlfworldTask, choose: Callable[[int, Observation, str], str | None]) -> Demonstration:
    """Play what `choose` answers to (step, observation, label) until it answers None or the game is won."""
    world = AlfworldEnvironment()
    observation = world.reset(task)
    expert = Expert(observation)
    observations: list[Observation] = []
    actions: list[str] = []
    labels: list[str] = []
    done = False
    for step in count():
        label = expert.act(observation)
        action = None if done else choose(step, observation, label)
        if action is None:
            break
        observations.append(observation)
        labels.append(label)
        actions.append(action)
        transition = world.step(action)
        observation, done = transition.observation, transition.done
        expert.observe(action, observation)
    return Demonstration(task, tuple(observations), tuple(actions), tuple(labels), done)


def _storable(game: Game) -> frozenset[str]:
    """The types that some receptacle of the house takes: who picks up another thing never gets rid of it."""
    present = {receptacle.type for receptacle in game.receptacles}
    return frozenset(thing.lower() for receptacle, thing in game.can_contain if receptacle in present)


def _stray(chance: random.Random, admissible: tuple[str, ...], storable: frozenset[str]) -> str:
    """A random command: first its sort by the weights above, then one of that sort; anything where there is none of it.

    Never `help`, whose answer is as long as six others and says nothing.
    """
    sensible = [
        command
        for command in admissible
        if command != "help" and (not command.startswith("take ") or kind_of(command[5:]) in storable)
    ]
    starts = chance.choices([starts for _, starts in _STRAY], [weight for weight, _ in _STRAY])[0]
    return chance.choice([command for command in sensible if command.startswith(starts)] or sensible)


def _refused(chance: random.Random, admissible: tuple[str, ...]) -> str:
    """A command that reads like an admissible one and is none: a word of one of them in the place of another's.

    That is how a model errs that writes freely: it takes what lies elsewhere, and goes to where it is.
    """
    acting = [command for command in admissible if not command.startswith(("examine ", "help", "inventory", "look"))]
    names = sorted({name for command in admissible for name in _NAME.findall(command)})
    for _ in range(TRIES):
        command = chance.choice(acting)
        command = command.replace(chance.choice(_NAME.findall(command)), chance.choice(names))
        if command not in admissible:
            return command
    return "go to nowhere 1"  # a room with hardly anything in it
