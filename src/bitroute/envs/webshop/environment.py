"""WebShop, played natively: upstream's pages, actions, states and rewards, without its server. It knows the rules of the shop;
it reads no files and knows no LLM.

What looks odd here is what upstream does: options are forgotten whenever results are shown, marks of visited products are kept
until Back to Search, `< Prev` reads the page's address instead of the page, and one may search after the purchase.

`search[<r>]` shows 50 products at random, anew each time that a page of them is shown. Their draw follows from the task's id
and from how often that happened in the episode: an episode can be played again, and a copy goes on as its original would.
`search[<c> word]` shows a category, `search[<q> text]` what belongs to a query. `search[<a> ...]` and `search[<c>]`, with which
upstream ends in an error, are refused.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from json import dumps
from typing import Final, Protocol, Self

from bitroute.envs.webshop.actions import BACK, BUY, CLICK, NEXT, PREVIOUS, SEARCH, SUB_PAGES, parse
from bitroute.envs.webshop.goals import ShoppingTask
from bitroute.envs.webshop.nouns import nouns_of
from bitroute.envs.webshop.pages import (
    PER_PAGE,
    Kind,
    Mode,
    Page,
    done_page,
    head,
    item_page,
    results_page,
    show,
    start_page,
    sub_page,
)
from bitroute.envs.webshop.prices import Prices
from bitroute.envs.webshop.products import Catalogue, Product
from bitroute.envs.webshop.reward import Nouns, reward
from bitroute.episode import Observation, Transition

MOST: Final = 50  # results of a search, and of a draw

_ADDRESS: Final = "http://127.0.0.1:3000"
_PAGES_KEPT: Final = 4096  # item pages and sub pages that are made once
_SUB_PAGES: Final = {name.lower(): name for name in SUB_PAGES}
# What upstream looks for in an address, in this order, to know what page it is of.
_RESULTS, _ITEM, _SUB = "search_results", "item_page", "item_sub_page"
_PAGING: Final = {NEXT.lower(): 1, PREVIOUS.lower(): -1}
_RANDOM: Final = "<r>"
_NOWHERE: Final = Page(())


class Search(Protocol):
    """A search engine over the documents of a catalogue."""

    def __call__(self, query: str, /) -> Sequence[str]:
        """The ASINs of the best documents for a query, the best one first; at most 50 are looked at."""
        ...


class _Shop:
    """What all episodes share: products, prices, the search, and pages that were made before."""

    __slots__ = ("catalogue", "item", "mode", "nouns", "prices", "search", "start", "sub")

    def __init__(
        self, catalogue: Catalogue, search: Search, prices: Prices, nouns: Nouns, mode: Mode, show_attrs: bool
    ) -> None:
        self.catalogue, self.search, self.prices, self.nouns, self.mode = catalogue, search, prices, nouns, mode
        self.start = start_page()
        self.item = lru_cache(_PAGES_KEPT)(lambda product: item_page(product, show_attrs))
        self.sub = lru_cache(_PAGES_KEPT)(sub_page)


class WebShopEnvironment:
    """The shop behind the `Environment` contract for `ShoppingTask`. It can be copied at every step.

    An observation's `admissible` are the clicks that the page offers, as `click[name]` in upstream's order. A search takes free
    text, so no list can have it: the start page, the only one with a search bar, lists nothing, which leaves an agent free to
    write. A search is answered on every page all the same.

    An action of another form, or a click on what is not there, is answered with the page as it is; so is a refused search, and
    the transition's `info` says why under `refused`. Buying ends the episode with the reward; its parts are the `info`. Actions
    after that are answered as before, with `done` false again.
    """

    __slots__ = (
        "_draws",
        "_head",
        "_hits",
        "_number",
        "_observation",
        "_options",
        "_page",
        "_product",
        "_query",
        "_session",
        "_shop",
        "_task",
        "_url",
        "_visited",
    )

    _task: ShoppingTask
    _session: str  # the goal's number, as addresses have it
    _head: Page  # above all pages but the first and the last one
    _page: Page
    _url: str
    _observation: Observation
    _product: Product
    _query: str
    _number: int  # of the page of results
    _hits: Sequence[Product]
    _options: dict[str, str]
    _visited: set[str]  # ASINs
    _draws: int  # how often products were drawn at random

    def __init__(
        self,
        catalogue: Catalogue,
        search: Search,
        prices: Prices,
        *,
        mode: Mode = Mode.TEXT,
        show_attrs: bool = False,
        nouns: Nouns = nouns_of,
    ) -> None:
        """`prices` are those of the goals (`Goals.prices`): their bounds were drawn for them. `show_attrs` adds the page of a
        product's attributes. `nouns` finds the nouns of titles for the reward.
        """
        self._shop = _Shop(catalogue, search, prices, nouns, mode, show_attrs)

    @property
    def url(self) -> str:
        """The address of the page, as the mode `url` shows it."""
        return self._url

    @property
    def clickables(self) -> tuple[str, ...]:
        """All that upstream lists as clickable on the page: the search button and what no click can reach among it."""
        return tuple(self._page.targets)

    @property
    def options(self) -> dict[str, str]:
        """The values chosen so far, by option, in the order of the first choice."""
        return dict(self._options)

    def reset(self, task: ShoppingTask) -> Observation:
        """Start an episode on the search page; the observation ends with the instruction and the search button."""
        self._task = task
        self._session = str(task.number)
        self._head = head("Instruction:", task.instruction)
        self._draws = 0
        self._enter()
        return self._observation

    def step(self, action: str) -> Transition:
        """Play one action."""
        match parse(action):
            case (verb, query) if verb == SEARCH:
                if reason := _refusal(query):
                    return Transition(self._observation, 0.0, False, info={"refused": reason})
                self._query, self._number = query, 1
                self._hits = self._found(query)
                self._results()
            case (verb, name) if verb == CLICK and name != SEARCH and name in self._page.targets:
                if name == BUY.lower():
                    return self._buy()
                self._click(name)
        return Transition(self._observation, 0.0, False)

    def copy(self) -> Self:
        """An independent copy of the running episode; it shares what never changes."""
        twin = object.__new__(type(self))
        for name in self.__slots__:
            if hasattr(self, name):  # before the first search there is no query, and before the first item page no product
                setattr(twin, name, getattr(self, name))
        twin._options = self._options.copy()
        twin._visited = self._visited.copy()
        return twin

    def _click(self, name: str) -> None:
        """Follow a click on what the page has under this name, in the order in which upstream looks what it may be."""
        node = self._page.targets[name]
        place = _place(self._url) if name in _PAGING else ""
        if name == BACK.lower():
            self._enter()
        elif place == _RESULTS:
            self._number += _PAGING[name]
            self._results()
        elif name == PREVIOUS.lower() and place == _ITEM:
            self._results()
        elif sub := _SUB_PAGES.get(name):
            self._show(self._shop.sub(self._product, sub), f"{_SUB}/{self._session}/{self._way()}/{sub}/{self._options}")
        else:
            if node.kind is Kind.PRODUCT:
                self._product = self._shop.catalogue.by_asin[node.text]
                self._visited.add(node.text)
            elif node.kind is Kind.OPTION:
                self._options[node.option] = name
            self._show(self._shop.item(self._product), f"{_ITEM}/{self._session}/{self._way()}/{dumps(self._options)}")

    def _enter(self) -> None:
        """Show the search page. Only here visited products are forgotten."""
        self._options, self._visited = {}, set()
        start = head("WebShop", "Instruction: ", self._task.instruction)
        self._show(self._shop.start, self._session, start)

    def _results(self) -> None:
        """Show the page of results that the state says. Options are forgotten; random results are drawn anew."""
        self._options = {}
        if self._query.split(" ", 1)[0] == _RANDOM:
            self._hits = self._drawn()
        page = results_page(self._number, len(self._hits), self._hits[(self._number - 1) * PER_PAGE : self._number * PER_PAGE])
        self._show(page, f"{_RESULTS}/{self._session}/{self._query.replace(' ', '+')}/{self._number}")

    def _buy(self) -> Transition:
        """End the episode with the product that is shown and the values that are chosen."""
        shop, product = self._shop, self._product
        outcome = reward(product, shop.prices.of(product), self._options.values(), self._task, shop.nouns)
        receipt = done_page(product.asin, self._options, outcome.total)
        self._show(receipt, f"done/{self._session}/{product.asin}/{self._options}", _NOWHERE)
        return Transition(self._observation, outcome.total, True, outcome.success, outcome.parts())

    def _show(self, page: Page, path: str, above: Page | None = None) -> None:
        """Make `page` the one that the agent is on, under the instruction where no other head is given."""
        self._page, self._url = page, f"{_ADDRESS}/{path}"
        text = show(self._shop.mode, above or self._head, page, self._url, self._visited)
        self._observation = Observation(text, page.commands)

    def _way(self) -> str:
        """The part of an address that says which product is shown and how it was found."""
        return f"{self._product.asin}/{self._query.replace(' ', '+')}/{self._number}"

    def _found(self, query: str) -> Sequence[Product]:
        """The products that a search which is not refused finds. Those at random are drawn when they are shown."""
        shop = self._shop
        sort, *words = query.split(" ")
        match sort:
            case "<r>":
                return ()
            case "<c>":
                return shop.catalogue.by_category.get(words[0].strip(), ())
            case "<q>":
                return shop.catalogue.by_query.get(" ".join(words).strip(), ())
        by_asin = shop.catalogue.by_asin  # the index may hold documents of other products
        return [by_asin[asin] for asin in shop.search(query)[:MOST] if asin in by_asin]

    def _drawn(self) -> Sequence[Product]:
        products = self._shop.catalogue.products
        rng = random.Random(f"{_RANDOM} {self._task.id} {self._draws}")
        self._draws += 1
        return rng.sample(products, min(MOST, len(products)))


def _refusal(query: str) -> str:
    """Why a search cannot be answered, empty where it can."""
    sort, *words = query.split(" ")
    if sort == "<a>":
        return "search[<a> ...] ends with an error in WebShop: there is no search by attribute"
    if sort == "<c>" and not words:
        return "search[<c>] ends with an error in WebShop: name a category, as in search[<c> garden]"
    return ""


def _place(url: str) -> str:
    """The page that upstream takes an address for. It looks for names anywhere: a query that contains one misleads it."""
    return next((place for place in (_RESULTS, _ITEM, _SUB) if place in url), "")
