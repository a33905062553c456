"""The toy as a suite: the second one beside ALFWorld, small enough for the whole method in a test.

Its tasks are those of `toy`. What a low variant misreads is not scripted here: the model is a real, tiny one, trained on the
suite's own demonstrations and rounded to two bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bitroute.agents.agent import Agent
from bitroute.agents.text import TextAgent
from bitroute.envs.suite import Role, SuiteDefaults
from bitroute.episode import Observation, first_word
from bitroute.errors import ConfigError
from bitroute.nn.tokenizer import Tokenizer
from bitroute.nn.weighted import WeightedSequence
from support.toy import ToyEnvironment, ToyTask, toy_task


class SilentToySuite:
    """The toy without anybody who shows how it is played."""

    name = "toy"
    title = "Toy"
    splits: Mapping[str, Role] = {
        "words": Role.LM,
        "practice": Role.TRAIN,
        "rehearsal": Role.VALIDATION,
        "performance": Role.TEST,
    }
    failures: tuple[str, ...] = ()
    models: Path | None = None
    defaults = SuiteDefaults(model=Path("toy-model"), low="w2g32-rtn", max_steps=8, budgets=(0.4,))

    def __init__(self, data: Path | None = None) -> None:
        assert data is None, "the toy has no published files"

    def check(self, split: str) -> None:
        if split not in self.splits:
            raise ConfigError(f"unknown split {split!r}; want {', '.join(self.splits)}")

    def size(self, split: str) -> int | None:
        self.check(split)
        return None

    def task(self, split: str, index: int) -> ToyTask:
        self.check(split)
        return replace(toy_task(index, steps=4, seed=list(self.splits).index(split)), id=f"{split}-{index}", split=split)

    def environment(self) -> ToyEnvironment:
        return ToyEnvironment()

    def message(self, observations: Sequence[Observation]) -> str:
        return f"{observations[-1].text}\ngoal win"

    def agent(self, tokenizer: Tokenizer) -> Agent:
        return TextAgent(tokenizer, self.message)

    def action_kind(self, action: str) -> str:
        return first_word(action)


class ToySuite(SilentToySuite):
    """The toy with demonstrations."""

    def demonstrations(self, agent: Agent, *, seed: int, published: bool = False) -> Callable[[int], WeightedSequence]:
        def sequence(index: int) -> WeightedSequence:
            tokens: list[int] = []
            weights: list[float] = []
            for number, screen in enumerate(self.task("words", seed * 100_000 + index).screens):
                prompt = agent.prompt(self.message([Observation(screen)]), first=number == 0)
                action = agent.completion(f"press {screen.split()[1]}")
                tokens += prompt + action
                weights += [0.0] * len(prompt) + [1.0] * len(action)
            return WeightedSequence(tokens, weights)

        return sequence

    def calibration(self, agent: Agent) -> Iterator[list[int]]:
        source = self.demonstrations(agent, seed=0)
        return (source(index).tokens for index in range(100_000))
