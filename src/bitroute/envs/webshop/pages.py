"""What WebShop's pages hold and how an agent reads them. It knows products and texts; no goal, no state, no rule of the shop.

A page is a row of nodes, the pieces of text between the tags of upstream's HTML. Modes print them: `text` and `text_rich` to
the letter as upstream does; `html` is markup of our own, with upstream's classes and ids for what can be clicked; `url` is the
page's address alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property
from html import escape
from json import dumps
from typing import Final, NamedTuple

from bitroute.envs.webshop.actions import BACK, BUY, NEXT, PREVIOUS, SUB_PAGES, can_click, click
from bitroute.envs.webshop.products import Product

PER_PAGE: Final = 10  # products on a page of results
SEP: Final = " [SEP] "  # between the pieces of a page in mode `text`

_BLANKS: Final = frozenset(" \n\t\f\r")


class Mode(StrEnum):
    """How a page is shown."""

    TEXT = "text"
    TEXT_RICH = "text_rich"
    URL = "url"
    HTML = "html"


class Kind(Enum):
    """What a node is, as far as agents can tell."""

    TEXT = "text"
    BUTTON = "button"
    OPTION = "option"  # a value that can be chosen
    PRODUCT = "product"  # a link to a product: its ASIN
    BAR = "bar"  # where a search is typed: it has no text


class Node(NamedTuple):
    """A piece of a page. `option` is the name of the option that an OPTION is a value of."""

    kind: Kind
    text: str
    option: str = ""


@dataclass(frozen=True)
class Page:
    """The nodes of a page, or of a part of it. Not slotted: what follows from the nodes is made once, when asked for."""

    nodes: tuple[Node, ...]

    @cached_property
    def targets(self) -> Mapping[str, Node]:
        """What can be clicked, by name in lower case and in upstream's order: buttons, products, values of options.

        Of several with one name the last one is clicked, at the place of the first.
        """
        found: dict[str, Node] = {}
        for kind in (Kind.BUTTON, Kind.PRODUCT, Kind.OPTION):
            for node in self.nodes:
                if node.kind is kind:
                    found[node.text if kind is Kind.OPTION else node.text.lower()] = node
        return found

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """The clicks that the shop takes, in upstream's order."""
        return tuple(click(name) for name in self.targets if can_click(name))

    @cached_property
    def text(self) -> str:
        """The page in mode `text`."""
        return SEP.join(text.strip() for node in self.nodes if (text := _visible(node.text)))

    @cached_property
    def rich(self) -> str:
        """The page in mode `text_rich`, with nothing chosen and no product visited."""
        return self.marked("", ())[1]

    def marked(self, url: str, visited: Collection[str]) -> tuple[str, str]:
        """The page in mode `text_rich`: what stands above the whole page, and its lines.

        A value is shown as chosen where `url` has it between double quotes; `visited` are ASINs.
        """
        chosen: list[str] = []
        lines: list[str] = []
        for node in self.nodes:
            if not (text := _visible(node.text)):
                continue
            match node.kind:
                case Kind.BUTTON:
                    lines.append(f"[button] {text} [button_]\n")
                case Kind.OPTION if f'"{text}"' in url:
                    chosen.append(f"You have clicked {text}.\n")
                    lines.append(f"  [clicked button] {text} [clicked button_]\n")
                case Kind.OPTION:
                    lines.append(f"  [button] {text} [button_]\n")
                case Kind.PRODUCT if text in visited:
                    lines.append(f"\n[clicked button] {text} [clicked button_]\n")
                case Kind.PRODUCT:
                    lines.append(f"\n[button] {text} [button_]\n")
                case _:
                    lines.append(f"{text}\n")
        return "".join(reversed(chosen)), "".join(lines)

    @cached_property
    def html(self) -> str:
        """The page's elements as HTML, one a line."""
        return "\n".join(_element(node) for node in self.nodes)


def head(*texts: str) -> Page:
    """What stands above the part of a page where things can be clicked."""
    return Page(tuple(Node(Kind.TEXT, text) for text in texts))


