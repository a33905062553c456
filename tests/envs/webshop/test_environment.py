from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from bitroute.envs.environment import Branchable, Environment
from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.goals import Goals, ShoppingTask, purchase
from bitroute.envs.webshop.pages import Mode
from bitroute.envs.webshop.prices import Prices
from bitroute.envs.webshop.products import Catalogue
from support.webshop import everything, goal, product, shop

OPTIONS = (("color", ("red", "blue")), ("size", ("s", "m")))
MANY = tuple(product(f"P{number:09}", title=f"Title {number}", options=OPTIONS) for number in range(25))
HOST = "http://127.0.0.1:3000"


def played(environment: WebShopEnvironment, *actions: str, task: ShoppingTask | None = None) -> str:
    """Where one is after these actions from the start, as an address without its host and its session."""
    environment.reset(task or goal())
    for action in actions:
        environment.step(action)
    return environment.url.removeprefix(f"{HOST}/").replace("/7/", "/", 1)


def test_it_keeps_the_contracts() -> None:
    environment: Environment[ShoppingTask] = shop(product())
    assert isinstance(environment, Branchable)


def test_the_start() -> None:
    environment = shop(product(), mode=Mode.TEXT)
    first = environment.reset(goal())
    assert first.text == "WebShop [SEP] Instruction: [SEP] Find me a table [SEP] Search"
    assert first.admissible == ()  # a search takes free text
    assert environment.clickables == ("search",)
    assert environment.url == f"{HOST}/7"
    assert environment.options == {}


@pytest.mark.parametrize("action", ["foo", "click[nope]", "Search[x]", "click[search]", "search[]", " click[search]", ""])
def test_what_is_no_action_changes_nothing(action: str) -> None:
    environment = shop(product(), mode=Mode.TEXT)
    first = environment.reset(goal())
    outcome = environment.step(action)
    assert (outcome.observation, outcome.reward, outcome.done, outcome.success) == (first, 0.0, False, False)
    assert dict(outcome.info) == {}


def test_a_search_lists_products() -> None:
    environment = shop(*MANY, mode=Mode.TEXT)
    environment.reset(goal())
    outcome = environment.step("search[Wood TABLE]")
    assert environment.url == f"{HOST}/search_results/7/wood+table/1"
    assert outcome.observation.text.startswith(
        "Instruction: [SEP] Find me a table [SEP] Back to Search [SEP] Page 1 (Total results: 25) [SEP] Next > [SEP] P000000000"
    )
    assert outcome.observation.admissible == (
        *("click[back to search]", "click[next >]"),
        *(f"click[p{number:09}]" for number in range(10)),
    )
    assert (outcome.reward, outcome.done) == (0.0, False)


def test_the_search_is_asked_with_the_words_as_they_are_and_unknown_documents_are_dropped() -> None:
    asked = []

    def search(query: str) -> Sequence[str]:
        asked.append(query)
        return ["OTHER", *everything(Catalogue(MANY), query)] * 4

    environment = WebShopEnvironment(Catalogue(MANY), search, Prices(), mode=Mode.TEXT)
    environment.reset(goal())
    outcome = environment.step("search[ Wood  table]")
    assert asked == [" wood  table"]
    assert "Page 1 (Total results: 48)" in outcome.observation.text  # of the first fifty two are no products
    assert environment.url.endswith("/+wood++table/1")


def test_a_search_that_finds_nothing_shows_a_page_without_products() -> None:
    environment = shop(*MANY, mode=Mode.TEXT)
    environment.reset(goal())
    assert environment.step("search[ ]").observation.text.endswith("Page 1 (Total results: 0) [SEP] Next >")
    assert environment.url == f"{HOST}/search_results/7/+/1"


