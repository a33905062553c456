"""The prompt format for a model that was trained on text: messages and actions are lines of one text. It knows one tokenizer
and how the suite shortens its texts, no environment and no model.

An episode reads like the transcript of a terminal, `message\n> action\nmessage\n> action\n`: a newline ends an action, so no
token of the format is new to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from bitroute.engines.constraint import Trie
from bitroute.episode import Observation
from bitroute.errors import DataError
from bitroute.nn.tokenizer import Tokenizer

PROMPT = ">"
END = "\n"


class Shorthand(Protocol):
    """How a suite's texts are written for the model: shorter ones cost fewer tokens."""

    def message(self, text: str) -> str:
        """What stands for a message; it need not be possible to tell the message from it."""
        ...

    def write(self, action: str) -> str:
        """What stands for an action: one line, another one for another action."""
        ...

    def read(self, line: str) -> str:
        """The action that a line stands for; a line that stands for none is told as it is."""
        ...


class LineAgent:
    """The format for one tokenizer, with a suite's shorthand. Stateless but for caches."""

    def __init__(self, tokenizer: Tokenizer, shorthand: Shorthand) -> None:
        """Raises DataError when the tokenizer has no token for a newline."""
        self.tokenizer = tokenizer
        self.shorthand = shorthand
        ends = tokenizer.encode(END)
        if len(ends) != 1:
            raise DataError("tokenizer.json: a newline is not one token, so that no token can end an action")
        (self.end,) = ends
        self._prompt = lru_cache(maxsize=65536)(self._encode_prompt)
        self._completion = lru_cache(maxsize=65536)(self._encode_completion)
        self._trie = lru_cache(maxsize=8192)(self._build_trie)

    def message(self, observations: Sequence[Observation]) -> str:
        """The newest observation's text; a suite may add to it."""
        return observations[-1].text

    def prompt(self, message: str, *, first: bool) -> list[int]:
        """Token ids of a message and of the line's beginning that asks for an action. `first` changes nothing."""
        return list(self._prompt(message))

    def completion(self, action: str) -> list[int]:
        """Token ids of an action and the newline."""
        return list(self._completion(action))

    def parse(self, tokens: Sequence[int]) -> str:
        """The action on the first generated line."""
        line = self.tokenizer.decode(tokens).split(END, 1)[0]
        return self.shorthand.read(line.removeprefix(" "))

    def constraint(self, admissible: Sequence[str]) -> Trie:
        """The trie of the completions of `admissible`. It is shared between calls: read it, do not change it."""
        return self._trie(tuple(admissible))

    def _encode_prompt(self, message: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(f"{self.shorthand.message(message)}\n{PROMPT}"))

    def _encode_completion(self, action: str) -> tuple[int, ...]:
        """The space before the word is the word's: pieces of text are never merged across it, so an action has the same tokens
        behind its prompt and alone."""
        return tuple(self.tokenizer.encode(f" {self.shorthand.write(action)}{END}"))

    def _build_trie(self, admissible: tuple[str, ...]) -> Trie:
        return Trie.of(self._completion(command) for command in admissible)
