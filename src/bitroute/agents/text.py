"""The reference prompt format, for a model trained from scratch: user turn, action, user turn ... It knows one tokenizer and
what the suite tells the agent, no environment and no model.

An episode is one token sequence, `<|user|>message<|assistant|>action<|end|><|user|>message ...`: exactly what the tokenizer's
chat template renders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from bitroute.engines.constraint import Trie
from bitroute.episode import Message, Observation
from bitroute.nn.tokenizer import ASSISTANT, END, USER, TurnTokenizer


class TextAgent:
    """The reference format for one tokenizer, with a suite's messages. Stateless but for caches."""

    def __init__(self, tokenizer: TurnTokenizer, message: Callable[[Sequence[Observation]], str]) -> None:
        """`message` is the suite's: the user message for the last of an episode's observations."""
        self.tokenizer = tokenizer
        self.message = message
        self.end = tokenizer.end
        self._prompt = lru_cache(maxsize=65536)(self._encode_prompt)
        self._completion = lru_cache(maxsize=65536)(self._encode_completion)
        self._trie = lru_cache(maxsize=8192)(self._build_trie)

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

    def messages(self, observations: Sequence[Observation], actions: Sequence[str]) -> list[Message]:
        """An episode as chat messages: `observations[t]` (the first is the opening) was answered with `actions[t]`.

        One observation more than actions gives a history that ends with a user message.
        """
        turns: list[Message] = []
        for number in range(len(observations)):
            turns.append(Message("user", self.message(observations[: number + 1])))
            if number < len(actions):
                turns.append(Message("assistant", actions[number]))
        return turns

    def _encode_prompt(self, message: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(USER + message + ASSISTANT))

    def _encode_completion(self, action: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(action + END))

    def _build_trie(self, admissible: tuple[str, ...]) -> Trie:
        return Trie.of(self._completion(command) for command in admissible)
