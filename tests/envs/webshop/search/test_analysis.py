"""Words, stems and terms are Lucene's: expected values were printed by Anserini 0.14.3's own analyzer."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from hashlib import blake2b
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.envs.webshop.search.analysis import document_text, terms
from bitroute.envs.webshop.search.stemmer import stem
from bitroute.envs.webshop.search.word_break import LONGEST, words

ZWJ, COLOUR, TEXT, KEYCAP, SKIN = "\u200d", "\ufe0f", "\ufe0e", "\u20e3", "\U0001f3fb"
WOMAN, HEART, LAPTOP, FINGER = "\U0001f469", "\u2764", "\U0001f4bb", "\u261d"
U, S = "\U0001f1fa", "\U0001f1f8"  # regional indicators


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.5mm don't 5'6 u.s.a the_best", ["3.5mm", "don't", "5'6", "u.s.a", "the_best"]),
        (
            "finish/frame description:solid 10:30 1,000 a,b",
            ["finish", "frame", "description:solid", "10", "30", "1,000", "a", "b"],
        ),
        ("4k@60hz c++ 50% $5 -5 e-mail __ __a_ a__1", ["4k", "60hz", "c", "50", "5", "5", "e", "mail", "__a_", "a__1"]),
        ("dogs' 'dogs a..b a.'b 1.b 1.,2 .5 5.", ["dogs", "dogs", "a", "b", "a", "b", "1", "b", "1", "2", "5", "5"]),
        ("na\u00efve e\u0301a so\u00adft a\u200db a\u200bb", ["na\u00efve", "e\u0301a", "so\u00adft", "a\u200db", "a", "b"]),
        ("l\u00b7l a\u2019b a\u2018b \u2019tis 2\u20443", ["l\u00b7l", "a\u2019b", "a\u2018b", "tis", "2\u20443"]),
        # Changed in later versions of Unicode, so that other libraries join these.
        ("a\u00b8b a\u02d7b a\u055fb", ["a", "b", "a\u02d7b", "a", "b"]),
        (
            '\u05d0\'\u05d1 \u05d0\' \u05d0"\u05d1 \u05d0" a"b',
            ["\u05d0'\u05d1", "\u05d0'", '\u05d0"\u05d1', "\u05d0", "a", "b"],
        ),
        ("\u30a2\u30a4 a\u30a2 a_\u30a2 \u3042\u3044", ["\u30a2\u30a4", "a", "\u30a2", "a_\u30a2", "\u3042", "\u3044"]),
        ("\u65e5\u672c \ud55c\uad6d\uc5b4 \u65e5\u0301", ["\u65e5", "\u672c", "\ud55c\uad6d\uc5b4", "\u65e5\u0301"]),
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 a\u0e31 \uff11\uff12",
            ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "a\u0e31", "\uff11\uff12"],
        ),
        ("\u00a9\u00ae\u2122\u2605 \u2022 \u2713 \u2714", ["\u00a9", "\u00ae", "\u2122", "\u2605", "\u2714"]),
        (f"{HEART}{COLOUR}{HEART}{TEXT}{HEART}", [HEART + COLOUR, HEART, HEART]),
        (f"{FINGER}{SKIN}{LAPTOP}{SKIN}", [FINGER + SKIN, LAPTOP, SKIN]),
        *[(pictures, [pictures]) for pictures in (f"{WOMAN}{ZWJ}{LAPTOP}", f"{WOMAN}{SKIN}{ZWJ}{HEART}{COLOUR}{ZWJ}{WOMAN}")],
        (f"{U}{S}{U} {U} 1{KEYCAP} #{KEYCAP} *{COLOUR}{KEYCAP} # *", [U + S, f"1{KEYCAP}", f"#{KEYCAP}", f"*{COLOUR}{KEYCAP}"]),
        ("\u2139 \u2139a \u24c2b \u24c2\ufe0f", ["\u2139", "\u2139a", "\u24c2b", "\u24c2\ufe0f"]),
        (f"\u2139{ZWJ}{HEART} \u2139{ZWJ}\u2139a", [f"\u2139{ZWJ}{HEART}", f"\u2139{ZWJ}\u2139a"]),
        ("\ud800 a\udc00b \x00", ["a", "b"]),
    ],
)
def test_words_are_cut_where_lucene_cuts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


CHARACTERS = [*range(0xD800), *range(0xE000, 0x10000), *range(0x1F000, 0x20000)]
OF_EACH_CLASS = (
    "a\u05d01\u30a2_:,.'\"\u0301\u200d\ufe0f\ufe0e\u20e3\u0e01\u0e31\u4e00\u3042\u2605\u261d\u2139\U0001f3fb\U0001f1fa# "
)
OF_PICTURES = "\u200d\ufe0f\u2605\u261d\u2139\U0001f3fb\u0301a"


@pytest.mark.parametrize(
    ("texts", "digest"),
    [
        ((f"a{chr(c)}b 1{chr(c)}2 {chr(c)}" for c in CHARACTERS), "2457b35159ab8934"),
        (("".join(letters) for letters in product(OF_EACH_CLASS, repeat=3)), "f5c1077dc61785c7"),
        (("".join(letters) for letters in product(OF_PICTURES, repeat=5)), "2a890d79998b2362"),
    ],
    ids=["each character", "each class beside each", "pictures"],
)
def test_all_cases_together_are_cut_where_lucene_cuts(texts: Iterable[str], digest: str) -> None:
    """The digest is of what Lucene printed for these 118,000 texts."""
    lines = "\n".join("\t".join(words(text)) for text in texts)
    assert blake2b(lines.encode(), digest_size=8).hexdigest() == digest


def test_a_long_word_is_cut_after_255_units() -> None:
    assert words("a" * 600) == ["a" * 255, "a" * 255, "a" * 90]
    assert words("a" * 254 + "'b") == ["a" * 254, "b"]  # what joins is dropped where the cut falls
    assert words("a" * 255) == ["a" * 255]
    bold = "\U0001d41a"  # two units
    assert words(bold * 300) == [bold * 127, bold * 127, bold * 46]
    assert words("_" * 300 + "a") == ["_" * 254 + "a"]


@given(st.text(st.sampled_from(OF_EACH_CLASS) | st.characters(), max_size=400))
def test_words_are_pieces_of_the_text_in_order(text: str) -> None:
    position = 0
    for word in words(text):
        assert 1 <= len(word.encode("utf-16-le", "surrogatepass")) // 2 <= LONGEST
        position = text.index(word, position) + len(word)


def test_terms_are_lucenes() -> None:
    assert terms("The Running DOGS\u2019S of women\uff07s 100% cotton, isn't it?") == [
        "run",
        "dog",
        "women",
        "100",
        "cotton",
        "isn't",
    ]
    assert terms("apologies possibly skies generically an agreed plastered sky") == (
        ["apolog", "possibl", "ski", "gener", "agre", "plaster", "sky"]
    )
    assert terms("THE's \u0130stanbul \u03a3\u039f\u03a3 \u00c9tudes s's") == [
        "istanbul",
        "\u03c3\u03bf\u03c3",
        "\u00e9tude",
        "s",
    ]
    assert terms("\U0001d400s \U0001d400\U0001d400ed as's") == ["\U0001d400", "\U0001d400\U0001d400ed"]
    assert terms("to be or not to be") == terms("  !? ") == terms("") == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *[("caresses", "caress"), ("ponies", "poni"), ("ties", "ti"), ("cats", "cat"), ("feed", "feed"), ("agreed", "agre")],
        *[
            ("bled", "bled"),
            ("motoring", "motor"),
            ("sing", "sing"),
            ("conflated", "conflat"),
            ("hopping", "hop"),
            ("filing", "file"),
        ],
        *[("falling", "fall"), ("hissing", "hiss"), ("fizzed", "fizz"), ("happy", "happi"), ("sky", "sky"), ("say", "sai")],
        *[("relational", "relat"), ("conditional", "condit"), ("conformably", "conform"), ("possibly", "possibl")],
        *[("archaeology", "archaeolog"), ("apology", "apolog"), ("hopefulness", "hope"), ("electrical", "electr")],
        *[("adoption", "adopt"), ("replacement", "replac"), ("probate", "probat"), ("rate", "rate"), ("cease", "ceas")],
        *[
            ("controll", "control"),
            ("roll", "roll"),
            ("is", "is"),
            ("as", "as"),
            ("ions", "ion"),
            ("3.5mms", "3.5mm"),
            ("", ""),
        ],
    ],
)
def test_stems_are_those_of_porters_paper_and_later_changes(word: str, expected: str) -> None:
    assert stem(word) == expected


@pytest.fixture(scope="module")
def nltk_stem() -> Any:
    """Another implementation of the same rules."""
    if importlib.util.find_spec("nltk") is None:
        pytest.skip("nltk is not installed: it would be the oracle of the stemmer")
    porter = importlib.import_module("nltk.stem.porter").PorterStemmer("MARTIN_EXTENSIONS")
    return lambda word: porter.stem(word) if len(word) > 2 else word


def test_stems_of_the_catalogue_are_nltks(nltk_stem: Any, catalogue: list[tuple[str, str]]) -> None:
    vocabulary = sorted({word for _, text in catalogue for word in words(text)})
    assert len(vocabulary) > 10_000
    assert [word for word in vocabulary if stem(word) != nltk_stem(word)] == []


ENDINGS = re.findall(
    r"\w+",
    """
    s sses ies ed eed ing y ational tional enci anci izer bli abli alli entli eli ousli ization ation ator alism iveness fulness
    ousness aliti iviti biliti logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion
    sion tion ou ism ate iti ous ive ize e ll bl iz""",
)


@settings(max_examples=500)
@given(st.text("aeiouybclstxz", max_size=6), st.lists(st.sampled_from(ENDINGS), max_size=2).map("".join))
def test_stems_of_made_up_words_are_nltks(nltk_stem: Any, start: str, ending: str) -> None:
    assert stem(start + ending) == nltk_stem(start + ending)


def test_the_text_of_a_document_holds_title_description_first_bullet_and_options() -> None:
    options = {"color": ["Red", "dark | blue"], "size": ["9"]}
    expected = "shoe. soft. fits well color: red, dark | blue, and size: 9"
    assert document_text("Shoe.", "SOFT.", "Fits well", options) == expected
    assert document_text("Shoe", "", "", {}) == "shoe   "


def test_all_documents_have_the_terms_that_lucene_counted(catalogue: list[tuple[str, str]]) -> None:
    found = [terms(text) for _, text in catalogue]
    assert (len(found), sum(map(len, found)), len({term for document in found for term in document})) == (1000, 107_608, 12_074)
