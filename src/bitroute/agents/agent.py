"""What an agent is: it turns observations into prompt tokens and a completion into an action. It never talks to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bitroute.engines.constraint import Trie
from bitroute.episode import Observation


class Agent(Protocol):
    """The prompt format of one kind of task for one tokenizer. Stateless: everything comes in as arguments."""

    end: int  # the token that ends an action

    def message(self, observations: Sequence[Observation]) -> str:
        """The user message for the last of an episode's `observations`; the first is the opening, which contains the goal."""
        ...

    def prompt(self, message: str, *, first: bool) -> list[int]:
        """Token ids from the end of the previous action (or the start of the sequence) to where the next action begins."""
        ...

    def completion(self, action: str) -> list[int]:
        """Token ids of an action with its end-of-turn token, exactly as the model was trained to produce them."""
        ...

    def parse(self, tokens: Sequence[int]) -> str:
        """The action in the generated tokens (the end-of-turn token, if present, is dropped)."""
        ...

    def constraint(self, admissible: Sequence[str]) -> Trie:
        """The set of completions that are admissible commands."""
        ...
