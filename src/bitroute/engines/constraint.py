"""Constrained decoding over a finite set of completions: a trie of token ids. Purely token ids here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


class Trie:
    """A set of token sequences, walked one token at a time. Each sequence ends with the end-of-turn token.

    A node's children are made when somebody asks for them: of some thirty commands one is walked along. Sequences are kept, not
    copied: do not change them.
    """

    __slots__ = ("_children", "_depth", "_sequences")

    def __init__(self, sequences: Sequence[Sequence[int]] = (), depth: int = 0) -> None:
        """`sequences` are alike in their first `depth` tokens; the node stands behind these."""
        self._sequences, self._depth = sequences, depth
        self._children: dict[int, Trie] | None = None

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> Trie:
        """The trie that holds exactly `sequences`."""
        return cls(tuple(sequences))

    @property
    def children(self) -> dict[int, Trie]:
        """The node behind each token that may come next, in insertion order; none at the end of a sequence."""
        if self._children is None:
            depth, groups = self._depth, dict[int, list[Sequence[int]]]()
            for sequence in self._sequences:
                if len(sequence) > depth:
                    groups.setdefault(sequence[depth], []).append(sequence)
            self._children = {token: Trie(group, depth + 1) for token, group in groups.items()}
        return self._children

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
