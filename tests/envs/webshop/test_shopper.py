"""The scripted shopper: what it understands, what it does on pages, and how often it finds what is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitroute.envs.webshop.demonstrations import Demonstration, demonstrate
from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.generator import write_catalogue
from bitroute.envs.webshop.goals import Goals, synthetic_goals
from bitroute.envs.webshop.message import message
from bitroute.envs.webshop.pages import Mode
from bitroute.envs.webshop.products import CatalogueFiles, load_catalogue
from bitroute.envs.webshop.search.build import build_index
from bitroute.envs.webshop.search.index import Index
from bitroute.envs.webshop.shopper import Shopper, Wish
from support.webshop import goal, product, shop

Shop = tuple[WebShopEnvironment, Goals]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder: Path = tmp_path_factory.mktemp("shop")
    write_catalogue(folder, 800, seed=0)
    catalogue = load_catalogue(CatalogueFiles.within(folder))
    build_index(folder / "index", ((each.asin, each.document) for each in catalogue.products))
    index, goals = Index.open(folder / "index"), synthetic_goals(catalogue)
    return WebShopEnvironment(catalogue, lambda query: [hit.asin for hit in index.search(query)], goals.prices), goals


def test_an_instruction_is_taken_apart() -> None:
    assert Wish.of(
        "Find me double sided, machine washable decorative pillows with printing technology for the sofa, home decor "
        'with color: navy | white, and size: 28" x 28", and price lower than 30.00 dollars'
    ) == Wish(
        "double sided, machine washable decorative pillows with printing technology for the sofa, home decor",
        ("double sided", "printing technology", "the sofa", "home decor"),
        "machine washable decorative pillows",
        ("navy | white", '28" x 28"'),
        30.0,
    )
    assert Wish.of("desks") == Wish("desks", (), "desks", (), float("inf"))


def test_it_buys_what_its_title_promises_with_the_right_option() -> None:
    wanted = product("B000000002", title="Oak Desk, Heavy Duty", options=(("color", ("black", "oak")),))
    other = product("B000000001", title="Oak Desk", bullets=("light",), description="thin")
    world = shop(other, wanted, mode=Mode.TEXT)
    task = goal(
        wanted, ("color", "black"), instruction="Find me heavy duty desk with color: black, and price lower than 30.00 dollars"
    )
    played = demonstrate(world, task, seed=0, noise=0.0)
    assert played.actions == ("search[heavy duty desk black]", "click[b000000002]", "click[black]", "click[buy now]")
    assert played.reward == 1.0


def test_what_a_title_leaves_open_is_read_and_what_is_too_dear_is_passed_by() -> None:
    dear = product("B000000001", title="Desk, Heavy Duty, Wide", prices=(90.0,), price_tag="$90.0")
    light = product("B000000002", title="Desk, Wide", bullets=("It is light",))
    told = product("B000000003", title="Desk, Wide", bullets=("It is heavy duty",))
    world = shop(dear, light, told, mode=Mode.TEXT)
    task = goal(told, instruction="Find me heavy duty, wide desk, and price lower than 30.00 dollars")
    assert demonstrate(world, task, seed=0, noise=0.0).actions == (
        "search[heavy duty wide desk]",
        "click[b000000002]",
        "click[features]",
        "click[< prev]",
        "click[description]",
        "click[< prev]",
        "click[< prev]",
        "click[b000000003]",
        "click[features]",
        "click[< prev]",
        "click[buy now]",
    )


def test_it_finds_most_of_what_is_asked_for(generated: Shop) -> None:
    world, goals = generated
    played = [demonstrate(world, goals[index], seed=0, noise=0.0) for index in range(200)]
    assert np.mean([episode.reward == 1.0 for episode in played]) > 0.8


def test_strays_are_recovered_from_and_an_episode_is_repeatable(generated: Shop) -> None:
    world, goals = generated

    def played(noise: float) -> list[Demonstration]:
        return [demonstrate(world, goals[index], seed=index, noise=noise) for index in range(100)]

    noisy = played(0.1)
    assert noisy == played(0.1)
    strays = [a != b for episode in noisy for a, b in zip(episode.actions, episode.labels, strict=True)]
    assert 0.05 < np.mean(strays) < 0.15
    assert np.mean([episode.reward == 1.0 for episode in noisy]) > 0.65


@pytest.mark.parametrize("choose", [lambda shopper, seen: shopper.act(seen), lambda shopper, seen: seen.admissible[-1]])
def test_it_answers_on_every_page(generated: Shop, choose: Callable[..., str]) -> None:
    """Whoever plays, its choice is one that the page takes."""
    world, goals = generated
    for index in range(20):
        seen = world.reset(goals[index])
        shopper = Shopper(seen)
        for _ in range(12):
            action = shopper.act(seen)
            assert action in seen.admissible or (not seen.admissible and action.startswith("search["))
            action = choose(shopper, seen) if seen.admissible else action
            answer = world.step(action)
            seen = answer.observation
            if answer.done:
                break
            shopper.observe(action, seen)


def test_messages_are_short(generated: Shop) -> None:
    world, goals = generated
    task = goals[0]
    played = demonstrate(world, task, seed=0, noise=0.0)
    told = [message(played.observations[: count + 1]) for count in range(len(played.observations))]
    assert told[0] == task.instruction.lower()
    assert told[1].startswith("page 1 (total results: 50)\nb0g0")
    assert len(told[1].splitlines()) == 11
    back = [*played.observations[:2], played.observations[1]]
    assert message(back) == "page 1 (total results: 50)"
    assert message([played.observations[0]] * 2) == "search"
