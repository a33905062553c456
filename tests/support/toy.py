"""A task with a known optimum: at each step the message names a colour and how hard it is to read; the action must press it.

The low variant misreads hard colours, the middle one (of a ladder of three) brutal ones, the high one none. An episode succeeds
when every colour was right, so the best router picks at each step the cheapest variant that can read it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from bitroute.agents.template import StepTokens
from bitroute.engines.constraint import Trie
from bitroute.episode import Observation, Task, Transition
from bitroute.nn.tokenizer import Tokenizer, train_tokenizer

COLOURS: Final = ("red", "blue", "green")
LEVELS: Final = ("easy", "hard", "brutal")
COMMANDS: Final = tuple(f"press {colour}" for colour in COLOURS)
WORDS: Final = ("<end>", "<user>", "<assistant>", "press", *LEVELS, *COLOURS, "goal", "win")
END, USER, ASSISTANT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class ToyTask(Task):
    """`screens` are what the steps show, e.g. ("easy red", "hard blue"). `breaks`: what raises, "reset" or a step's number."""

    screens: tuple[str, ...] = ()
    breaks: str = ""

    @property
    def hard(self) -> list[bool]:
        """Which steps are not easy."""
        return [not screen.startswith("easy") for screen in self.screens]


def toy_task(index: int, steps: int = 6, hard: float = 1 / 3, levels: Sequence[str] = ("hard",), seed: int = 0) -> ToyTask:
    """Task `index`: each step is hard with probability `hard`, its level drawn from `levels`."""
    chance = random.Random(f"{seed}|{index}")
    screens = tuple(
        f"{chance.choice(levels) if chance.random() < hard else 'easy'} {chance.choice(COLOURS)}" for _ in range(steps)
    )
    return ToyTask(f"toy-{seed}-{index}", "toy", "test", screens)


class ToyEnvironment:
    """Shows the task's screens one after the other; reward 1 with the last one when nothing wrong was pressed."""

    def __init__(self) -> None:
        self.task = ToyTask("", "", "")
        self.step_number = 0
        self.wrong = False

    def reset(self, task: ToyTask) -> Observation:
        if task.breaks == "reset":
            raise RuntimeError("no such room")
        self.task, self.step_number, self.wrong = task, 0, False
        return self._show()

    def step(self, action: str) -> Transition:
        if self.task.breaks == str(self.step_number):
            raise RuntimeError("the screen went dark")
        self.wrong |= action != f"press {self.task.screens[self.step_number].split()[1]}"
        self.step_number += 1
        if self.step_number == len(self.task.screens):
            return Transition(Observation(""), float(not self.wrong), done=True, success=not self.wrong)
        return Transition(self._show(), 0.0, done=False)

    def copy(self) -> Self:
        return copy.copy(self)

    def _show(self) -> Observation:
        return Observation(self.task.screens[self.step_number], COMMANDS)


class ToyAgent:
    """Words are tokens; every message is the screen and a line with the goal."""

    def message(self, observations: Sequence[Observation]) -> str:
        if "dark" in observations[-1].text:
            raise ValueError("nothing to read")
        return f"{observations[-1].text}\ngoal win"

    def prompt(self, message: str, *, first: bool) -> list[int]:
        return [USER, *(WORDS.index(word) for word in message.split()), ASSISTANT]

    def completion(self, action: str) -> list[int]:
        return [*(WORDS.index(word) for word in action.split()), END]

    def parse(self, tokens: Sequence[int]) -> str:
        return " ".join(WORDS[token] for token in tokens if token != END)

    def constraint(self, admissible: Sequence[str]) -> Trie:
        return Trie.of(self.completion(command) for command in admissible)


class ToyFormat(ToyAgent):
    """The agent's format for recorded episodes: nothing of what was written before is ever written anew."""

    vocab_size = len(WORDS)

    def steps(self, messages: Sequence[str], actions: Sequence[str]) -> Iterator[StepTokens]:
        kept = 0
        for number, (message, action) in enumerate(zip(messages, actions, strict=True)):
            prompt, completion = self.prompt(message, first=number == 0), self.completion(action)
            yield StepTokens(kept, prompt, completion)
            kept += len(prompt) + len(completion)


def toy_tokenizer() -> Tokenizer:
    """A router's tokenizer, one token a word."""
    return train_tokenizer((), 300, ["press", "goal", *LEVELS, *(f" {colour}" for colour in COLOURS), " win"])
