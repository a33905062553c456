"""ALFWorld as a suite: generated games without end, the publisher's where their files are, and the reference agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.message import message
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.alfworld.simulator.load import SPLITS as PUBLISHED_NAMES
from bitroute.envs.alfworld.simulator.load import find_games, load_split, load_task
from bitroute.envs.suite import Role, SuiteDefaults, check_tasks
from bitroute.episode import Observation, first_word
from bitroute.errors import ConfigError
from bitroute.nn.weighted import WeightedSequence

if TYPE_CHECKING:
    from bitroute.agents.agent import Agent
    from bitroute.envs.alfworld.agent import AlfworldAgent, AlfworldLineAgent
    from bitroute.nn.tokenizer import Tokenizer

OFFICIAL: Final = "official-"  # "official-valid_seen": the publisher's split of that name
CALIBRATION_NOISE: Final = 0.15  # probability of a stray action in the episodes that quantisers see


STEPS: Final = 30  # that a task has for each of its goals


class AlfworldSuite:
    """ALFWorld. `data` is the directory that holds `json_2.1.1`; None stands for $ALFWORLD_DATA.

    With `goals` above one, each task asks for so many goals in one household. The publisher has no such games.
    """

    splits: Mapping[str, Role] = MappingProxyType(
        {
            "lm-train": Role.LM,
            "seen": Role.EXTRA,
            "router-train": Role.TRAIN,
            "validation": Role.VALIDATION,
            "unseen": Role.TEST,
        }
    )
    failures: tuple[str, ...] = ("nothing happens",)
    models: Path | None = Path(__file__).parent / "models"

    def __init__(self, data: Path | None = None, goals: int = 1) -> None:
        if goals < 1:
            raise ConfigError(f"a task of ALFWorld has at least one goal, not {goals}")
        self.data, self.goals = data, goals
        several = goals > 1
        self.name = f"alfworld-{goals}" if several else "alfworld"
        self.title = f"ALFWorld, {goals} goals" if several else "ALFWorld"
        self.defaults = SuiteDefaults(
            model=Path("alfworld-agent-goals" if several else "alfworld-agent"),
            backbone=Path("alfworld-router"),
            router=None if several else Path("alfworld-router-trained"),
            low="w2g128-rtn",
            max_steps=STEPS * goals,
        )
        self._games = lru_cache(maxsize=4)(lambda name: find_games(data, name))

    def check(self, split: str) -> None:
        """As the contract says; a published split is any name behind `OFFICIAL`."""
        if split in self.splits or (self.goals == 1 and split.startswith(OFFICIAL)):
            return
        published = f" or {OFFICIAL}NAME, e.g. {OFFICIAL}valid_seen" if self.goals == 1 else ""
        raise ConfigError(f"unknown split {split!r}; want {', '.join(self.splits)}{published}")

    def size(self, split: str) -> int | None:
        """The number of a published split's games; generated splits have no end."""
        self.check(split)
        return len(self._games(split.removeprefix(OFFICIAL))) if split.startswith(OFFICIAL) else None

    def task(self, split: str, index: int) -> AlfworldTask:
        """As the contract says. Raises DataError for a game file that is missing or truncated."""
        self.check(split)
        if not split.startswith(OFFICIAL):
            return splits.task(split, index, self.goals)
        check_tasks(self, split, index + 1)
        name = split.removeprefix(OFFICIAL)
        return load_task(self._games(name)[index], PUBLISHED_NAMES.get(name, name))

    def environment(self) -> AlfworldEnvironment:
        """The native engine."""
        return AlfworldEnvironment()

    def message(self, observations: Sequence[Observation]) -> str:
        """The newest observation's text and a line that recalls the goals."""
        return message(observations)

    def agent(self, tokenizer: Tokenizer) -> AlfworldAgent | AlfworldLineAgent:
        """The reference agent's format for a tokenizer with markers of turns, for any other one lines of text in short."""
        from bitroute.envs.alfworld.agent import AlfworldAgent, AlfworldLineAgent  # noqa: PLC0415  (tokenizers is an extra)
        from bitroute.nn.tokenizer import TurnTokenizer  # noqa: PLC0415

        return AlfworldAgent(tokenizer) if isinstance(tokenizer, TurnTokenizer) else AlfworldLineAgent(tokenizer)

    def action_kind(self, action: str) -> str:
        """The verb."""
        return first_word(action)

    def demonstrations(self, agent: Agent, *, seed: int, published: bool = False) -> Callable[[int], WeightedSequence]:
        """Noisy expert episodes of `lm-train`, of one goal up to the suite's number, about as many tokens of each; with
        `published` every now and then one of the official training games.
        """
        from bitroute.agents.line import LineAgent  # noqa: PLC0415
        from bitroute.envs.alfworld.corpus import PRETRAINED, SCRATCH, expert_source  # noqa: PLC0415

        official = list(load_split(self.data, "train")) if published else ()
        return expert_source(agent, seed, official, self.goals, PRETRAINED if isinstance(agent, LineAgent) else SCRATCH)

    def calibration(self, agent: Agent) -> Iterator[list[int]]:
        """Expert episodes of `lm-train` with a few stray actions."""
        from bitroute.envs.alfworld.corpus import weigh  # noqa: PLC0415
        from bitroute.envs.alfworld.demonstrations import demonstrate  # noqa: PLC0415

        for task in splits.tasks("lm-train", goals=self.goals):
            yield weigh(agent, demonstrate(task, seed=0, noise=CALIBRATION_NOISE)).tokens


def two_goals(data: Path | None = None) -> AlfworldSuite:
    """`alfworld-2`: two goals in one household, 60 steps."""
    return AlfworldSuite(data, goals=2)


def three_goals(data: Path | None = None) -> AlfworldSuite:
    """`alfworld-3`: three goals in one household, 90 steps."""
    return AlfworldSuite(data, goals=3)
