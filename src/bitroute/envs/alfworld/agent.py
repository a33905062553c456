"""ALFWorld's agent: the reference prompt format with the game's messages, and a tokenizer that knows its words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from bitroute.agents.line import LineAgent
from bitroute.agents.text import TextAgent
from bitroute.envs.alfworld.message import GOAL_WORDS, message
from bitroute.envs.alfworld.shorthand import AlfworldShorthand
from bitroute.envs.alfworld.simulator.rooms import FURNITURE
from bitroute.envs.alfworld.simulator.stock import FLOOR, STOCK
from bitroute.episode import Observation
from bitroute.nn.tokenizer import Tokenizer, TurnTokenizer, train_tokenizer

# The commands that win games; the others (look, inventory, examine, slice, help) may be several tokens.
_VERBS: Final = ("go", "take", "move", "open", "close", "use", "heat", "cool", "clean")

VOCABULARY: Final = 768


class AlfworldAgent(TextAgent):
    """The reference format with ALFWorld's messages."""

    def __init__(self, tokenizer: TurnTokenizer) -> None:
        super().__init__(tokenizer, message)


class AlfworldLineAgent(LineAgent):
    """The format of pretrained models with ALFWorld's messages, which it reads in short."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, AlfworldShorthand())

    def message(self, observations: Sequence[Observation]) -> str:
        """The suite's message: routers read it in full."""
        return message(observations)


def train_alfworld_tokenizer(texts: Iterable[str]) -> TurnTokenizer:
    """The tokenizer of ALFWorld's texts: at most `VOCABULARY` ids; one for each word of `vocabulary` and for usual words."""
    return train_tokenizer(texts, VOCABULARY, vocabulary())


def vocabulary() -> list[str]:
    """What must be one token: the names of all receptacles and of the objects that lie in them, the numbers 1 to 50, the words
    of goals and of the commands that win; as they are written, with their leading space unless they begin a command."""
    furniture = {place for room in FURNITURE.values() for place in room}
    things = {thing for room in STOCK.values() for thing, facts in room.items() if set(facts.places) != {FLOOR}}
    names = sorted(name.lower() for name in furniture | things)
    numbers = [str(number) for number in range(1, 51)]
    return [f" {word}" for word in [*names, *numbers, *GOAL_WORDS.values(), "to", "from", "with"]] + list(_VERBS)
