"""ALFWorld's prompt format: the observation verbatim, then one short line that recalls the goal and ends with its object.

It knows the game's texts and one tokenizer, no simulator and no model. An episode is one token sequence,
`<|user|>message<|assistant|>action<|end|><|user|>message ...`: exactly what the tokenizer's chat template renders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from bitroute.engines.constraint import Trie
from bitroute.envs.alfworld.message import GOAL_WORDS, message
from bitroute.envs.alfworld.simulator.rooms import FURNITURE
from bitroute.envs.alfworld.simulator.stock import FLOOR, STOCK
from bitroute.episode import Message, Observation
from bitroute.nn.tokenizer import ASSISTANT, END, USER, Tokenizer, train_tokenizer

# The commands that win games; the others (look, inventory, examine, slice, help) may be several tokens.
_VERBS: Final = ("go", "take", "move", "open", "close", "use", "heat", "cool", "clean")

VOCABULARY: Final = 768


class AlfworldAgent:
    """The format of one tokenizer's ALFWorld agent. Stateless but for caches: the same texts come back in every episode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.end
        self._prompt = lru_cache(maxsize=65536)(self._encode_prompt)
        self._completion = lru_cache(maxsize=65536)(self._encode_completion)
        self._trie = lru_cache(maxsize=8192)(self._build_trie)

    def message(self, opening: Observation, observation: Observation) -> str:
        """The observation's text without the welcome line, then `Goal: <where> <how> <what>` on a line of its own."""
        return message(opening, observation)

    def prompt(self, message: str, *, first: bool) -> list[int]:
        """Token ids of a user turn with the marker that begins the action. The format has no start token: `first` changes
        nothing."""
        return list(self._prompt(message))

    def completion(self, action: str) -> list[int]:
        """Token ids of an action and its end-of-turn token."""
        return list(self._completion(action))

    def parse(self, tokens: Sequence[int]) -> str:
        """The text before the first end-of-turn token; whatever was generated, it is returned verbatim."""
        ids = list(tokens)
        if self.tokenizer.end in ids:
            ids = ids[: ids.index(self.tokenizer.end)]
        return self.tokenizer.decode(ids)

    def constraint(self, admissible: Sequence[str]) -> Trie:
        """The trie of the completions of `admissible`. It is shared between calls: read it, do not change it."""
        return self._trie(tuple(admissible))

    def messages(self, opening: Observation, observations: Sequence[Observation], actions: Sequence[str]) -> list[Message]:
        """An episode as chat messages: `observations[t]` (the first is the opening) was answered with `actions[t]`.

        One observation more than actions gives a history that ends with a user message.
        """
        turns: list[Message] = []
        for number, observation in enumerate(observations):
            turns.append(Message("user", self.message(opening, observation)))
            if number < len(actions):
                turns.append(Message("assistant", actions[number]))
        return turns

    def _encode_prompt(self, message: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(USER + message + ASSISTANT))

    def _encode_completion(self, action: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(action + END))

    def _build_trie(self, admissible: tuple[str, ...]) -> Trie:
        return Trie.of(self._completion(command) for command in admissible)


def train_alfworld_tokenizer(texts: Iterable[str]) -> Tokenizer:
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
