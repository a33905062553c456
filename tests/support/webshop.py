"""Rows, products and goals of a small WebShop, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitroute.envs.webshop.environment import WebShopEnvironment
from bitroute.envs.webshop.goals import NO_BOUND, Choice, ShoppingTask
from bitroute.envs.webshop.pages import Mode
from bitroute.envs.webshop.prices import Prices
from bitroute.envs.webshop.products import Catalogue, Product

Row = dict[str, Any]
SHELVES = "Home \u203a Furniture \u203a Tables"


def row(asin: str, **fields: Any) -> Row:
    """A row of the items file; `options` maps names to values."""
    options = fields.pop("options", None)
    plain = {
        "asin": asin,
        "name": f"Title of {asin}",
        "full_description": f"Description of {asin}",
        "small_description": [f"Bullet of {asin}"],
        "category": "garden",
        "query": "Console Tables ",
        "product_category": SHELVES,
        "pricing": "$20.00",
        "customization_options": options and {name: [{"value": value} for value in values] for name, values in options.items()},
        "average_rating": "",
    }
    return {**plain, **fields}


def product(asin: str = "B000000001", **fields: Any) -> Product:
    """A product with any fields."""
    plain: dict[str, Any] = {
        "asin": asin,
        "title": f"Title of {asin}",
        "description": "A description",
        "bullets": ("A bullet",),
        "prices": (20.0,),
        "price_tag": "$20.0",
        "options": (),
        "attributes": ("heavy duty",),
        "category": "garden",
        "query": "console tables",
        "product_category": SHELVES,
    }
    return Product(**{**plain, **fields})


def goal(meant: Product | None = None, *choices: tuple[str | None, str], **fields: Any) -> ShoppingTask:
    """The goal to buy a product with these choices of (option, value)."""
    meant = meant or product()
    plain: dict[str, Any] = {
        "id": f"{meant.asin}-0",
        "kind": meant.category,
        "split": "test",
        "number": 7,
        "asin": meant.asin,
        "instruction": "Find me a table",
        "attributes": ("heavy duty",),
        "choices": tuple(Choice(*choice) for choice in choices),
        "bound": NO_BOUND,
        "weight": 1.0,
        "title": meant.title,
        "query": meant.query,
        "product_category": meant.product_category,
    }
    return ShoppingTask(**{**plain, **fields})


def everything(catalogue: Catalogue, query: str) -> Sequence[str]:
    """A search that finds each product whatever is asked, but nothing for a blank query."""
    return [product.asin for product in catalogue.products] if query.strip() else []


def shop(*products: Product, **options: Any) -> WebShopEnvironment:
    """An environment over these products, whose search finds all of them; pages are shown in mode `url` unless said."""
    catalogue = Catalogue(products)
    options.setdefault("mode", Mode.URL)
    return WebShopEnvironment(catalogue, lambda query: everything(catalogue, query), Prices(), **options)
