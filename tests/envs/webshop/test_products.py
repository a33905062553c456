from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitroute.envs.webshop import products
from bitroute.envs.webshop.products import Catalogue, CatalogueFiles, HumanInstruction, load_catalogue
from bitroute.errors import DataError
from support.webshop import row

Write = Callable[..., CatalogueFiles]


def test_a_row_becomes_a_product(write: Write) -> None:
    said = {
        "B000000001": {
            "attributes": ["heavy duty", "easy clean"],
            "instruction": "Find me heavy duty tables",
            "instruction_attributes": ["heavy duty"],
        }
    }
    (product,) = load_catalogue(write([row("B000000001", pricing="$1,234.50")], said)).products
    assert product.asin == "B000000001"
    assert product.title == "Title of B000000001"
    assert product.description == "Description of B000000001"
    assert product.bullets == ("Bullet of B000000001",)
    assert (product.prices, product.price_tag) == ((1234.5,), "$1234.5")
    assert product.options == ()
    assert product.attributes == ("heavy duty", "easy clean")
    assert (product.category, product.query) == ("garden", "console tables")
    assert product.instruction == "Find me heavy duty tables"
    assert product.instruction_attributes == ("heavy duty",)
    assert product.human == ()


def test_rows_that_are_no_new_products_are_passed_over_whatever_they_hold(write: Write) -> None:
    rows = [row("B1"), {"asin": "nan"}, row("ABCDEFGHIJK"), row("B1", name="Again"), row("ABCDEFGHIJ"), row("B2")]
    assert [product.asin for product in load_catalogue(write(rows)).products] == ["B1", "ABCDEFGHIJ", "B2"]
    assert load_catalogue(write(rows)).by_asin["B1"].title == "Title of B1"


def test_the_limit_counts_raw_rows(write: Write) -> None:
    files = write([row("nan"), row("B1"), row("B1"), row("B2"), row("B3")])
    assert [product.asin for product in load_catalogue(files, rows=4).products] == ["B1", "B2"]
    assert load_catalogue(files, rows=0).products == ()


def test_a_bare_bullet_becomes_a_list(write: Write) -> None:
    (product,) = load_catalogue(write([row("B1", small_description="Only one")])).products
    assert product.bullets == ("Only one",)


def test_attributes_that_nobody_told_are_a_dummy(write: Write) -> None:
    rows = [row("B1"), row("B2"), row("B3")]
    catalogue = load_catalogue(write(rows, {"B2": {"instruction": None}, "B3": {"attributes": []}}))
    assert [product.attributes for product in catalogue.products] == [("DUMMY_ATTR",), ("DUMMY_ATTR",), ()]


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        (None, (100.0,), "$100.0"),
        ("", (100.0,), "$100.0"),
        ("$26.00", (26.0,), "$26.0"),
        ("$5.00 - $7.50", (5.0, 7.5), "$5.0 to $7.5"),
        ("$3.1$4.2$5.3", (3.1, 4.2), "$3.1 to $4.2"),  # a third one is ignored
        ("from 2 for $1,000", (1000.0,), "$1000.0"),
        ("$9 to $4", (9.0, 4.0), "$9.0 to $4.0"),
    ],
)
def test_prices(write: Write, pricing: str | None, prices: tuple[float, ...], tag: str) -> None:
    (product,) = load_catalogue(write([row("B1", pricing=pricing)])).products
    assert (product.prices, product.price_tag) == (prices, tag)


def test_a_row_without_a_field_for_the_price_costs_a_hundred(write: Write) -> None:
    raw = row("B1")
    del raw["pricing"]
    assert load_catalogue(write([raw])).products[0].prices == (100.0,)


def test_options_are_lower_case_in_the_order_of_the_file(write: Write) -> None:
    raw = row("B1", options={"Size": [" XL/2XL ", "/", ""], "Color": ["Red", "RED"]})
    raw["customization_options"]["Gone"] = None
    raw["customization_options"]["Empty"] = []
    (product,) = load_catalogue(write([raw])).products
    assert product.options == (("size", ("xl | 2xl", " | ", "")), ("color", ("red", "red")), ("empty", ()))


def test_of_option_names_that_become_equal_the_last_one_wins_at_the_place_of_the_first(write: Write) -> None:
    (product,) = load_catalogue(write([row("B1", options={"Color": ["a"], "Size": ["s"], "COLOR": ["b"]})])).products
    assert product.options == (("color", ("b",)), ("size", ("s",)))


def test_what_people_wrote(write: Write) -> None:
    written = {"instruction": "I want it.", "instruction_attributes": ["red"], "instruction_options": ["xl"], "worker": 1}
    (product,) = load_catalogue(write([row("B1")], human={"B1": [written], "B2": []})).products
    assert product.human == (HumanInstruction("I want it.", ("red",), ("xl",)),)


def test_the_document_that_searches_look_through(write: Write) -> None:
    rows = [
        row("B1", name="A Table", small_description=["First", "Second"], options={"Size": ["S", "M"], "Color": ["Red"]}),
        row("B2", name="A Lamp", full_description="", small_description=[]),
    ]
    assert [product.document for product in load_catalogue(write(rows)).products] == [
        "a table description of b1 first size: s, m, and color: red",
        "a lamp   ",
    ]


def test_products_are_found_by_query_and_category(write: Write) -> None:
    catalogue = load_catalogue(write([row("B1", query=" Lamps"), row("B2", category="Fashion"), row("B3")]))
    assert {query: [each.asin for each in found] for query, found in catalogue.by_query.items()} == {
        "lamps": ["B1"],
        "console tables": ["B2", "B3"],
    }
    assert [each.asin for each in catalogue.by_category["Fashion"]] == ["B2"]


