"""Makes catalogues in WebShop's file format, with instructions for part of the products, so that nobody needs a download to
shop. It knows the published format and a vocabulary of its own; neither goals nor pages.

A product has a type, a few attributes of that type, options, and a price. Each attribute stands in the title, in a bullet or in
the description, so that whoever reads the pages can tell whether a product has it; the search index sees the title, the
description and the first bullet alone, as upstream's does.
"""

from __future__ import annotations

import json
import random
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bitroute.store.files import write_atomic

INSTRUCTED: Final = 0.5  # part of the products that somebody asks for
IN_TITLE: Final = 0.45  # part of a product's attributes that its title tells
BULLETS: Final = 4
RANGED: Final = 0.1  # part of the products whose price depends on the options: a range is shown
OFFERED: Final = 0.8  # probability that a product comes with an option that its type has
ALPHABET: Final = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductType:
    """One sort of things: what they are called, what may be said of them, and what one may choose."""

    category: str
    path: str
    noun: str
    query: str
    before: tuple[str, ...]  # attributes that stand before the noun
    features: tuple[str, ...]  # "with" these
    uses: tuple[str, ...]  # "for" these
    options: tuple[tuple[str, tuple[str, ...]], ...]
    price: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All types, and the words that brands and texts are made of."""

    types: tuple[ProductType, ...]
    brands: tuple[str, ...]
    lines: tuple[str, ...]
    praise: tuple[str, ...]


@cache
def vocabulary() -> Vocabulary:
    """The words of vocabulary.toml."""
    found = tomllib.loads(files("bitroute.envs.webshop").joinpath("vocabulary.toml").read_text(encoding="utf-8"))
    types = [
        ProductType(
            category=name,
            path=f"{shelf['path']} \u203a {kind['path']}",
            noun=kind["noun"],
            query=kind["query"],
            before=(*kind["is"], *shelf["is"]),
            features=(*kind["with"], *shelf["with"]),
            uses=(*kind["for"], *shelf["for"]),
            options=tuple((option, tuple(values)) for option, values in kind["options"].items()),
            price=(kind["price"][0], kind["price"][1]),
        )
        for name, shelf in found.items()
        if isinstance(shelf, dict)
        for kind in shelf["types"].values()
    ]
    brands = tuple((start + end).capitalize() for start in found["brands"] for end in found["endings"])
    return Vocabulary(tuple(types), brands, tuple(found["lines"]), tuple(found["praise"]))


def generate(count: int, seed: int) -> tuple[list[Row], dict[str, Row]]:
    """`count` rows of a products file, and what the file of instructions says of each, by ASIN. Product i is a function of
    `seed` and i alone.
    """
    rows, texts = [], {}
    for index in range(count):
        row, text = _product(random.Random(f"webshop|{seed}|{index}"), _asin(seed, index))
        rows.append(row)
        texts[row["asin"]] = text
    return rows, texts


def write_catalogue(directory: Path, count: int, seed: int) -> None:
    """Put the two files of a generated catalogue into `directory`, under the published names."""
    rows, texts = generate(count, seed)
    write_atomic(directory / "items_ins_v2.json", json.dumps(texts))
    write_atomic(directory / "items_shuffle.json", json.dumps(rows))


def _asin(seed: int, index: int) -> str:
    """Ten characters that look drawn and never repeat: a permutation of the numbers below 34 ** 6."""
    size = len(ALPHABET) ** 6
    number, found = ((index + 1) * 387_420_489 + seed * 7_919) % size, ""
    for _ in range(6):
        number, digit = divmod(number, len(ALPHABET))
        found += ALPHABET[digit]
    return f"B0G{seed % 10}{found}"


def _product(chance: random.Random, asin: str) -> tuple[Row, Row]:
    words = vocabulary()
    kind = chance.choice(words.types)
    before = chance.sample(kind.before, chance.randint(1, 3))
    features = chance.sample(kind.features, chance.randint(1, 2))
    uses = chance.sample(kind.uses, chance.randint(0, 2))
    attributes = [*before, *features, *uses]
    titled = [a for a in attributes if chance.random() < IN_TITLE]
    rest = [a for a in attributes if a not in titled]
    chance.shuffle(rest)
    told = rest.pop() if rest and chance.random() < 0.5 else None
    options = {
        name.title(): [{"value": value} for value in values if value in kept]
        for name, values in kind.options
        if chance.random() < OFFERED
        for kept in [set(chance.sample(values, chance.randint(2, len(values))))]
    }
    low = round(chance.uniform(*kind.price), 2)
    price = f"${low}"
    if chance.random() < RANGED:
        price += f" to ${round(low * chance.uniform(1.1, 1.6), 2)}"
    name = f"{chance.choice(words.brands)} {chance.choice(words.lines)} {kind.noun}"
    description = f"{kind.query.capitalize()} from our {chance.choice(words.lines).lower()} line"
    row = {
        "asin": asin,
        "name": ", ".join([name, *(_title(a, kind) for a in titled)]),
        "full_description": f"{description}, {_phrase(told, kind)}." if told else f"{description}.",
        "small_description": _bullets(chance, [_phrase(a, kind).capitalize() for a in rest], words.praise),
        "customization_options": options or "",
        "product_category": kind.path,
        "category": kind.category,
        "query": kind.query,
        "pricing": price,
    }
    text: Row = {"attributes": attributes}
    if chance.random() < INSTRUCTED:
        wanted = set(chance.sample(attributes, min(len(attributes), chance.randint(1, 3))))
        text["instruction"] = _instruction(kind, wanted)
        text["instruction_attributes"] = [a for a in attributes if a in wanted]
    return row, text


def _title(attribute: str, kind: ProductType) -> str:
    """An attribute as titles have it."""
    return f"for {attribute.title()}" if attribute in kind.uses else attribute.title()


def _phrase(attribute: str, kind: ProductType) -> str:
    """An attribute as texts have it."""
    word = "for" if attribute in kind.uses else "with" if attribute in kind.features else "it is"
    return f"{word} {attribute}"


def _bullets(chance: random.Random, told: list[str], praise: tuple[str, ...]) -> list[str]:
    """What a product's bullets say, in any order: attributes, and nothing to the point."""
    said = [f"{phrase}. {chance.choice(praise)}" for phrase in told]
    said += chance.sample(praise, max(1, BULLETS - len(said)))
    chance.shuffle(said)
    return said


def _instruction(kind: ProductType, wanted: set[str]) -> str:
    """What a shopper asks for."""
    before, features, uses = ([a for a in part if a in wanted] for part in (kind.before, kind.features, kind.uses))
    parts = ["Find me", ", ".join(before), kind.query]
    parts += ["with", ", ".join(features)] if features else []
    parts += ["for", ", ".join(uses)] if uses else []
    return " ".join(part for part in parts if part)
