from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bitroute.envs.webshop.goals import Goals, purchase
from bitroute.envs.webshop.nouns import nouns_of
from bitroute.envs.webshop.products import Catalogue
from bitroute.envs.webshop.reward import reachable, reward
from support.webshop import goal, product


def by_word(title: str) -> Sequence[str]:
    """Takes every word for a noun."""
    return title.split()


def kind_of(bought: Mapping[str, Any], meant: Mapping[str, Any]) -> tuple[float, float]:
    """The type's part and the title score of buying one product where another was meant."""
    outcome = reward(product(**bought), 1.0, (), goal(product(**meant)), by_word)
    return outcome.r_type, outcome.title_score


FAR = {"query": "other", "product_category": "Other"}


@pytest.mark.parametrize(
    ("bought", "meant", "kind"),
    [
        ({"title": "a b c"}, {"title": "a b c"}, (1.0, 1.0)),
        ({"title": "a x", **FAR}, {"title": "a b c d"}, (1.0, 0.25)),  # the title alone
        ({"title": "a x", **FAR}, {"title": "a b c d e"}, (0.5, 0.2)),  # 0.2 does not exceed 0.2
        ({"title": "a x", "query": "other"}, {"title": "a b c d e"}, (1.0, 0.2)),  # categories
        ({"title": "a x", "product_category": "Other"}, {"title": "a b c d e"}, (1.0, 0.2)),  # query
        ({"title": "a x"}, {"title": "a b c d e f g h i j"}, (1.0, 0.1)),
        ({"title": "a x"}, {"title": "a b c d e f g h i j k"}, (0.1, 1 / 11)),  # below 0.1 even a query's match is no help
        ({"title": "x"}, {"title": "a"}, (0.0, 0.0)),
        ({"title": "x"}, {"title": ""}, (1.0, 0.2)),  # nothing is meant
        ({"title": "x", **FAR}, {"title": ""}, (0.5, 0.2)),
        ({"title": "a a b"}, {"title": "a a a b"}, (1.0, 0.5)),  # common nouns count once, meant ones as often as they occur
    ],
)
def test_the_sort_of_thing(bought: Mapping[str, Any], meant: Mapping[str, Any], kind: tuple[float, float]) -> None:
    assert kind_of(bought, meant) == kind


@pytest.mark.parametrize(
    ("bought", "meant", "match"),
    [
        ("A \u203a B \u203a C", "C\u203aX \u203a A", True),  # whatever their order
        ("A \u203a B", "A \u203a C", False),
        ("A \u203a A", "A \u203a A", False),  # distinct ones count
        ("A > B", "A > B", False),
        ("", "", False),
    ],
)
def test_two_shared_categories_match(bought: str, meant: str, match: bool) -> None:
    outcome = reward(product(product_category=bought), 1.0, (), goal(product(product_category=meant)), by_word)
    assert outcome.category_match is match


@pytest.mark.parametrize(
    ("wanted", "fields", "found"),
    [
        (("heavy duty",), {}, 1),
        (("duty heavy", "easy clean"), {"attributes": ("easy to clean", "heavy-duty")}, 2),
        (("long sleeve",), {"attributes": ("short sleeve",)}, 0),
        (("long sleeve",), {"title": "LONG SLEEVE shirt"}, 1),
        (("long sleeve",), {"bullets": ("it is long", "sleeve or not")}, 1),  # across bullets, joined by a blank
        (("long sleeve",), {"description": "a long sleeve."}, 1),
        (("Long Sleeve",), {"title": "Long Sleeve shirt"}, 0),  # what is looked for is not lower-cased
        (("\u2605",), {"attributes": ("\u2605",)}, 0),
        (("\u2605",), {"attributes": (), "title": "\u2605 gift"}, 1),
    ],
)
def test_attributes(wanted: tuple[str, ...], fields: Mapping[str, Any], found: int) -> None:
    bought = product(**fields)
    outcome = reward(bought, 1.0, (), goal(bought, attributes=wanted), by_word)
    assert outcome.r_att == found / len(wanted)
    assert outcome.w_att == len(wanted) / (len(wanted) + 1)
    assert outcome.total == (found + 1) / (len(wanted) + 1)