@pytest.mark.parametrize(
    ("actions", "place"),
    [
        (["search[x]"], "search_results/x/1"),
        (["search[x]", "click[next >]"], "search_results/x/2"),
        (["search[x]", *["click[next >]"] * 5], "search_results/x/6"),  # past the last page
        (["search[x]", "click[< prev]"], "search_results/x/1"),  # not there
        (["search[x]", "click[next >]", "click[< prev]"], "search_results/x/1"),
        (["search[x]", "click[next >]", "search[y]"], "search_results/y/1"),
        (["search[x]", "click[p000000001]"], "item_page/P000000001/x/1/{}"),
        (["search[x]", "click[P000000001]"], "item_page/P000000001/x/1/{}"),
        (["search[x]", "click[p000000011]"], "search_results/x/1"),  # on the next page
        (["search[x]", "click[next >]", "click[p000000011]"], "item_page/P000000011/x/2/{}"),
        (["search[x]", "click[next >]", "click[p000000011]", "click[< prev]"], "search_results/x/2"),
        (["search[x]", "click[p000000001]", "click[description]"], "item_sub_page/P000000001/x/1/Description/{}"),
        (["search[x]", "click[p000000001]", "click[attributes]"], "item_page/P000000001/x/1/{}"),  # not shown by default
        (["search[x]", "click[p000000001]", "click[features]", "click[< prev]"], "item_page/P000000001/x/1/{}"),
        (["search[x]", "click[p000000001]", "click[features]", "click[buy now]"], "item_sub_page/P000000001/x/1/Features/{}"),
        (["search[x]", "click[p000000001]", "click[back to search]"], "7"),
        (["search[x]", "click[p000000001]", "click[reviews]", "search[y z]"], "search_results/y+z/1"),
        (["search[x]", "click[p000000001]", "click[buy now]"], "done/P000000001/{}"),
        (["search[x]", "click[p000000001]", "click[buy now]", "click[< prev]"], "done/P000000001/{}"),
        (["search[x]", "click[p000000001]", "click[buy now]", "search[y]"], "search_results/y/1"),
    ],
)
def test_where_actions_lead(actions: list[str], place: str) -> None:
    assert played(shop(*MANY), *actions) == place


ITEM = ("search[x]", "click[p000000001]")


@pytest.mark.parametrize(
    ("actions", "options"),
    [
        (["click[m]"], {"size": "m"}),
        (["click[m]", "click[RED]", "click[s]"], {"size": "s", "color": "red"}),
        (["click[red]", "click[red]"], {"color": "red"}),
        (["click[red]", "click[features]", "click[< prev]"], {"color": "red"}),
        (["click[red]", "click[features]"], {"color": "red"}),
        (["click[red]", "click[< prev]"], {}),
        (["click[red]", "click[< prev]", "click[p000000001]"], {}),
        (["click[red]", "click[back to search]"], {}),
        (["click[red]", "search[y]"], {}),
        (["click[red]", "click[buy now]"], {"color": "red"}),
        (["click[red]", "click[green]"], {"color": "red"}),
    ],
)
def test_options_are_kept_until_results_are_shown(actions: list[str], options: dict[str, str]) -> None:
    environment = shop(*MANY)
    played(environment, *ITEM, *actions)
    assert list(environment.options.items()) == list(options.items())


def test_addresses_tell_options_in_two_ways() -> None:
    accented = product("B1", options=(("color", ("\u00e9", 'a"b', "it's")),))
    assert played(shop(accented), "search[x]", "click[b1]", "click[\u00e9]") == r'item_page/B1/x/1/{"color": "\u00e9"}'
    assert played(shop(accented), "search[x]", "click[b1]", 'click[a"b]') == r'item_page/B1/x/1/{"color": "a\"b"}'
    sub = played(shop(accented), "search[x]", "click[b1]", "click[\u00e9]", "click[reviews]")
    assert sub == "item_sub_page/B1/x/1/Reviews/{'color': '\u00e9'}"
    assert played(shop(accented), "search[x]", "click[b1]", "click[it's]", "click[buy now]") == """done/B1/{'color': "it's"}"""


def test_chosen_values_are_marked_unless_json_escapes_them() -> None:
    environment = shop(product("B1", options=(("color", ("\u00e9", "red")),)), mode=Mode.TEXT_RICH)
    played(environment, "search[x]", "click[b1]")
    assert environment.step("click[red]").observation.text.startswith("You have clicked red.\nInstruction:\n")
    assert "clicked" not in environment.step("click[\u00e9]").observation.text


def test_a_query_in_quotes_marks_values_as_well() -> None:
    environment = shop(product("B1", options=(("color", ("red", "blue")),)), mode=Mode.TEXT_RICH)
    played(environment, 'search["red" table]')
    assert environment.step("click[b1]").observation.text.startswith("You have clicked red.\n")


def test_visited_products_are_marked_until_back_to_search() -> None:
    environment = shop(*MANY, mode=Mode.TEXT_RICH)
    played(environment, *ITEM)
    mark = "[clicked button] P000000001 [clicked button_]"
    assert mark in environment.step("click[< prev]").observation.text
    assert mark in environment.step("search[y]").observation.text
    environment.step("click[back to search]")
    assert mark not in environment.step("search[y]").observation.text
    environment.step("click[p000000002]")
    environment.reset(goal())
    assert "clicked" not in environment.step("search[y]").observation.text


