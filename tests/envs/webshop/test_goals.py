from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import pytest

from bitroute.envs.webshop.goals import NO_BOUND, Choice, Goals, human_goals, purchase, synthetic_goals
from bitroute.envs.webshop.prices import Prices
from bitroute.envs.webshop.products import Catalogue, HumanInstruction, Product
from bitroute.envs.webshop.splits import SPLITS, split_of, upstream_split
from support.webshop import goal, product


def asked(asin: str, *attributes: str, **fields: Any) -> Product:
    """A product with an instruction."""
    return product(asin, instruction=f"Find me {asin}", instruction_attributes=attributes or ("heavy duty",), **fields)


def catalogue(count: int = 12) -> Catalogue:
    """Products with one to four goals each, every third one with a range of prices."""
    return Catalogue(
        tuple(
            asked(
                f"B{number:09}",
                f"attribute {number % 3}",
                prices=(10.0 * number, 10.0 * number + 5.0)[: 1 + (number % 3 == 0)],
                options=(("size", tuple(f"s{value}" for value in range(1 + number % 4))),),
            )
            for number in range(count)
        )
    )


def test_a_goal_for_each_combination_of_options_sorted_by_name() -> None:
    meant = asked("B1", options=(("size", ("s", "m")), ("color", ("red", "blue", "tan"))))
    found = [task.choices for task in sorted(synthetic_goals(Catalogue((meant,))), key=lambda task: task.id)]
    assert found == [
        (Choice("color", color), Choice("size", size)) for color in ("red", "blue", "tan") for size in ("s", "m")
    ]  # the last option changes fastest


def test_the_instruction_tells_options_and_price() -> None:
    meant = asked("B1", prices=(20.0,), options=(("size", ('28" x 28"',)), ("color", ("a & b",))))
    (task,) = synthetic_goals(Catalogue((meant,)))
    assert task.bound in (40.0, 50.0, 60.0)
    assert task.instruction == (
        f'Find me B1 with color: a & b, and size: 28" x 28", and price lower than {task.bound:.2f} dollars'
    )
    assert (task.kind, task.title, task.query) == ("garden", meant.title, meant.query)
    assert task.product_category == meant.product_category


@pytest.mark.parametrize(
    ("price", "bounds"), [(19.99, {30, 40, 50}), (20.0, {40, 50, 60}), (965.0, {980, 990}), (975.0, {990})]
)
def test_bounds_are_the_larger_of_two_of_the_next_four(price: float, bounds: set[float]) -> None:
    drawn = {synthetic_goals(Catalogue((asked("B1", prices=(price,)),)), seed=seed)[0].bound for seed in range(60)}
    assert drawn == bounds


@pytest.mark.parametrize("price", [980.0, 985.0, 2000.0])
def test_without_two_bounds_above_the_price_there_is_no_clause(price: float) -> None:
    (task,) = synthetic_goals(Catalogue((asked("B1", prices=(price,)),)))
    assert (task.bound, task.instruction) == (NO_BOUND, "Find me B1")


def test_products_without_an_instruction_are_asked_for_by_nobody_and_an_empty_option_leaves_no_goal() -> None:
    none = asked("B1", options=(("size", ()), ("color", ("red",))))
    one = asked("B2")
    goals = synthetic_goals(Catalogue((product("B3"), none, one)))
    assert [task.asin for task in goals] == ["B2"]
    assert goals.of("nowhere")._place(0) == 1


def test_all_combinations_of_a_product_share_its_bound() -> None:
    for seed in (None, 3):
        bounds: dict[str, set[float]] = {}
        for task in synthetic_goals(catalogue(), compatible=seed):
            bounds.setdefault(task.asin, set()).add(task.bound)
        assert all(len(found) == 1 for found in bounds.values())


def test_weights_are_the_mean_rarity_of_the_attributes_among_goals() -> None:
    first = asked("B1", "a", "b", options=(("size", ("s", "m", "l")),))
    second = asked("B2", "b")
    weights = {task.asin: task.weight for task in synthetic_goals(Catalogue((first, second)))}
    assert weights == {"B1": (1 / 3 + 1 / 4) / 2, "B2": 1 / 4}


def test_human_goals_name_values_without_options() -> None:
    written = (
        HumanInstruction("..I want it.", ("red", "soft"), ("xl", "navy")),
        HumanInstruction("Nothing said", (), ("xl",)),
        HumanInstruction("Plain", ("red",), ()),
    )
    goals = human_goals(Catalogue((product("B1", human=written, options=(("size", ("s", "m")),)),)), compatible=4)
    tasks = sorted(goals, key=lambda task: task.id)
    assert [task.id for task in tasks] == ["B1-human0-0", "B1-human2-0"]
    assert tasks[0].choices == (Choice(None, "xl"), Choice(None, "navy"))
    assert tasks[0].instruction == f"I want it, and price lower than {tasks[0].bound:.2f} dollars"
    assert [task.weight for task in tasks] == [1.0, 1.0]


