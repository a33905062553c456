"""What a suite is: an environment with its tasks, the agent's prompt format, and the models that come with it.

Everything outside a suite's own folder asks it by this contract: the command line, the experiment, worker processes, reports.
A suite's module is imported wherever its name is used, so it leaves torch and other heavy packages to its methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bitroute.errors import CapabilityError, ConfigError

if TYPE_CHECKING:  # the command line's help lists suites: it does without their packages
    from bitroute.agents.agent import Agent
    from bitroute.envs.environment import Environment
    from bitroute.episode import Observation, Task
    from bitroute.nn.tokenizer import Tokenizer
    from bitroute.nn.weighted import WeightedSequence


class Role(StrEnum):
    """What a split is there for; no task stands in two of them."""

    LM = "lm"  # the agent's language model learns from it
    TRAIN = "train"  # routers learn from it
    VALIDATION = "validation"  # every choice is made on it: tau, epochs, thresholds
    TEST = "test"  # played at the end, with everything frozen
    EXTRA = "extra"  # for other questions


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteDefaults:
    """What an experiment on the suite takes where its configuration says nothing.

    `model`, `backbone` and `router` (a trained one, for demonstrations) are names of bundled models or paths; `low` is a
    scheme, `budgets` are shares K, `max_steps` ends an episode.
    """

    model: Path
    low: str
    max_steps: int
    budgets: tuple[float, ...] = (0.03, 0.05, 0.1, 0.2, 0.3)
    backbone: Path | None = None
    router: Path | None = None


class Suite(Protocol):
    """The contract. A suite is made by `Suite(data)`: `data` is the directory of files that its publisher offers, None stands
    for wherever the suite looks by itself.
    """

    name: str  # on the command line and in configurations
    title: str  # in reports
    splits: Mapping[str, Role]  # those that need no data; in the order of listings
    failures: tuple[str, ...]  # phrases by which the environment refuses an action, in lower case
    models: Path | None  # folder of the bundled models: each a directory whose name is the model's
    defaults: SuiteDefaults

    def check(self, split: str) -> None:
        """Raise ConfigError when no split has this name; whether the files of a published one are here is another question."""
        ...

    def size(self, split: str) -> int | None:
        """How many tasks a split has, None where as many as one asks for. Raises ConfigError as `check` does, and when the
        split's files are not here.
        """
        ...

    def task(self, split: str, index: int) -> Task:
        """Task `index` (from 0) of a split: the same one forever. Raises ConfigError for an unknown split and for an index
        beyond its end, DataError for a damaged file.
        """
        ...

    def environment(self) -> Environment[Any]:
        """An environment that plays the suite's tasks."""
        ...

    def message(self, observations: Sequence[Observation]) -> str:
        """The user message for the last of an episode's `observations`; the first is the opening, which contains the goal."""
        ...

    def agent(self, tokenizer: Tokenizer) -> Agent:
        """The agent's prompt format for a tokenizer."""
        ...

    def action_kind(self, action: str) -> str:
        """The group of an action in tables, e.g. its verb."""
        ...


@runtime_checkable
class Demonstrating(Protocol):
    """A suite whose tasks somebody can show how to solve: a language model can be trained for it."""

    def demonstrations(self, agent: Agent, *, seed: int, published: bool = False) -> Callable[[int], WeightedSequence]:
        """Endless expert episodes for training: sequence i is a pure function of seed and i. With `published` the publisher's
        own training tasks are mixed in; ConfigError where they are not here.
        """
        ...


@runtime_checkable
class Calibrating(Protocol):
    """A suite that says which episodes a quantiser should see; of any other one it sees demonstrations."""

    def calibration(self, agent: Agent) -> Iterator[list[int]]:
        """Expert episodes of the LM split as token ids."""
        ...


def split_for(suite: Suite, role: Role) -> str:
    """The first split with `role`. Raises CapabilityError when the suite has none."""
    for name, given in suite.splits.items():
        if given is role:
            return name
    raise CapabilityError(f"suite {suite.name} has no split for the role {role}")


def check_tasks(suite: Suite, split: str, count: int) -> None:
    """Raise ConfigError unless `split` exists and has `count` tasks."""
    suite.check(split)
    size = suite.size(split)
    if size is not None and count > size:
        raise ConfigError(f"split {split} has {size} tasks, fewer than the {count} asked for")


def demonstrating(suite: Suite) -> Demonstrating:
    """The suite as one that demonstrates. Raises CapabilityError when it does not."""
    if not isinstance(suite, Demonstrating):
        raise CapabilityError(
            f"suite {suite.name} has no demonstrations: neither training a language model nor GPTQ can use it"
        )
    return suite