@pytest.mark.parametrize(
    ("query", "sub", "place"),
    [
        ("item_page", False, "search_results/item_page/1"),
        ("item_page", True, "search_results/item_page/1"),  # instead of the item
        ("item_sub_page", False, "search_results/item_sub_page/1"),
        ("item_sub_page", True, "item_page/P000000001/item_sub_page/1/{}"),
        ("search_results", False, "search_results/search_results/0"),  # the page before the first one
        ("search_results", True, "search_results/search_results/0"),
        ("done", True, "item_page/P000000001/done/1/{}"),
    ],
)
def test_back_reads_the_address_and_is_misled_by_the_query(query: str, sub: bool, place: str) -> None:
    actions = [f"search[{query}]", "click[p000000001]", *["click[features]"] * sub, "click[< prev]"]
    assert played(shop(*MANY), *actions) == place


def test_an_option_can_mislead_as_well() -> None:
    odd = product("B1", options=(("color", ("item_page", "< prev", "next >", "attributes")),))
    assert (
        played(shop(odd), "search[x]", "click[b1]", "click[item_page]", "click[features]", "click[< prev]")
        == "search_results/x/1"
    )
    assert played(shop(odd), "search[x]", "click[b1]", "click[< prev]") == "search_results/x/1"
    assert played(shop(odd), "search[x]", "click[b1]", "click[next >]") == 'item_page/B1/x/1/{"color": "next >"}'
    assert played(shop(odd), "search[search_results]", "click[b1]", "click[next >]") == "search_results/search_results/2"
    assert played(shop(odd), "search[x]", "click[b1]", "click[attributes]") == "item_sub_page/B1/x/1/Attributes/{}"


def test_the_page_before_the_first_one_has_no_products() -> None:
    environment = shop(*MANY, mode=Mode.TEXT)
    played(environment, "search[search_results]", "click[p000000001]")
    outcome = environment.step("click[< prev]")
    assert outcome.observation.text.endswith("Page 0 (Total results: 25) [SEP] Next >")
    assert outcome.observation.admissible == ("click[back to search]", "click[next >]")


def test_attributes_are_shown_on_demand() -> None:
    environment = shop(product("B1", attributes=("soft", "red")), show_attrs=True, mode=Mode.TEXT)
    played(environment, "search[x]", "click[b1]")
    assert "attributes" in environment.clickables
    outcome = environment.step("click[attributes]")
    assert outcome.observation.text.endswith(
        "< Prev [SEP] soft [SEP] red [SEP] garden [SEP] console tables [SEP] " + product().product_category
    )


def test_buying_ends_the_episode_with_the_reward_and_its_parts() -> None:
    environment = shop(*MANY)
    played(environment, *ITEM, "click[red]", task=goal(MANY[1], ("color", "red"), ("size", "m")))
    outcome = environment.step("click[buy now]")
    assert (outcome.reward, outcome.done, outcome.success) == (3 / 4, True, False)
    assert outcome.info["r_option"] == 0.5
    assert outcome.observation.admissible == environment.clickables == ()


def test_the_exact_purchase_is_a_success() -> None:
    environment = shop(*MANY)
    played(environment, *ITEM, "click[red]", "click[m]", task=goal(MANY[1], ("color", "red"), ("size", "m")))
    outcome = environment.step("click[Buy Now]")
    assert (outcome.reward, outcome.done, outcome.success) == (1.0, True, True)


def test_prices_within_a_range_are_those_of_the_goals() -> None:
    ranged = product("B1", prices=(10.0, 30.0), price_tag="$10.0 to $30.0")
    for price, reward in ((20.0, 1.0), (21.0, 0.5)):
        environment = WebShopEnvironment(Catalogue((ranged,)), lambda query: ["B1"], Prices(drawn={"B1": price}))
        played(environment, "search[x]", "click[b1]", task=goal(ranged, bound=20.0))
        assert environment.step("click[buy now]").reward == reward


def test_after_the_purchase_one_may_search_and_buy_again() -> None:
    environment = shop(*MANY)
    played(environment, *ITEM, "click[buy now]", task=goal(MANY[2]))
    assert (environment.step("foo").done, environment.step("click[buy now]").reward) == (False, 0.0)
    environment.step("search[y]")
    environment.step("click[p000000002]")
    outcome = environment.step("click[buy now]")
    assert (outcome.reward, outcome.done) == (1.0, True)