@pytest.mark.parametrize("seed", [0, 5])
def test_compatible_draws_come_one_after_the_other(seed: int) -> None:
    """Written down once more, as plainly as the rules say it: prices, one bound a product, and a permutation by 233."""
    shop = catalogue()
    rng = random.Random(seed)
    prices = {each.asin: each.prices[0] if len(each.prices) == 1 else rng.uniform(*each.prices) for each in shop.products}
    expected = []
    for each in shop.products:
        above = [bound for bound in (10.0 * step for step in range(1, 100)) if bound > prices[each.asin]][:4]
        bound = sorted(rng.sample(above, 2))[1]
        expected += [(each.asin, value, bound) for value in each.options[0][1]]
    random.Random(233).shuffle(expected)
    goals = synthetic_goals(shop, seed=99, compatible=seed)
    assert [(task.asin, task.choices[0].value, task.bound) for task in goals] == expected
    assert [goals.prices.of(each) for each in shop.products] == list(prices.values())
    assert [task.number for task in goals] == list(range(len(expected)))


def test_our_draws_depend_on_the_seed_and_the_product_alone() -> None:
    large, small = catalogue(), Catalogue(catalogue().products[3:7][::-1])

    def drawn(goals: Goals, shop: Catalogue) -> Mapping[str, tuple[float, float]]:
        bounds = {task.asin: task.bound for task in goals}
        return {each.asin: (goals.prices.of(each), bounds[each.asin]) for each in shop.products}

    all_of_them = drawn(synthetic_goals(large), large)
    assert drawn(synthetic_goals(small), small).items() <= all_of_them.items()
    assert drawn(synthetic_goals(large, seed=1), large) != all_of_them


def test_prices_are_within_the_range_that_pages_show() -> None:
    ranged = product(prices=(5.0, 9.0))
    drawn = {Prices(seed).of(ranged) for seed in range(50)}
    assert len(drawn) == 50
    assert all(5.0 <= price <= 9.0 for price in drawn)
    assert Prices(3).of(product(prices=(7.0,))) == 7.0


def test_our_order_goes_in_rounds_over_the_products() -> None:
    goals = synthetic_goals(catalogue())
    rounds: Counter[str] = Counter()
    turns = []
    for task in goals:
        turns.append(rounds[task.asin])
        rounds[task.asin] += 1
    assert turns == sorted(turns)
    assert [len(list(same)) for _, same in groupby(turns)] == [12, 9, 6, 3]
    assert [task.id for task in goals] == [task.id for task in synthetic_goals(catalogue())]
    assert [task.id for task in goals] != [task.id for task in synthetic_goals(catalogue(), seed=1)]


def test_ids_are_unique_and_do_not_depend_on_the_order() -> None:
    ids = [task.id for task in synthetic_goals(catalogue())]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == sorted(task.id for task in synthetic_goals(catalogue(), compatible=1))


def test_splits_share_no_product_and_keep_order_and_numbers() -> None:
    goals = synthetic_goals(catalogue(60))
    parts = {name: list(goals.of(name)) for name in SPLITS}
    assert sum(map(len, parts.values())) == len(goals)
    assert all(parts.values())
    for name, tasks in parts.items():
        assert {task.split for task in tasks} == {name}
        assert tasks == [task for task in goals if task.split == name]
        assert {split_of(task.asin) for task in tasks} == {name}
    products = [{task.asin for task in tasks} for tasks in parts.values()]
    assert sum(map(len, products)) == len(set().union(*products))


def test_the_split_of_a_product_never_changes() -> None:
    asins = ("B0743JKHBV", "B09QCP4579", "B099WH1RTM", "B06Y3VLDFB")
    assert [split_of(asin) for asin in asins] == ["lm-train", "router-train", "validation", "validation"]
    shares = Counter(split_of(f"B{number:09}") for number in range(4000))
    assert all(abs(shares[name] / 4000 - len(tenths) / 10) < 0.03 for name, tenths in SPLITS.items())


def test_upstream_splits_by_number() -> None:
    assert [upstream_split(number) for number in (0, 499, 500, 1499, 1500, 12_086)] == [
        *("test", "test", "eval", "eval", "train", "train")
    ]
    goals = synthetic_goals(catalogue(), compatible=0)
    assert {task.split for task in goals} == {"test"}
    assert len(goals.of("test")) == len(goals)
    assert len(goals.of("train")) == 0


