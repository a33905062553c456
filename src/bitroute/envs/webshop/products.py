"""Products of a WebShop catalogue, read from the published files. It knows the file formats and what the pages and the reward
need of a product; neither goals nor pages, and no random draw.

The rows of `items_shuffle*.json` are read one after the other, so that memory holds what is kept of them and no more: about 3
KB a product. Strings that recur (categories, attributes, names and values of options) are held once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import msgspec

from bitroute.envs.webshop.search.analysis import document_text
from bitroute.errors import DataError

ASIN_LENGTH: Final = 10  # characters at most; longer ones are no products
NO_ASIN: Final = "nan"
NO_PRICE: Final = 100.0  # dollars, of a product without a price
NO_ATTRIBUTES: Final = ("DUMMY_ATTR",)  # of a product that the file of attributes does not describe
ITEMS: Final = ("items_shuffle.json", "items_shuffle_1000.json")  # the whole catalogue comes first
ATTRIBUTES: Final = ("items_ins_v2.json", "items_ins_v2_1000.json")
HUMAN: Final = "items_human_ins.json"

_CHUNK: Final = 1 << 20  # characters
_NOT_PRICE: Final = re.compile(r"[^\d.]")


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """What a person wrote to ask for a product: the text, the attributes and the values of options that it means."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """One product. Two values are equal when they are the same object: a catalogue holds each product once.

    `prices` are in dollars: one price, or the two ends of a range; `price_tag` is what pages show. `options` keep the order of
    the file: names and their values, in lower case. `instruction` asks for the product in synthetic goals, by its
    `instruction_attributes`; None where nobody does.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    prices: tuple[float, ...]
    price_tag: str
    options: tuple[tuple[str, tuple[str, ...]], ...]
    attributes: tuple[str, ...]
    category: str
    query: str
    product_category: str
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = ()

    @property
    def document(self) -> str:
        """The text that a search looks through: title, description, first bullet and options, in lower case."""
        first = self.bullets[0] if self.bullets else ""
        return document_text(self.title, self.description, first, dict(self.options))


@dataclass(frozen=True)
class Catalogue:
    """Products in the order of their file, and the ways to find them. Not slotted: the groups are made when first asked for."""

    products: tuple[Product, ...] = field(repr=False)
    by_asin: Mapping[str, Product] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_asin", {product.asin: product for product in self.products})

    @cached_property
    def by_query(self) -> Mapping[str, Sequence[Product]]:
        """The products that share a query, in the catalogue's order."""
        return _grouped(self.products, "query")

    @cached_property
    def by_category(self) -> Mapping[str, Sequence[Product]]:
        """The products of a category, in the catalogue's order."""
        return _grouped(self.products, "category")


@dataclass(frozen=True, slots=True)
class CatalogueFiles:
    """Where a catalogue's files are. `human` is None where nobody wrote instructions."""

    items: Path
    attributes: Path
    human: Path | None = None

    @classmethod
    def within(cls, folder: Path) -> CatalogueFiles:
        """The published files in a folder; the whole catalogue where both sizes are there. Raises DataError without them."""
        for items, attributes in zip(ITEMS, ATTRIBUTES, strict=True):
            if (folder / items).is_file() and (folder / attributes).is_file():
                human = folder / HUMAN
                return cls(folder / items, folder / attributes, human if human.is_file() else None)
        raise DataError(
            f"{folder} has no WebShop catalogue: want {ITEMS[0]} and {ATTRIBUTES[0]}, or {ITEMS[1]} and {ATTRIBUTES[1]}"
        )


class _Value(msgspec.Struct):
    value: str


class _Row(msgspec.Struct):
    asin: str
    name: str
    full_description: str
    small_description: list[str] | str
    category: str
    query: str
    product_category: str
    pricing: str | None = None
    customization_options: dict[str, list[_Value] | None] | str | None = None


class _Attributes(msgspec.Struct):
    attributes: list[str] | None = None
    instruction: str | None = None
    instruction_attributes: list[str] | None = None


class _Human(msgspec.Struct):
    instruction: str
    instruction_attributes: list[str]
    instruction_options: list[str]


_T = TypeVar("_T")
_SPACE: Final = " \t\r\n"


def load_catalogue(files: CatalogueFiles, rows: int | None = None) -> Catalogue:
    """The products of the first `rows` rows, of all where that is None: there may be fewer products. Raises DataError as
    `read_products` does.
    """
    return Catalogue(tuple(read_products(files, rows)))


def read_products(files: CatalogueFiles, rows: int | None = None) -> Iterator[Product]:
    """The products of the first `rows` rows, one at a time, none of them kept.

    Rows whose ASIN is `nan`, too long, or came before are passed over. Raises DataError, naming the file, the row or ASIN and
    the field, for a file that is missing, truncated or of another form.
    """
    described = dict(_entries(files.attributes, _Attributes))
    asked = dict(_entries(files.human, list[_Human])) if files.human else {}
    pool: dict[str, str] = {}
    seen: set[str] = set()
    for number, raw in enumerate(_stream(files.items, "[")):
        if number == rows:
            break
        where = f"{files.items}, row {number}"
        asin = raw.get("asin") if isinstance(raw, dict) else None
        if not isinstance(asin, str):
            raise DataError(f"{where}: no text in the field `asin`")
        if asin == NO_ASIN or len(asin) > ASIN_LENGTH or asin in seen:
            continue
        seen.add(asin)
        row = _convert(raw, _Row, where)
        entry = described.pop(asin, None) or _Attributes()
        if entry.instruction is not None and not entry.instruction_attributes:
            raise DataError(f"{files.attributes}, {asin}: an instruction, but nothing in the field `instruction_attributes`")
        yield _product(row, entry, asked.pop(asin, ()), where, pool)