def groups() -> WebShopEnvironment:
    """Thirty lamps in the category `home`, and thirty tables in the garden."""
    lamps = (product(f"L{number}", category="home", query="floor lamps") for number in range(60))
    return shop(*lamps, *MANY, mode=Mode.TEXT)


@pytest.mark.parametrize(
    ("query", "total", "first"),
    [
        ("<c> home", 60, "L0"),  # all of them, not only fifty
        ("<c>  home", 0, None),  # the word after the first blank
        ("<c> home garden", 60, "L0"),
        ("<c> Garden", 25, "P000000000"),
        ("<q> Floor Lamps ", 60, "L0"),
        ("<q>  floor lamps", 60, "L0"),
        ("<q> floor", 0, None),
        ("<q>", 0, None),
        (" <c> home", 85, "L0"),  # a blank before it makes it a search
        ("<c>home", 85, "L0"),
    ],
)
def test_prefixes_list_groups(query: str, total: int, first: str | None) -> None:
    environment = groups()
    environment.reset(goal())
    text = environment.step(f"search[{query}]").observation.text
    shown = min(total, 50) if total == 85 else total
    assert f"Page 1 (Total results: {shown})" in text
    assert text.partition(" [SEP] Next > [SEP] ")[2].partition(" [SEP] ")[0] == (first or "")


def test_random_products_are_drawn_anew_at_each_view_and_the_same_in_each_replay() -> None:
    environment = groups()
    views = []
    for _ in range(2):
        environment.reset(goal())
        for action in ("search[<r>]", "click[next >]", "click[< prev]", "search[<r> more]"):
            text = environment.step(action).observation.text
            assert "(Total results: 50)" in text
            views.append(text.partition(" [SEP] Next > [SEP] ")[2])
    assert views[:4] == views[4:]
    assert len(set(views)) == 4
    environment.reset(goal(id="another"))
    assert environment.step("search[<r>]").observation.text.partition(" [SEP] Next > [SEP] ")[2] not in views


def test_a_small_catalogue_is_drawn_whole() -> None:
    environment = shop(*MANY[:3], mode=Mode.TEXT)
    environment.reset(goal())
    assert "(Total results: 3)" in environment.step("search[<r>]").observation.text


@pytest.mark.parametrize(
    ("query", "reason"),
    [("<a> red", "there is no search by attribute"), ("<a>", "no search by attribute"), ("<c>", "name a category")],
)
def test_searches_that_end_upstream_are_refused(query: str, reason: str) -> None:
    environment = groups()
    environment.reset(goal())
    before = environment.step("search[x]").observation
    outcome = environment.step(f"search[{query}]")
    assert (outcome.observation, outcome.reward, outcome.done) == (before, 0.0, False)
    assert reason in outcome.info["refused"]


def walk(environment: WebShopEnvironment, rng: random.Random, steps: int) -> list[tuple[Any, ...]]:
    """What comes of random actions."""
    seen: list[tuple[Any, ...]] = []
    for _ in range(steps):
        names = environment.clickables
        action = (
            f"click[{rng.choice(names)}]" if names and rng.random() < 0.8 else rng.choice(["search[x]", "search[<r>]", "foo"])
        )
        outcome = environment.step(action)
        seen.append((outcome, environment.url, environment.options))
    return seen


@pytest.mark.parametrize("mode", list(Mode))
def test_a_copy_goes_on_alone(mode: Mode) -> None:
    environment = shop(*MANY, mode=mode)
    for seed in range(20):
        environment.reset(goal(MANY[3], ("color", "red")))
        walk(environment, random.Random(seed), seed % 7)
        twin = environment.copy()
        first = walk(twin, random.Random(seed), 12)
        walk(environment.copy(), random.Random(seed + 1), 12)
        assert walk(environment, random.Random(seed), 12) == first


def test_published_goals_are_reached_by_clicks(published: Catalogue, published_goals: Goals) -> None:
    environment = WebShopEnvironment(published, lambda query: [query.upper()], published_goals.prices)
    successes = []
    for task in list(published_goals)[::40]:
        environment.reset(task)
        values = purchase(task, published.by_asin[task.asin])
        assert values is not None
        for action in (f"search[{task.asin}]", f"click[{task.asin}]", *(f"click[{value}]" for value in values)):
            assert not environment.step(action).done
        assert environment.options == {choice.option: choice.value for choice in task.choices}
        successes.append(environment.step("click[buy now]").success)
    assert (successes.count(True), len(successes)) == (164, 173)  # 458 of all 6,910 goals cannot be reached
