"""Plays the same commands in two engines and reports where they differ; picks commands that are likely to make them differ.

It knows the `Environment` contract and the wording of commands, no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.environment import Environment
from bitroute.episode import Observation

Chooser = Callable[[Observation], str | None]

_IDLE = ("help", "inventory", "look")


@dataclass(frozen=True, slots=True)
class Frame:
    """What an engine answered: `command` is None for the opening."""

    command: str | None
    text: str
    admissible: tuple[str, ...]
    won: bool
    done: bool


def play_both(engine: Environment[AlfworldTask], task: AlfworldTask, choose: Chooser) -> Iterator[Frame]:
    """The opening and then one frame for each command, until the game is won or `choose` returns None."""
    observation = engine.reset(task)
    yield Frame(None, observation.text, observation.admissible, False, False)
    while (command := choose(observation)) is not None:
        outcome = engine.step(command)
        observation = outcome.observation
        yield Frame(command, observation.text, observation.admissible, outcome.success, outcome.done)
        if outcome.done:
            return


def compare(frames: Iterator[Frame], engine: Environment[AlfworldTask], task: AlfworldTask) -> Iterator[tuple[Frame, Frame]]:
    """Replay recorded or running `frames` in `engine`; yields (theirs, ours) for each frame, equal or not."""
    opening = engine.reset(task)
    for theirs in frames:
        if theirs.command is None:
            ours = Frame(None, opening.text, opening.admissible, False, False)
        else:
            outcome = engine.step(theirs.command)
            seen = outcome.observation
            ours = Frame(theirs.command, seen.text, seen.admissible, outcome.success, outcome.done)
        yield theirs, ours


def following(commands: Sequence[str]) -> Chooser:
    """Choose the given commands in turn."""
    left = iter(commands)
    return lambda _: next(left, None)


def wandering(random: Random, steps: int, nonsense: float = 0.25, winning: Sequence[str] = ()) -> Chooser:
    """Random play of at most `steps` commands: verbs first, so that rare ones come up; a share of nonsense; and, with
    `winning` (a walkthrough), now and then its next command, so that held, treated and moved goal objects occur too.
    """
    seen: list[str] = []
    plan = list(winning)
    left = steps

    def choose(observation: Observation) -> str | None:
        nonlocal left
        if left == 0:
            return None
        left -= 1
        seen.extend(observation.admissible)
        if random.random() < nonsense:
            return _nonsense(random, seen)
        if plan and random.random() < 0.3:
            if plan[0] in observation.admissible:
                return plan.pop(0)
            plan.pop(0)
        verbs = sorted({command.split(" ", 1)[0] for command in observation.admissible})
        verb = random.choices(verbs, [1 if verb in _IDLE else 3 for verb in verbs])[0]
        return random.choice([command for command in observation.admissible if command.split(" ", 1)[0] == verb])

    return choose


def _nonsense(random: Random, seen: Sequence[str]) -> str:
    """A command that is probably not admissible: one from earlier, a broken one, or one with parts exchanged."""
    command = random.choice(seen)
    words = command.split(" ")
    match random.randrange(9):
        case 0:
            return command
        case 1:
            return f"  {command}\n"
        case 2:
            return command.upper()
        case 3:
            return command.replace(" ", "  ", 1)
        case 4:
            return " ".join(words[:-1])
        case 5:
            return f"{command} {random.randrange(1, 4)}"
        case 6:
            other = random.choice(seen).split(" ")
            return " ".join([*words[:1], *other[1:]])
        case 7:
            words[random.randrange(len(words))] = random.choice(random.choice(seen).split(" "))
            return " ".join(words)
        case _:
            return random.choice(
                ("", " ", "go to", "take", "put apple 1 in/on desk 1", "use", "examine", "xyzzy", "go to desk")
            )
