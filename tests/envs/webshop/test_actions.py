from __future__ import annotations

import pytest

from bitroute.envs.webshop.actions import can_choose, can_click, parse


@pytest.mark.parametrize(
    ("action", "parts"),
    [
        ("search[red shoes]", ("search", "red shoes")),
        ("search[Red SHOES]", ("search", "red shoes")),  # the argument alone is lower-cased
        ("Search[shoes]", ("Search", "shoes")),
        (" click[buy now]", (" click", "buy now")),
        ("click[ < prev]", ("click", " < prev")),
        ("search[a[b]c]", ("search[a", "b]c")),  # the verb reaches as far as it can
        ("search[a[]", ("search", "a[")),
        ("click[a]b]", ("click", "a]b")),
        ("click[x] please", ("click", "x")),
        ("click[x]\nbecause", ("click", "x")),
        ("search[ ]", ("search", " ")),
        ("search[]", None),
        ("search[", None),
        ("[x]", None),
        ("foo", None),
        ("", None),
        ("I think\nclick[x]", None),
        ("click[two\nlines]", None),
    ],
)
def test_actions_are_parsed_by_one_greedy_pattern(action: str, parts: tuple[str, str] | None) -> None:
    assert parse(action) == parts


@pytest.mark.parametrize("name", ["buy now", "b000000001", "next >", "a]b", "a[", '28" x 28"', "\u00e9"])
def test_names_that_can_be_clicked(name: str) -> None:
    assert can_click(name)


@pytest.mark.parametrize("name", ["", "search", "two\nlines", "x[1]", "[z", "Upper"])
def test_names_that_cannot_be_clicked(name: str) -> None:
    assert not can_click(name)
    assert not can_choose(name)


def test_a_value_named_like_a_button_works_as_the_button() -> None:
    taken = ["back to search", "< prev", "buy now", "description", "features", "reviews", "attributes"]
    assert not any(map(can_choose, taken))
    assert can_choose("next >")
    assert can_choose("navy")
