"""Constrained decoding over a finite set of completions: a trie of token ids. Purely token ids here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Trie:
    """A set of token sequences, walked one token at a time. Each sequence ends with the end-of-turn token."""

    children: dict[int, Trie] = field(default_factory=dict)

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Trie:
        """The trie that holds exactly `sequences`."""
        root = cls()
        for sequence in sequences:
            node = root
            for token in sequence:
                child = node.children.get(token)
                if child is None:
                    child = node.children[token] = cls()
                node = child
        return root

    @property
    def allowed(self) -> list[int]:
        """Token ids that may come next, in insertion order; empty at the end of a sequence."""
        return list(self.children)

    def walk(self, tokens: Iterable[int]) -> Iterator[Trie]:
        """The nodes before each of `tokens`, from this one on. Raises KeyError where the trie does not continue so."""
        node = self
        for token in tokens:
            yield node
            node = node.children[token]