def _product(row: _Row, entry: _Attributes, human: Sequence[_Human], where: str, pool: dict[str, str]) -> Product:
    def shared(texts: Sequence[str] | None) -> tuple[str, ...]:
        return tuple(pool.setdefault(text, text) for text in texts or ())

    bullets = row.small_description
    prices, price_tag = _prices(row.pricing, where)
    return Product(
        asin=row.asin,
        title=row.name,
        description=row.full_description,
        bullets=(bullets,) if isinstance(bullets, str) else tuple(bullets),
        prices=prices,
        price_tag=price_tag,
        options=tuple((pool.setdefault(name, name), shared(values)) for name, values in _options(row, where).items()),
        attributes=NO_ATTRIBUTES if entry.attributes is None else shared(entry.attributes),
        category=pool.setdefault(row.category, row.category),
        query=pool.setdefault(query := row.query.lower().strip(), query),
        product_category=pool.setdefault(row.product_category, row.product_category),
        instruction=entry.instruction,
        instruction_attributes=shared(entry.instruction_attributes),
        human=tuple(
            HumanInstruction(each.instruction, shared(each.instruction_attributes), shared(each.instruction_options))
            for each in human
        ),
    )


def _prices(pricing: str | None, where: str) -> tuple[tuple[float, ...], str]:
    """The prices in dollars and what pages show of them. What stands before the first dollar sign is no price."""
    if not pricing:
        return (NO_PRICE,), f"${NO_PRICE}"
    try:
        found = tuple(float(_NOT_PRICE.sub("", part)) for part in pricing.split("$")[1:])
    except ValueError:
        found = ()
    if not found:
        raise DataError(f"{where}: no price in dollars in the field `pricing`: {pricing!r}")
    low, *more = found
    return found[:2], f"${low} to ${more[0]}" if more else f"${low}"


def _options(row: _Row, where: str) -> dict[str, list[str]]:
    """Values by option, both in lower case; of names that become equal the last one's values, at the place of the first."""
    options: dict[str, list[str]] = {}
    if not row.customization_options:
        return options
    if isinstance(row.customization_options, str):
        raise DataError(f"{where}: a text in the field `customization_options`")
    for name, values in row.customization_options.items():
        if values is not None:
            options[name.lower()] = [each.value.strip().replace("/", " | ").lower() for each in values]
    return options


def _entries(path: Path, kind: type[_T]) -> Iterator[tuple[str, _T]]:
    """What a file of one JSON object says of each ASIN."""
    return ((asin, _convert(entry, kind, f"{path}, {asin}")) for asin, entry in _stream(path, "{"))


def _convert(value: Any, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from None


def _stream(path: Path, opening: str) -> Iterator[Any]:
    """What the JSON array (`[`) or object (`{`) of a file holds, one at a time: elements, or pairs of key and value.

    The file of the whole catalogue is larger than most memories.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _elements(file, opening)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:  # broken JSON, and bytes that are no UTF-8
        raise DataError(f"{path} is damaged: {error}") from None


def _elements(file: TextIO, opening: str) -> Iterator[Any]:
    """What is in the array or object of `file`. Raises ValueError where there is none, or it ends too early.

    What is read ahead is cut where an element ends. An element that is longer doubles it, so that no text is parsed often.
    """
    decode = json.JSONDecoder().raw_decode

    def pair(text: str, start: int) -> tuple[Any, int]:
        key, end = decode(text, start)
        value, end = decode(text, _skip(text, end, _SPACE + ":"))
        return (key, value), end

    read, closing = (decode, "]") if opening == "[" else (pair, "}")
    text, ended = file.read(_CHUNK).lstrip(), False
    if not text.startswith(opening):
        raise ValueError(f"it does not begin with {opening}")
    start = 1
    while True:
        start = _skip(text, start, _SPACE + ",")
        if text.startswith(closing, start):
            return
        try:
            element, end = read(text, start)
        except ValueError:
            if ended:
                raise
            more = file.read(max(_CHUNK, len(text) - start))
            text, start, ended = text[start:] + more, 0, not more
        else:
            yield element
            start = end


def _skip(text: str, start: int, characters: str) -> int:
    """The first place from `start` on that holds none of `characters`."""
    while start < len(text) and text[start] in characters:
        start += 1
    return start


def _grouped(products: Sequence[Product], name: str) -> dict[str, list[Product]]:
    groups: dict[str, list[Product]] = {}
    for product in products:
        groups.setdefault(getattr(product, name), []).append(product)
    return groups
