from __future__ import annotations

from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.envs.webshop.matching import COLOURS, alike, colour, plain

WORDS = st.sampled_from(
    ["long", "sleeve", "sleeves", "heavy", "duty", "dry", "fluid", "color", "black", "blck", "3x", "\u00e9t\u00e9", "\u65e5"]
)
TEXTS = st.one_of(st.lists(WORDS, max_size=5).map(" ".join), st.text("ab\u00e9 '-_1", max_size=8))


def ratio(text: str, other: str) -> int:
    """The token set ratio without any short cut."""
    first, second = set(plain(text).split()), set(plain(other).split())
    if not first or not second:
        return 0
    common = " ".join(sorted(first & second))
    left = (common + " " + " ".join(sorted(first - second))).strip()
    right = (common + " " + " ".join(sorted(second - first))).strip()
    pairs = [(common, left), (common, right), (left, right)]
    return max(round(100 * SequenceMatcher(None, a, b).ratio()) if a else 0 for a, b in pairs)


@given(TEXTS, TEXTS)
@settings(max_examples=150, deadline=None)
def test_short_cuts_change_no_verdict(text: str, other: str) -> None:
    assert alike(text, other) == (ratio(text, other) > 85)


@pytest.mark.parametrize(
    ("text", "other", "equal"),
    [
        ("long sleeve", "long sleeve", True),
        ("sleeve long", "Long Sleeve!", True),
        ("long sleeve", "sleeve", True),  # all words of one are words of the other
        ("long sleeve", "long sleeves", True),
        ("long sleeve", "short sleeve", False),
        ("easy clean", "easy to use", False),
        ("abcdefg", "abcdefgh", True),
        ("abcdef", "abcdefg", True),  # 92.3
        ("abc", "abcd", True),  # 85.7 is 86 as a whole percentage
        ("ab", "abc", False),  # 80
        ("blue", "('color', 'blue')", True),
        ("black", "('color', 'black2626')", False),
        ("", "", False),
        ("\u2605", "\u2605", False),  # equal texts without a word are not alike
        ("caf\u00e9", "caf", True),  # letters of Latin-1 are dropped
        ("\u65e5\u672c", "\u65e5\u672c", True),  # others are not
        ("a_b", "a b", False),
    ],
)
def test_alike(text: str, other: str, equal: bool) -> None:
    assert alike(text, other) is equal


def test_plain_texts() -> None:
    assert plain(" It's 3.5mm, D\u00c9J\u00c0-vu! ") == "it s 3 5mm  dj vu"
    assert plain("under_score \u2019 \u65e5") == "under_score   \u65e5"
    assert plain("\u00a9\u00df") == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dark blue", "blue"),  # in the order of the list, not of the text
        ("standard", "tan"),  # within a word
        ("d1-hot pink", "pink"),
        ("stonewash", "ash"),  # before `stone`
        ("greyish", "grey"),
        ("Blue", "Blue"),  # as it is written
        ("xx-large", "xx-large"),
        ("", ""),
    ],
)
def test_the_first_colour_of_the_list_stands_for_the_text(text: str, name: str) -> None:
    assert colour(text) == name


def test_colours_are_sorted_and_there_once() -> None:
    assert len(set(COLOURS)) == len(COLOURS) == 102
    assert list(COLOURS) == sorted(COLOURS)
