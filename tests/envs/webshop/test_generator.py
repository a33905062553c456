"""Generated catalogues: the published format, the same ones forever, and goals that can all be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitroute.envs.webshop.generator import generate, vocabulary, write_catalogue
from bitroute.envs.webshop.goals import synthetic_goals
from bitroute.envs.webshop.nouns import nouns_of
from bitroute.envs.webshop.products import Catalogue, CatalogueFiles, load_catalogue
from bitroute.envs.webshop.reward import reachable


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    folder: Path = tmp_path_factory.mktemp("catalogue")
    write_catalogue(folder, 400, seed=3)
    return load_catalogue(CatalogueFiles.within(folder))


def test_product_i_depends_on_seed_and_i_alone() -> None:
    few, many = generate(5, seed=1), generate(50, seed=1)
    assert few[0] == many[0][:5]
    assert few[0] != generate(5, seed=2)[0]
    assert len({row["asin"] for row in generate(2000, seed=0)[0]}) == 2000


def test_a_file_that_is_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_catalogue(tmp_path, 3, seed=0)
    write_catalogue(tmp_path, 2, seed=0)
    assert len(json.loads((tmp_path / "items_shuffle.json").read_text())) == 2


def test_every_attribute_stands_where_a_shopper_can_read_it(generated: Catalogue) -> None:
    for product in generated.products:
        texts = " ".join((product.title, product.description, *product.bullets)).lower()
        assert all(attribute in texts for attribute in product.attributes)
        assert set(product.instruction_attributes) <= set(product.attributes)


def test_every_goal_can_be_reached(generated: Catalogue) -> None:
    """No value of an option holds the name of another colour, which the reward would take for it."""
    goals = synthetic_goals(generated)
    assert len(goals) > 500
    for goal in goals:
        product = generated.by_asin[goal.asin]
        assert reachable(goal, product, goals.prices.of(product), nouns_of), goal.instruction


def test_types_have_words_of_their_own() -> None:
    words = vocabulary()
    assert len({kind.query for kind in words.types}) == len(words.types) == 35
    assert {kind.category for kind in words.types} == {"beauty", "electronics", "garden", "fashion", "grocery"}
    for kind in words.types:
        attributes = (*kind.before, *kind.features, *kind.uses)
        assert len(set(attributes)) == len(attributes), kind.noun
        assert 0 < kind.price[0] < kind.price[1]
