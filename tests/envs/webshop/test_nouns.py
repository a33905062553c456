from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from bitroute.envs.webshop.nouns import nouns_of, spacy_nouns, words
from bitroute.errors import CapabilityError


@pytest.mark.parametrize(
    ("title", "cut"),
    [
        ("Women's Lace-Up Boots", ["Women", "'s", "Lace", "-", "Up", "Boots"]),
        ("Men\u2019s 2-Pack (Black)", ["Men", "\u2019s", "2", "-", "Pack", "(", "Black", ")"]),
        ("3.5mm, 12ft & 4K", ["3.5", "mm", ",", "12", "ft", "&", "4", "K"]),
        ("40Mm 10x12 8-10", ["40Mm", "10x12", "8", "-", "10"]),
        ("Table/Desk 1/2", ["Table", "/", "Desk", "1/2"]),
        ("Dr. J. Inc., done. USA.", ["Dr.", "J.", "Inc.", ",", "done", ".", "USA", "."]),
        ("Decor- -Tube |Kosher", ["Decor-", "-Tube", "|Kosher"]),
        ("360\u00b0Swivel Shakes\u2122 50%", ["360", "\u00b0", "Swivel", "Shakes", "\u2122", "50", "%"]),
        ("oneTwo.Three wait... a--b", ["oneTwo", ".", "Three", "wait", "...", "a", "--", "b"]),
        ("", []),
    ],
)
def test_titles_are_cut_into_words_and_marks(title: str, cut: list[str]) -> None:
    assert words(title) == cut


def test_words_are_nouns_unless_they_are_known_not_to_be() -> None:
    assert nouns_of("The Women's Red Shoes, Shoes for 2 Men with 3D Print 10x12") == (
        *("women", "red", "shoes", "shoes", "men", "3d", "print"),
    )
    assert nouns_of("100% Cotton | Imported") == ("%", "cotton", "|")
    assert nouns_of("for the 3.5 - & 12") == ()


def test_spacy_is_asked_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def tagged(title: str) -> list[SimpleNamespace]:
        asked.append(title)
        return [SimpleNamespace(text=word, pos_=tag) for word, tag in (("Red", "ADJ"), ("Shoes", "NOUN"), ("Nike", "PROPN"))]

    spacy = ModuleType("spacy")
    monkeypatch.setattr(spacy, "load", {"some_model": tagged}.__getitem__, raising=False)
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    nouns = spacy_nouns("some_model")
    assert nouns("Red Shoes Nike") == nouns("Red Shoes Nike") == ("shoes", "nike")
    assert asked == ["Red Shoes Nike"]


@pytest.mark.parametrize("error", [ImportError("no such module"), OSError("no such model")])
def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(model: str) -> None:
        raise error

    spacy = ModuleType("spacy")
    monkeypatch.setattr(spacy, "load", load, raising=False)
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    with pytest.raises(CapabilityError, match=f"no nouns by spaCy's model en_core_web_sm: {error}"):
        spacy_nouns()