def test_strings_that_recur_are_held_once(write: Write) -> None:
    rows = [row(asin, options={"Color": ["Deep Red"]}) for asin in ("B1", "B2")]
    first, second = load_catalogue(write(rows, {asin: {"attributes": ["easy clean"]} for asin in ("B1", "B2")})).products
    assert first.query is second.query
    assert first.product_category is second.product_category
    assert first.options[0][1][0] is second.options[0][1][0]
    assert first.attributes[0] is second.attributes[0]


@pytest.mark.parametrize("chunk", [1, 7, 100, 1 << 20])
def test_files_are_read_in_pieces_of_any_size(write: Write, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(products, "_CHUNK", chunk)
    rows = [row(f"B{number}", name=f'quote " brace ] \u00e9 {number}', options={"Size": ["1/2"]}) for number in range(9)]
    said = {f"B{number}": {"attributes": [f"a {number}", "}"]} for number in range(9)}
    catalogue = load_catalogue(write(json.dumps(rows, indent=1), json.dumps(said, indent=1)))
    assert [product.title for product in catalogue.products] == [each["name"] for each in rows]
    assert [product.attributes for product in catalogue.products] == [tuple(each["attributes"]) for each in said.values()]


def test_numbers_that_are_none_are_taken_in_fields_that_nobody_reads(write: Write) -> None:
    assert load_catalogue(write("[" + json.dumps(row("B1", average_rating=float("nan"))) + "]")).products


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "row 1: Expected `str`, got `null` - at `$.name`"),
        ({"small_description": [1]}, "row 1: Expected `str`, got `int` - at `$.small_description[0]`"),
        ({"full_description": 3}, "row 1: Expected `str`, got `int` - at `$.full_description`"),
        ({"customization_options": "red"}, "row 1: a text in the field `customization_options`"),
        ({"customization_options": {"Size": [{}]}}, "row 1: Object missing required field `value`"),
        ({"pricing": "20 dollars"}, "row 1: no price in dollars in the field `pricing`: '20 dollars'"),
        ({"pricing": "$"}, "row 1: no price in dollars in the field `pricing`"),
        ({"pricing": "$1.2.3"}, "row 1: no price in dollars in the field `pricing`"),
        ({"asin": 5}, "row 1: no text in the field `asin`"),
    ],
)
def test_a_row_of_another_form_is_named(write: Write, change: dict[str, Any], message: str) -> None:
    files = write([row("B1"), {**row("B2"), **change}])
    with pytest.raises(DataError) as caught:
        load_catalogue(files)
    assert f"{files.items}, {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"B1": {"attributes": "red"}}, r"B1: Expected `array \| null`, got `str` - at `\$.attributes`"),
        ({"B1": {"instruction": "Find me"}}, "B1: an instruction, but nothing in the field `instruction_attributes`"),
        ({"B1": {"instruction": "Find me", "instruction_attributes": []}}, "B1: an instruction, but nothing"),
        ("[]", "is damaged: it does not begin with {"),
        ('{"B1": {}', "is damaged"),
    ],
)
def test_attributes_of_another_form_are_named(write: Write, attributes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_catalogue(write([row("B1")], attributes))
    assert "items_ins_v2_1000.json" in str(caught.value)


def test_human_instructions_of_another_form_are_named(write: Write) -> None:
    with pytest.raises(DataError, match=r"items_human_ins.json, B1: Object missing required field `instruction_attributes`"):
        load_catalogue(write([row("B1")], human={"B1": [{"instruction": "I want it"}]}))


@pytest.mark.parametrize("text", ["", "{}", "[", '[{"asin": "B1"', '[{"asin": "nan"}', '[{"asin": "nan"} x]'])
def test_a_damaged_file_of_items_is_named(write: Write, text: str) -> None:
    with pytest.raises(DataError, match=r"items_shuffle_1000.json is damaged"):
        load_catalogue(write(text))


def test_an_element_that_is_no_row_is_named(write: Write) -> None:
    with pytest.raises(DataError, match="row 0: no text in the field `asin`"):
        load_catalogue(write("[3]"))


def test_bytes_that_are_no_text_are_damage(write: Write) -> None:
    files = write([row("B1")])
    files.items.write_bytes(b'[{"asin": "\xff"}]')
    with pytest.raises(DataError, match="is damaged"):
        load_catalogue(files)


def test_a_missing_file_is_named(write: Write) -> None:
    files = write([row("B1")])
    files.attributes.unlink()
    with pytest.raises(DataError, match=r"cannot read .*items_ins_v2_1000\.json"):
        load_catalogue(files)


def test_the_whole_catalogue_comes_first_and_human_instructions_are_optional(write: Write, tmp_path: Path) -> None:
    assert write([]).human is None
    for name in ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    files = CatalogueFiles.within(tmp_path)
    assert [path.name for path in (files.items, files.attributes, files.human or tmp_path)] == [
        "items_shuffle.json",
        "items_ins_v2.json",
        "items_human_ins.json",
    ]


def test_a_folder_without_a_catalogue_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no WebShop catalogue: want items_shuffle.json"):
        CatalogueFiles.within(tmp_path)


def test_the_published_catalogue(published: Catalogue) -> None:
    assert len(published.products) == 1000
    assert sum(product.instruction is not None for product in published.products) == 415
    assert sum(len(product.prices) == 2 for product in published.products) == 93
    assert sum(bool(product.options) for product in published.products) == 423
