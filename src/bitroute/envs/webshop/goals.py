"""What agents are asked for: goals, drawn from the instructions of a catalogue. It knows products and the order of the draws;
no page.

A synthetic goal is an instruction with one value of each option that the product has; a human goal is what a person wrote. Each
has a highest price: of the first four of 10, 20, ... 990 dollars above the product's price, the larger of two that are drawn.

Our draws depend on the seed and on the product alone. Our order goes in rounds: every product once, in a drawn order, then
every product that has a second goal, and so on: a few products with many options do not fill the first thousand. Upstream's
draws and order, from one generator for all, are there for whoever compares: `compatible` is the seed that was set before its
server was made. Its permutation of the goals is always the same.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Final

from bitroute.envs.webshop.actions import can_choose
from bitroute.envs.webshop.prices import Prices
from bitroute.envs.webshop.products import Catalogue, Product
from bitroute.envs.webshop.splits import split_of, upstream_split
from bitroute.episode import Task

NO_BOUND: Final = 1_000_000.0  # dollars: a goal without a price clause

_BOUNDS: Final = tuple(10.0 * step for step in range(1, 100))  # dollars
_NEAREST: Final = 4  # of the bounds above the price
_SHUFFLE: Final = 233  # the seed of upstream's permutation


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that an option shall have. `option` is None in a human goal, which names values alone."""

    option: str | None
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShoppingTask(Task):
    """Buy what the instruction asks for. `kind` is the product's category.

    `number` is the goal's place in the order of all goals, and its name in page addresses. `bound` is the highest price in
    dollars. `title`, `query` and `product_category` are those of the product that is meant: the reward compares the sort.
    """

    number: int
    asin: str
    instruction: str
    attributes: tuple[str, ...]
    choices: tuple[Choice, ...]
    bound: float
    weight: float
    title: str
    query: str
    product_category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """An instruction for a product: it makes a goal of each combination of `axes`, values by option."""

    product: Product
    name: str  # unique among requests
    text: str
    attributes: tuple[str, ...]
    axes: tuple[tuple[str | None, tuple[str, ...]], ...]
    bound: float

    @property
    def size(self) -> int:
        return prod(len(values) for _, values in self.axes)

    def choices(self, combination: int) -> tuple[Choice, ...]:
        """The values of a combination; the last option's change fastest."""
        found: list[Choice] = []
        for option, values in reversed(self.axes):
            combination, place = divmod(combination, len(values))
            found.append(Choice(option, values[place]))
        return tuple(reversed(found))

    def instruction(self, choices: Sequence[Choice]) -> str:
        """The whole sentence: what is asked for, named options, the price."""
        named = ", and ".join(f"{choice.option}: {choice.value}" for choice in choices if choice.option is not None)
        price = "" if self.bound == NO_BOUND else f", and price lower than {self.bound:.2f} dollars"
        return self.text + (f" with {named}" if named else "") + price


@dataclass(frozen=True, kw_only=True)
class Goals:
    """The goals of a catalogue in their order, each made when asked for: a large catalogue has millions.

    `order` holds flat numbers of goals: request after request, combination after combination; `starts` has the first of each
    request, and `weights` the weight of each of its goals. `numbers` are the goals' places among all goals.
    """

    prices: Prices
    requests: Sequence[_Request]
    starts: Sequence[int]
    weights: Sequence[float]
    order: Sequence[int]
    numbers: Sequence[int]
    compatible: bool

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> ShoppingTask:
        """The goal at a place, from 0. Raises IndexError beyond the end."""
        flat, number = self.order[index], self.numbers[index]
        place = self._place(flat)
        request, combination = self.requests[place], flat - self.starts[place]
        product, choices = request.product, request.choices(combination)
        return ShoppingTask(
            id=f"{request.name}-{combination}",
            kind=product.category,
            split=self._split(index),
            number=number,
            asin=product.asin,
            instruction=request.instruction(choices),
            attributes=request.attributes,
            choices=choices,
            bound=request.bound,
            weight=self.weights[place],
            title=product.title,
            query=product.query,
            product_category=product.product_category,
        )

    def __iter__(self) -> Iterator[ShoppingTask]:
        return (self[index] for index in range(len(self)))

    def of(self, split: str) -> Goals:
        """The goals of a split, in the same order and with the same numbers; none where no split has this name."""
        kept = [index for index in range(len(self)) if self._split(index) == split]
        return replace(
            self,
            order=array("q", (self.order[index] for index in kept)),
            numbers=array("q", (self.numbers[index] for index in kept)),
        )

    def draw(self, rng: random.Random) -> ShoppingTask:
        """A goal, drawn by weight. Among compatible goals with upstream's slip: goal i is drawn with the weight of goal i - 1,
        the last one with its own as well, and the first one never (unless it is the only one).
        """
        index = bisect_right(self._cumulative, rng.uniform(0, self._cumulative[-1]))
        return self[min(index if self.compatible else index - 1, len(self) - 1)]

    @cached_property
    def _cumulative(self) -> list[float]:
        return list(accumulate((self.weights[self._place(flat)] for flat in self.order), initial=0.0))

    def _place(self, flat: int) -> int:
        """The place of the request that a goal is of. Those without goals start where the next one does."""
        return bisect_right(self.starts, flat) - 1

    def _split(self, index: int) -> str:
        if self.compatible:
            return upstream_split(self.numbers[index])
        return split_of(self.requests[self._place(self.order[index])].product.asin)


