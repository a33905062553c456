"""From text to terms, as Lucene's English analysis in Anserini 0.14 makes them. It knows one text, no index.

Words are cut (`word_break`), lose a possessive 's, become lower case; 33 stop words go, the rest is stemmed (`stemmer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from bitroute.envs.webshop.search.stemmer import stem
from bitroute.envs.webshop.search.word_break import words

# fmt: off
_STOP_WORDS: Final = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of", "on",
    "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
))
# fmt: on
_POSSESSIVES: Final = tuple(mark + s for mark in "'\u2019\uff07" for s in "sS")

# Java lowers each character by itself: the one that Python makes two of.
_LOWER: Final = {"\u0130": "i"}


def terms(text: str) -> list[str]:
    """The terms of a document or a query in order, repeats included. No term is longer than 255 UTF-16 units."""
    return [term for word in words(text) if (term := _term(word)) is not None]


def document_text(title: str, description: str, first_bullet: str, options: Mapping[str, Sequence[str]]) -> str:
    """What WebShop indexes of a product. `options` are the values by name, as the pages show them, in file order."""
    choices = ", and ".join(f"{name}: {', '.join(values)}" for name, values in options.items())
    return f"{title} {description} {first_bullet} {choices}".lower()


@lru_cache(maxsize=1 << 17)
def _term(word: str) -> str | None:
    """None for a stop word."""
    if word.endswith(_POSSESSIVES):
        word = word[:-2]
    word = word.lower() if word.isascii() else "".join(_LOWER.get(letter) or letter.lower() for letter in word)
    if word in _STOP_WORDS:
        return None
    if max(word) <= "\uffff":
        return stem(word)
    # Java counts a character beyond the first 65,536 as two.
    units = memoryview(word.encode("utf-16-le")).cast("H")
    return stem("".join(map(chr, units))).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