@pytest.mark.parametrize(
    ("chosen", "choices", "met"),
    [
        (("red",), [("color", "red")], 1),
        (("dark blue",), [("color", "navy blue")], 1),  # what was chosen is blue
        (("blue",), [("color", "navy")], 0),
        (("navy",), [("color", "navy")], 1),
        (("black2626",), [("color", "black2626")], 0),  # black, but no colour was meant
        (("standard",), [("size", "standard")], 0),  # `tan` was chosen
        (("standard",), [(None, "standard")], 1),  # a human goal's value goes through the colours as well
        (("xx-large",), [("size", "xx-large")], 1),
        (("color",), [("color", "red")], 0),
        (("size",), [("size", "30 x 40")], 1),  # the option's name is part of what is compared
        (("red",), [("red", "blue")], 0),  # the first colour of the list among name and value: `blue`
        ((), [("color", "red")], 0),
        (("red", "xl"), [("size", "xl"), ("color", "red")], 2),
        (("xl",), [("size", "xl"), ("fit", "xl")], 2),  # one value meets both
    ],
)
def test_options(chosen: tuple[str, ...], choices: list[tuple[str | None, str]], met: int) -> None:
    bought = product()
    outcome = reward(bought, 1.0, chosen, goal(bought, *choices), by_word)
    assert outcome.r_option == met / len(choices)
    assert outcome.w_option == len(choices) / (len(choices) + 2)
    assert outcome.total == (1 + met + 1) / (len(choices) + 2)


@pytest.mark.parametrize(("price", "right"), [(29.99, True), (30.0, True), (30.01, False)])
def test_the_price_is_at_most_the_bound(price: float, right: bool) -> None:
    bought = product()
    outcome = reward(bought, price, (), goal(bought, bound=30.0), by_word)
    assert outcome.r_price is right
    assert (outcome.w_price, outcome.total) == (0.5, 1.0 if right else 0.5)
    assert outcome.success is right


def test_the_total_is_the_share_times_the_sort() -> None:
    bought = product(title="a", attributes=("x",))
    meant = product(title="a b c d e f g h i j k", attributes=("x",))
    outcome = reward(bought, 99.0, ("red",), goal(meant, ("color", "red"), attributes=("x", "y"), bound=10.0), by_word)
    assert outcome.total == (1 + 1 + 0) / (2 + 1 + 1) * 0.1


def test_parts_have_upstream_names_and_those_of_options_only_with_options() -> None:
    bought = product()
    without = reward(bought, 1.0, (), goal(bought), by_word).parts()
    assert list(without) == [
        *("r_type", "r_att", "w_att", "query_match", "category_match", "title_score", "r_price", "w_price")
    ]
    with_options = reward(bought, 1.0, ("red",), goal(bought, ("color", "red")), by_word).parts()
    assert list(with_options) == [
        *("r_type", "r_att", "w_att", "query_match", "category_match", "title_score"),
        *("r_option", "w_option", "r_price", "w_price"),
    ]
    assert with_options["r_option"] == 1.0


def test_a_goal_can_be_reached_where_its_exact_purchase_counts() -> None:
    meant = product(options=(("color", ("red", "black2626", "x[1]")),))
    assert reachable(goal(meant, ("color", "red")), meant, 1.0, by_word)
    assert not reachable(goal(meant, ("color", "black2626")), meant, 1.0, by_word)
    assert not reachable(goal(meant, ("color", "x[1]")), meant, 1.0, by_word)
    assert not reachable(goal(meant, ("color", "red"), bound=0.5), meant, 1.0, by_word)


def test_the_exact_purchase_of_all_published_goals_but_some_is_worth_one(published: Catalogue, published_goals: Goals) -> None:
    lost = []
    for task in published_goals:
        meant = published.by_asin[task.asin]
        values = purchase(task, meant)
        assert values is not None
        outcome = reward(meant, published_goals.prices.of(meant), values, task, nouns_of)
        if outcome.total != 1.0:
            lost.append(task)
            assert outcome.r_option is not None
            assert outcome.r_option < 1.0
    assert (len(lost), len({task.asin for task in lost})) == (458, 17)
