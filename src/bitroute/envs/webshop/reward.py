"""The reward of a purchase, part by part. It knows a product, a goal and how texts are compared; no page and no state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bitroute.envs.webshop.goals import Choice, ShoppingTask, purchase
from bitroute.envs.webshop.matching import COLOURS, alike, colour
from bitroute.envs.webshop.products import Product

Nouns = Callable[[str], Sequence[str]]  # the nouns of a title, in lower case, repeated as often as they occur

ENOUGH: Final = 0.2  # title scores above it say that two products are of one sort
LITTLE: Final = 0.1  # title scores below it say that they are not, whatever else they share
_SHELF: Final = "\u203a"  # between the steps of a product category


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a purchase is worth, 0 to 1, and why. The names are upstream's.

    `r_type` says whether the product is of the sort that was meant, by its query, its categories and the nouns of its title.
    `r_att` and `r_option` are shares of the goal's attributes and options that the purchase has (`r_option` is None where the
    goal has no option), `r_price` says whether it is cheap enough; `w_att`, `w_option` and `w_price` are the parts' weights.
    """

    total: float
    r_type: float
    query_match: bool
    category_match: bool
    title_score: float
    r_att: float
    w_att: float
    r_option: float | None
    w_option: float | None
    r_price: bool
    w_price: float

    @property
    def success(self) -> bool:
        """Whether exactly what was asked for was bought, as far as the reward can tell."""
        return self.total == 1.0

    def parts(self) -> dict[str, Any]:
        """The parts as upstream reports them: those of options only where the goal has some."""
        names = ["r_type", "r_att", "w_att", "query_match", "category_match", "title_score"]
        names += ["r_option", "w_option"] if self.r_option is not None else []
        return {name: getattr(self, name) for name in (*names, "r_price", "w_price")}


def reward(product: Product, price: float, chosen: Iterable[str], task: ShoppingTask, nouns: Nouns) -> Reward:
    """What buying `product` at `price` dollars with the `chosen` values of its options is worth for a goal."""
    query_match = product.query == task.query
    category_match = len(_shelves(product.product_category) & _shelves(task.product_category)) >= 2
    title_score = _title_score(nouns(product.title), nouns(task.title))
    if title_score == 0.0:
        r_type = 0.0
    elif title_score < LITTLE:
        r_type = 0.1
    else:
        r_type = 1.0 if query_match or category_match or title_score > ENOUGH else 0.5
    attributes, options = len(task.attributes), len(task.choices)
    found = _attributes_found(product, task.attributes)
    met = _choices_met(chosen, task)
    r_price = price <= task.bound
    parts = attributes + options + 1
    return Reward(
        total=(found + met + r_price) / parts * r_type,
        r_type=r_type,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        r_att=found / attributes,
        w_att=attributes / parts,
        r_option=met / options if options else None,
        w_option=options / parts if options else None,
        r_price=r_price,
        w_price=1 / parts,
    )


def reachable(task: ShoppingTask, product: Product, price: float, nouns: Nouns) -> bool:
    """Whether buying exactly what a goal names, its own product with its choices, can be done and is worth 1.

    It is not where a choice cannot be clicked, and where upstream's comparison misses it: a colour within a longer word, as in
    `black2626`, stands for the chosen value, but not for the goal's.
    """
    values = purchase(task, product)
    return values is not None and reward(product, price, values, task, nouns).success


def _shelves(product_category: str) -> set[str]:
    return {shelf.strip() for shelf in product_category.split(_SHELF)}


def _title_score(bought: Sequence[str], meant: Sequence[str]) -> float:
    """The share of the meant title's nouns that both titles have; each counts once above the line, as often as it occurs
    below it.
    """
    return len(set(bought) & set(meant)) / len(meant) if meant else ENOUGH


def _attributes_found(product: Product, wanted: Sequence[str]) -> int:
    """How many of the wanted attributes the product has, in its list or word for word in its texts."""
    missing = [name for name in wanted if not any(alike(attribute, name) for attribute in product.attributes)]
    texts = (product.title, " ".join(product.bullets), product.description) if missing else ()
    return len(wanted) - sum(not any(name in text.lower() for text in texts) for name in missing)


def _choices_met(chosen: Iterable[str], task: ShoppingTask) -> int:
    """How many of the goal's choices are like some chosen value, whatever the option. A colour stands for what contains it."""
    values = [colour(value) for value in chosen]
    return sum(any(alike(value, wanted) for value in values) for wanted in map(_compared, task.choices))


def _compared(choice: Choice) -> str:
    """The text of a goal's choice that chosen values are compared with.

    Upstream looks for colours in a synthetic goal's pair of name and value instead of in a text: only a value (or name) that
    is a colour and nothing else stands for it, any other pair is compared as Python prints it.
    """
    if choice.option is None:
        return colour(choice.value)
    pair = (choice.option, choice.value)
    return next((name for name in COLOURS if name in pair), str(pair))
