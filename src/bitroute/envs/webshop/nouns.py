"""Which words of a title are nouns: the reward takes two products with common nouns for one sort. It knows English titles, no
product.

Upstream asks spaCy's small model. Titles are rows of names, and the model takes nearly every word for one, so the rules here do
without it: a word is a noun unless it is a number, a mark, one of the small words of the grammar, or one of the adjectives and
verbs that the model seldom takes for a name. Words are cut as spaCy cuts them. Where spaCy and a model of it are installed,
`spacy_nouns` gives upstream's own answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Final

from bitroute.errors import CapabilityError

_KEPT: Final = 1 << 14  # titles whose nouns are remembered
_NOUNS: Final = frozenset({"NOUN", "PROPN"})

_GRAMMAR: Final = """
    a all an any both each either every neither no some such that the these this those
    he her hers him his i it its me mine my our ours she their them they us we what which who whom whose you your yours
    about above across after against along among around at before behind below between by during except for from in inside into
    of off on onto out outside over per since than through to toward towards under until up upon via with within without
    although and as because but if nor or plus so though unless when where whether while yet
    am are be been being can could did do does done had has have having is may might must shall should was were will would
    again also always ever just more most much never not now often only then there too very
    one two three four five six seven eight nine ten eleven twelve 's \u2019s
"""
_OTHERS: Final = """
    based comfortable designed discontinued etc floating full fully imported included includes inspired italian large led listed
    made make makes padded powered resealable shaped smoked virtual x
"""
_NO_NOUNS: Final = frozenset((_GRAMMAR + _OTHERS).split())
_MARKS: Final = frozenset("|%\u00b0")  # that the model takes for nouns
_ABBREVIATED: Final = frozenset(("co.", "corp.", "dr.", "inc.", "jr.", "ltd.", "mr.", "mrs.", "ms.", "sr.", "st.", "vs."))

# What is cut off before a word, behind it, and between its parts; hyphens and bars stay at its ends.
_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
_WIDE: Final = "\u3001\u3002\u300c\u300d\u3010\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\uff5e\u00b7"  # East Asian marks
_MARK: Final = rf"[,:;!?()\[\]{{}}<>_#*&\u2026{_WIDE}{_QUOTES}$\u20ac\u00a3\u00a5\u00a9\u00ae\u2122\u00b0\u2605]"
_UNIT: Final = "km|m|dm|cm|mm|nm|ha|yd|in|ft|kg|g|mg|t|lb|oz|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K"
_LETTER: Final = r"[^\W\d_]"
_BEFORE: Final = re.compile(rf"\.\.+|{_MARK}|[%=\u2013\u2014]|\+(?!\d)")
_BEHIND: Final = re.compile(
    rf"(?:\.\.+|''|['\u2019][sS]|{_MARK}|[\u2013\u2014]|(?<=\d)(?:\+|%|{_UNIT})"
    rf"|(?<=[\da-z%])\.|(?<={_MARK})\.|(?<=[A-Z][A-Z])\.)$"
)
_BETWEEN: Final = re.compile(
    r"\.\.+|[\u2026\u00a9\u00ae\u2122\u00b0\u2605$\u20ac\u00a3\u00a5]"
    rf"|(?<=[^\W_])(?:---?|[-\u2013\u2014~])(?={_LETTER})|(?<={_LETTER}),(?={_LETTER})|(?<=[^\W_])[:<>=/](?={_LETTER})"
    r"|(?<=\d)[-+*^](?=[\d-])|(?<=[a-z])\.(?=[A-Z])"
)
_NUMBER: Final = re.compile(r"[\d.,/+x\u00d7-]*\d[\d.,/+x\u00d7-]*", re.IGNORECASE)


@lru_cache(maxsize=_KEPT)
def nouns_of(title: str) -> tuple[str, ...]:
    """The nouns of a title in lower case, as often as they occur."""
    return tuple(word.lower() for word in words(title) if _is_noun(word))


def spacy_nouns(model: str = "en_core_web_sm") -> Callable[[str], tuple[str, ...]]:
    """What `nouns_of` does, by a model of spaCy. Raises CapabilityError where spaCy or the model is not installed."""
    try:
        tagged = import_module("spacy").load(model)
    except (ImportError, OSError) as error:
        raise CapabilityError(f"no nouns by spaCy's model {model}: {error}") from None
    return lru_cache(maxsize=_KEPT)(lambda title: tuple(token.text.lower() for token in tagged(title) if token.pos_ in _NOUNS))


def words(title: str) -> list[str]:
    """The words and marks of a title, cut as spaCy cuts English."""
    return [word for chunk in title.split() for word in _cut(chunk)]


def _cut(chunk: str) -> list[str]:
    """The words of a chunk between blanks; each mark before, between and behind them is a word of its own."""
    before: list[str] = []
    behind: list[str] = []
    while chunk and chunk.lower() not in _ABBREVIATED:
        if found := _BEFORE.match(chunk):
            before.append(found[0])
            chunk = chunk[found.end() :]
        elif found := _BEHIND.search(chunk):
            behind.append(found[0])
            chunk = chunk[: found.start()]
        else:
            break
    inside: list[str] = []
    start = 0
    for mark in _BETWEEN.finditer(chunk):
        inside += (chunk[start : mark.start()], mark[0])
        start = mark.end()
    return [word for word in (*before, *inside, chunk[start:], *reversed(behind)) if word]


def _is_noun(word: str) -> bool:
    if not any(map(str.isalnum, word)):
        return word in _MARKS
    return word.lower() not in _NO_NOUNS and not _NUMBER.fullmatch(word)