def show(mode: Mode, above: Page, page: Page, url: str, visited: Collection[str] = ()) -> str:
    """What the agent reads of a page under its head. `url` is the page's address, `visited` are the products opened so far."""
    match mode:
        case Mode.URL:
            return url
        case Mode.TEXT:
            return f"{above.text}{SEP}{page.text}" if above.nodes else page.text
        case Mode.TEXT_RICH:
            # No address without a quote shows a choice: most pages are the same each time, and kept.
            top, lines = page.marked(url, visited) if visited or '"' in url else ("", page.rich)
            return f"{top}{above.rich}{lines}"
        case Mode.HTML:
            return f"<html>\n<body>\n{above.html}\n{page.html}\n</body>\n</html>"


def start_page() -> Page:
    """Where one searches."""
    return Page((Node(Kind.BAR, ""), _button("Search")))


def results_page(number: int, total: int, products: Sequence[Product]) -> Page:
    """Page `number` of `total` results: up to ten products. Next is there even on the last page, Prev from page 2 on."""
    nodes = [_button(BACK), Node(Kind.TEXT, f"Page {number} (Total results: {total})")]
    nodes += [_button(PREVIOUS)] if number > 1 else []
    nodes.append(_button(NEXT))
    for product in products:
        nodes += (Node(Kind.PRODUCT, product.asin), Node(Kind.TEXT, product.title), Node(Kind.TEXT, product.price_tag))
    return Page(tuple(nodes))


def item_page(product: Product, show_attrs: bool) -> Page:
    """A product with its options; with `show_attrs` a button leads to its attributes."""
    nodes = [_button(BACK), _button(PREVIOUS)]
    for option, values in product.options:
        nodes.append(Node(Kind.TEXT, option))
        nodes += (Node(Kind.OPTION, value, option) for value in values)
    nodes += (Node(Kind.TEXT, text) for text in (product.title, f"Price: {product.price_tag}", "Rating: N.A."))
    nodes += (_button(name) for name in SUB_PAGES if show_attrs or name != "Attributes")
    nodes.append(_button(BUY))
    return Page(tuple(nodes))


def sub_page(product: Product, name: str) -> Page:
    """One of a product's SUB_PAGES. That of reviews has none: nobody published them."""
    match name:
        case "Description":
            texts: tuple[str, ...] = (product.description,)
        case "Features":
            texts = tuple(f" {bullet}" for bullet in product.bullets)
        case "Attributes":
            attributes = (f" {attribute}" for attribute in product.attributes)
            texts = (*attributes, product.category, product.query, product.product_category)
        case _:
            texts = ()
    return Page((_button(BACK), _button(PREVIOUS), *(Node(Kind.TEXT, text) for text in texts)))


def done_page(asin: str, options: Mapping[str, str], score: float) -> Page:
    """The receipt. Most of its lines are names of what upstream leaves out."""
    bought = dumps(options, sort_keys=True)
    for character in "<>&'":
        bought = bought.replace(character, f"\\u{ord(character):04x}")
    texts = (
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *("Purchased", "asin", asin, "options", bought, "attrs", "None", "category", "None", "query", "None"),
        *("product category", "None"),
        *("Target", "asin", "options", "attrs", "price upper", "instuction text", "category", "product category", "query"),
        *("Goal ", "None", "Reward", "Your score (min 0.0, max 1.0)", str(score), "Reward Details ", "None"),
    )
    return head(*texts)


def _button(name: str) -> Node:
    return Node(Kind.BUTTON, name)


def _visible(text: str) -> str:
    """The text as upstream's HTML parser hands it on: blanks alone are a newline, which is dropped, or one space."""
    if text.isspace() and _BLANKS.issuperset(text):
        return "" if "\n" in text else " "
    return text


def _element(node: Node) -> str:
    text = escape(node.text)
    match node.kind:
        case Kind.BUTTON:
            return f'<button class="btn">{text}</button>'
        case Kind.PRODUCT:
            return f'<a class="product-link">{text}</a>'
        case Kind.OPTION:
            return f'<input type="radio" name="{escape(node.option)}" value="{text}"><label>{text}</label>'
        case Kind.BAR:
            return '<input id="search_input">'
        case Kind.TEXT:
            return f"<p>{text}</p>"