def synthetic_goals(catalogue: Catalogue, *, seed: int = 0, compatible: int | None = None) -> Goals:
    """A goal for each combination of options of each product with an instruction.

    A goal's weight is the mean over its attributes of 1 / (number of goals with that attribute). With `compatible` everything
    is drawn as upstream draws it after `random.seed(compatible)`; `seed` has no say then.
    """
    asked = [
        _Request(
            product=product,
            name=product.asin,
            text=product.instruction,
            attributes=product.instruction_attributes,
            axes=tuple(sorted(product.options)),  # by name
            bound=NO_BOUND,
        )
        for product in catalogue.products
        if product.instruction is not None
    ]
    return _goals(catalogue, asked, weighted=True, seed=seed, compatible=compatible)


def human_goals(catalogue: Catalogue, *, seed: int = 0, compatible: int | None = None) -> Goals:
    """A goal for each instruction that a person wrote with at least one attribute; all weigh 1. Draws as in synthetic goals."""
    asked = [
        _Request(
            product=product,
            name=f"{product.asin}-human{number}",
            text=written.text.strip("."),
            attributes=written.attributes,
            axes=tuple((None, (value,)) for value in written.options),
            bound=NO_BOUND,
        )
        for product in catalogue.products
        for number, written in enumerate(product.human)
        if written.attributes
    ]
    return _goals(catalogue, asked, weighted=False, seed=seed, compatible=compatible)


def purchase(task: ShoppingTask, product: Product) -> tuple[str, ...] | None:
    """The values to click on the page of the task's product so that exactly its choices are bought; None where that cannot be:
    a value is not there or cannot be clicked, or a click on it chooses another option's equal value.
    """
    chosen = {value: option for option, values in product.options for value in values}
    for choice in task.choices:
        if choice.value not in chosen or not can_choose(choice.value) or choice.option not in (None, chosen[choice.value]):
            return None
    return tuple(choice.value for choice in task.choices)


def _goals(catalogue: Catalogue, asked: Sequence[_Request], *, weighted: bool, seed: int, compatible: int | None) -> Goals:
    order: Sequence[int]
    if compatible is None:
        prices = Prices(seed)
        requests = [_priced(request, prices, random.Random(f"bound {seed} {request.name}")) for request in asked]
        order = _rounds(requests, seed)
    else:
        rng = random.Random(compatible)
        prices = Prices.in_order(catalogue.products, rng)
        requests = [_priced(request, prices, rng) for request in asked]
        order = array("q", range(sum(request.size for request in requests)))
        random.Random(_SHUFFLE).shuffle(order)
    return Goals(
        prices=prices,
        requests=requests,
        starts=list(accumulate((request.size for request in requests), initial=0)),
        weights=_weights(requests) if weighted else [1.0] * len(requests),
        order=order,
        numbers=range(len(order)),
        compatible=compatible is not None,
    )


def _priced(request: _Request, prices: Prices, rng: random.Random) -> _Request:
    """The request with the bound that all its goals share; none where fewer than two bounds are above the price."""
    price = prices.of(request.product)
    nearest = [bound for bound in _BOUNDS if bound > price][:_NEAREST]
    return replace(request, bound=max(rng.sample(nearest, 2))) if len(nearest) > 1 else request


def _weights(requests: Sequence[_Request]) -> list[float]:
    """By request, the weight of each of its goals: the rarer its attributes among goals, the heavier."""
    count: Counter[str] = Counter()
    for request in requests:
        for attribute in request.attributes:
            count[attribute] += request.size
    return [
        sum(1.0 / count[attribute] for attribute in request.attributes) / len(request.attributes) if request.size else 0.0
        for request in requests
    ]


def _rounds(requests: Sequence[_Request], seed: int) -> array[int]:
    """Flat numbers of goals: one of each request, in a drawn order, then a second one of each that has two, and so on."""
    rest: list[array[int]] = []
    start = 0
    for request in requests:
        flat = array("q", range(start, start := start + request.size))
        random.Random(f"combinations {seed} {request.name}").shuffle(flat)
        rest.append(flat)
    random.Random(f"order {seed}").shuffle(rest)
    order, done = array("q"), 0
    while rest := [flat for flat in rest if len(flat) > done]:
        order.extend(flat[done] for flat in rest)
        done += 1
    return order