class _Fixed(random.Random):
    """A generator whose draws are told."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


def weighted(compatible: int | None) -> Goals:
    """Three goals of weights 1/2, 1/4 and 1/4 in some order."""
    shop = Catalogue((asked("B1", "a", "b"), asked("B2", "a"), asked("B3", "a"), asked("B4", "a")))
    return synthetic_goals(shop, compatible=compatible)


def test_goals_are_drawn_by_weight() -> None:
    goals = weighted(None)
    total = sum(task.weight for task in goals)
    below = 0.0
    for task in goals:
        middle = (below + task.weight / 2) / total
        assert goals.draw(_Fixed(middle)) == task
        below += task.weight
    assert goals.draw(_Fixed(0.0)) == goals[0]
    assert goals.draw(_Fixed(1.0)) == goals[3]


def test_upstream_draws_a_goal_by_the_weight_of_the_one_before() -> None:
    goals = weighted(0)
    total = sum(task.weight for task in goals)
    below = 0.0
    for number, task in enumerate(goals):
        middle = (below + task.weight / 2) / total
        assert goals.draw(_Fixed(middle)).number == min(number + 1, 3)
        below += task.weight
    assert goals.draw(_Fixed(0.0)).number == 1
    alone = synthetic_goals(Catalogue((asked("B1"),)), compatible=0)
    assert alone.draw(_Fixed(0.5)).number == 0


def test_a_place_beyond_the_end_is_no_goal() -> None:
    with pytest.raises(IndexError):
        weighted(None)[4]


@pytest.mark.parametrize(
    ("options", "choices", "clicks"),
    [
        ((), (), ()),
        ((("color", ("red", "blue")),), (("color", "red"),), ("red",)),
        ((("color", ("one", "x")), ("size", ("one", "s"))), (("color", "x"), ("size", "one")), ("x", "one")),
        ((("color", ("one", "x")), ("size", ("one", "s"))), (("color", "one"), ("size", "s")), None),  # size wins `one`
        ((("color", ("red",)),), (("color", "blue"),), None),
        ((("color", ("x[1]",)),), (("color", "x[1]"),), None),
        ((("color", ("features",)),), (("color", "features"),), None),
        ((("color", ("search",)),), (("color", "search"),), None),
        ((("color", ("",)),), (("color", ""),), None),
        ((("color", ("two\nlines",)),), (("color", "two\nlines"),), None),
        ((("color", ("red",)), ("size", ("s",))), ((None, "s"), (None, "red")), ("s", "red")),  # a human goal
        ((("color", ("red",)),), ((None, "s"),), None),
    ],
)
def test_the_clicks_of_an_exact_purchase(
    options: tuple[tuple[str, tuple[str, ...]], ...],
    choices: tuple[tuple[str | None, str], ...],
    clicks: tuple[str, ...] | None,
) -> None:
    meant = product(options=options)
    assert purchase(goal(meant, *choices), meant) == clicks


def test_upstream_goals_and_prices_in_order(published: Catalogue, published_goals: Goals, upstream: Mapping[str, Any]) -> None:
    assert {each.asin: published_goals.prices.of(each) for each in published.products} == upstream["prices"]
    assert len(published_goals) == len(upstream["goals"]) == 6910
    for task, known in zip(published_goals, upstream["goals"], strict=True):
        assert {
            "asin": task.asin,
            "instruction_text": task.instruction,
            "attributes": list(task.attributes),
            "price_upper": task.bound,
            "goal_options": {choice.option: choice.value for choice in task.choices},
            "weight": task.weight,
        } == known
        assert [choice.option for choice in task.choices] == list(known["goal_options"])


def test_upstream_counts(published: Catalogue, published_goals: Goals) -> None:
    free = [task.asin for task in published_goals if task.bound == NO_BOUND]
    assert (len(free), len(set(free))) == (15, 7)
    assert all(purchase(task, published.by_asin[task.asin]) is not None for task in published_goals)
    first = {task.asin for task in published_goals.of("test")}
    assert len(first) == 146
    assert len(first & {task.asin for task in published_goals if task.number >= 500}) == 127
    assert len(first & {task.asin for task in published_goals.of("train")}) == 125
    ours = synthetic_goals(published)
    sizes = {name: len(ours.of(name)) for name in SPLITS}
    assert sizes == {"lm-train": 2465, "router-train": 1273, "validation": 1888, "test": 1284}
