"""An agent made from a model's own chat template: observations are the user's messages, actions the assistant's.

It knows a template and no task. Played, its turns are appended one after the other; recorded, an episode reads exactly as the
template renders it at each step, tools included where the template has a form for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache

from bitroute.agents.messages import ChatMessage, conversation, read_answer
from bitroute.agents.template import ChatTemplate, StepTokens
from bitroute.engines.constraint import Trie
from bitroute.episode import Observation

log = logging.getLogger(__name__)


class ChatAgent:
    """The prompt format of `template`, with an optional `system` message before everything. Stateless but for caches.

    An action is the assistant's text; one that spells calls of tools (`name arguments` lines, see agents/messages.py) is
    written as the template writes calls.
    """

    def __init__(self, template: ChatTemplate, system: str | None = None) -> None:
        self.template = template
        self.end = template.end
        self._warned = False
        self._opening = [] if system is None else [ChatMessage("system", system)]
        self._prompt = lru_cache(maxsize=65536)(self._encode_prompt)
        self._completion = lru_cache(maxsize=65536)(self._encode_completion)
        self._trie = lru_cache(maxsize=8192)(self._build_trie)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.template.vocab_size

    def message(self, observations: Sequence[Observation]) -> str:
        """The newest observation's text: the goal stands in the chat's first message, which the model still reads."""
        return observations[-1].text

    def prompt(self, message: str, *, first: bool) -> list[int]:
        """Token ids of a user's message, from the end of the previous answer (or the chat's beginning) to the next answer.

        Where the template would write the chat's earlier turns anew, they stay as they were; the log says so once.
        """
        return list(self._prompt(message, first))

    def completion(self, action: str) -> list[int]:
        """Token ids of an answer and its end token."""
        return list(self._completion(action))

    def parse(self, tokens: Sequence[int]) -> str:
        """The text before the first end token. Calls of tools stay in the template's own spelling."""
        return self.template.parse(tokens)

    def constraint(self, admissible: Sequence[str]) -> Trie:
        """The trie of the completions of `admissible`. It is shared between calls: read it, do not change it."""
        return self._trie(tuple(admissible))

    def steps(self, messages: Sequence[str], actions: Sequence[str]) -> Iterator[StepTokens]:
        """The tokens of each step of a recorded episode, exactly as the template renders the chat up to it.

        Raises DataError, when it comes to it, for a step that the template refuses.
        """
        return self.template.steps([*self._opening, *conversation(messages, actions, tools=self.template.renders_calls)])

    def _encode_prompt(self, message: str, first: bool) -> tuple[int, ...]:
        told = ChatMessage("user", message)
        if first:
            return tuple(self.template.opened(self._opening, told))
        if not self.template.incremental and not self._warned:
            self._warned = True
            log.warning(
                "%s: the chat template writes earlier turns anew as a chat goes on; here they stay as they were played",
                self.template.source,
            )
        return tuple(self.template.following(self._opening, told))

    def _encode_completion(self, action: str) -> tuple[int, ...]:
        answer = read_answer(action) if self.template.renders_calls else ChatMessage("assistant", action)
        return tuple(self.template.answered(self._opening, answer))

    def _build_trie(self, admissible: tuple[str, ...]) -> Trie:
        return Trie.of(self._completion(command) for command in admissible)
