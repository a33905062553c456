"""A shopper that sees only the pages: it searches with the words of the instruction, compares what comes, reads what titles
leave open, chooses options, and buys. It knows the text of pages (mode `text`) and what can be clicked, no catalogue.

Its rules are few and follow from what was read, because a small model shall learn them by imitation:

- the first search is the instruction without its first words and its price;
- of a page of results, products that cost too much are passed by; of the others those are opened first whose titles tell most
  of what is wanted, in the order of the page;
- what a title leaves open is looked for among the features, then, if it is one thing alone, in the description; a product
  that lacks something wanted, an option or an attribute, is left;
- who has seen enough products buys the best of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from bitroute.envs.webshop.actions import BACK, BUY, NEXT, PREVIOUS, SEARCH, SUB_PAGES
from bitroute.envs.webshop.pages import PER_PAGE, SEP
from bitroute.episode import Observation

BOUND: Final = re.compile(r",? and price lower than ([\d.]+) dollars$")
OPTIONS: Final = re.compile(r"(.*) with ([^:,]+: .+)")  # the last "with" before a name and a colon
OPENING: Final = re.compile(r"^(?:find me|i want|i need|show me)\s+", re.IGNORECASE)
ASIN: Final = re.compile(r"[A-Z0-9]{10}")
PRICE: Final = re.compile(r"\$([\d.]+)")
ENOUGH: Final = 5  # products that are looked at before the best of them is bought
PAGES: Final = 2  # of results that are looked through
BUTTONS: Final = frozenset(name.lower() for name in (SEARCH, BACK, PREVIOUS, NEXT, BUY, *SUB_PAGES))


@dataclass(frozen=True, slots=True)
class Wish:
    """What an instruction asks for: `text` without price and options, phrases that a product's texts should have, the sort of
    thing with an attribute before it, the values of options, and the highest price in dollars.
    """

    text: str
    phrases: tuple[str, ...]
    thing: str
    options: tuple[str, ...]
    bound: float

    @classmethod
    def of(cls, instruction: str) -> Wish:
        """The wish that an instruction says. A text of another form is a wish without phrases."""
        text, bound, options = instruction.strip(), float("inf"), ""
        if match := BOUND.search(text):
            bound, text = float(match[1]), text[: match.start()]
        if match := OPTIONS.fullmatch(text):
            text, options = match.groups()
        text = OPENING.sub("", text)
        head, _, uses = text.partition(" for ")
        head, _, features = head.partition(" with ")
        *before, thing = head.lower().split(", ")
        behind = [part for group in (features, uses) if group for part in group.lower().split(", ")]
        values = [pair.split(": ", 1)[1].lower() for pair in options.split(", and ") if ": " in pair]
        return cls(text, (*before, *behind), thing, tuple(values), bound)


@dataclass(slots=True)
class Seen:
    """What is known of a product: the page of results that it is on, its texts so far, which of its own pages were read, and
    whether its options are right.
    """

    page: int
    texts: str
    price: float
    read: set[str] = field(default_factory=set)
    options: bool | None = None  # None: its page was not opened


class Shopper:
    """The memory of one episode and the choice that follows from it.

    `observe` takes in any executed action, its own or a stranger's; `act` changes nothing.
    """

    def __init__(self, opening: Observation) -> None:
        self.wish = Wish.of(instruction_of(opening.text))
        self.products: dict[str, Seen] = {}
        self.here: str | None = None  # the product whose page is open, or that a page of text belongs to
        self.results: tuple[str, ...] = ()
        self.page = self.deepest = 0  # of results: shown last, and the highest number so far
        self.searches = 0
        self.chosen: set[str] = set()

    def observe(self, action: str, observation: Observation) -> None:
        """Learn from what `action` was answered with."""
        parts = observation.text.split(SEP)
        argument = action.partition("[")[2].removesuffix("]").lower()
        commands = clickables(observation)
        if "buy now" in commands:
            self._read_item(action, argument, parts, commands)
        elif any(part.startswith("Page ") for part in parts):
            self._read_results(action, parts)
        elif argument in {"description", "features"} and self.here:
            seen = self.products[self.here]
            seen.texts += " " + " ".join(parts[3:]).lower()
            seen.read.add(argument)

    def act(self, observation: Observation) -> str:
        """The choice in the current state."""
        commands = clickables(observation)
        if "buy now" in commands and self.here in self.products:
            return self._at_item(self.here, commands)
        if self.results and any(asin.lower() in commands for asin in self.results):
            return self._at_results(commands)
        if "< prev" in commands:  # a page of text
            return "click[< prev]"
        if "search" in commands or not commands:
            return f"search[{self._query()}]"
        return "click[back to search]"

    def _query(self) -> str:
        """The words of the wish; the sort of thing alone where these found nothing."""
        words = self.wish.thing if self.searches else " ".join([self.wish.text.replace(",", ""), *self.wish.options])
        return words.lower()

    def _read_results(self, action: str, parts: list[str]) -> None:
        if action.startswith("search["):
            self.searches += 1
            self.deepest = 0
        self.here, self.chosen, found = None, set(), []
        self.page = int(next(part for part in parts if part.startswith("Page ")).split()[1])
        self.deepest = max(self.deepest, self.page)
        for position, part in enumerate(parts[:-2]):
            if ASIN.fullmatch(part):
                found.append(part)
                self.products.setdefault(part, Seen(self.page, parts[position + 1].lower(), cheapest(parts[position + 2])))
        self.results = tuple(found)

    def _read_item(self, action: str, argument: str, parts: list[str], commands: frozenset[str]) -> None:
        if (asin := argument.upper()) in self.products:
            self.here = asin
            self.products[asin].options = all(value in commands for value in self.wish.options)
        elif argument in commands - BUTTONS and action.startswith("click"):
            self.chosen.add(argument)

    def _at_item(self, asin: str, commands: frozenset[str]) -> str:
        seen = self.products[asin]
        settled = self._best() == asin and self._over()
        if not settled and not seen.options:
            return "click[< prev]"
        if not settled and (missing := self._missing(seen)):
            if "features" not in seen.read:
                return "click[features]"
            return "click[description]" if len(missing) == 1 and "description" not in seen.read else "click[< prev]"
        for value in self.wish.options:
            if value in commands and value not in self.chosen:
                return f"click[{value}]"
        return "click[buy now]"

    def _at_results(self, commands: frozenset[str]) -> str:
        if not self._enough() and (candidates := self._candidates()):
            return f"click[{candidates[0].lower()}]"
        if not self._over():
            return "click[next >]"
        best = self._best()
        if best.lower() in commands:
            return f"click[{best.lower()}]"
        return "click[< prev]" if self.products[best].page < self.page else "click[next >]"

    def _over(self) -> bool:
        """Whether nothing more is worth a look: then the best that was seen is bought."""
        last = self.deepest >= PAGES or len(self.results) < PER_PAGE
        return self._enough() or (last and not self._candidates())

    def _candidates(self) -> list[str]:
        """Products of the last page of results that are worth opening, the most promising first."""
        new = [a for a in self.results if self.products[a].options is None and self.products[a].price <= self.wish.bound]
        return sorted(new, key=lambda asin: len(self._missing(self.products[asin])))

    def _missing(self, seen: Seen) -> list[str]:
        """The wanted phrases that a product's texts do not have yet."""
        return [phrase for phrase in (*self.wish.phrases, self._attribute()) if phrase not in seen.texts]

    def _attribute(self) -> str:
        """What stands before the sort of thing in "fade resistant area rugs": as many of its first words as were seen together
        in any product's texts.
        """
        words = self.wish.thing.split()
        for count in range(len(words) - 1, 0, -1):
            phrase = " ".join(words[:count])
            if any(phrase in seen.texts for seen in self.products.values()):
                return phrase
        return ""

    def _enough(self) -> bool:
        return sum(seen.options is not None for seen in self.products.values()) >= ENOUGH

    def _best(self) -> str:
        """The product that comes nearest to the wish, of those that were looked at (of all, where none was)."""
        opened = {a: s for a, s in self.products.items() if s.options is not None} or self.products
        return min(
            opened, key=lambda a: (opened[a].price > self.wish.bound, not opened[a].options, len(self._missing(opened[a])))
        )


def instruction_of(text: str) -> str:
    """The instruction on a page."""
    parts = text.split(SEP)
    return parts[parts.index("Instruction:") + 1]


def clickables(observation: Observation) -> frozenset[str]:
    """What can be clicked, in lower case."""
    return frozenset(command[len("click[") : -1] for command in observation.admissible if command.startswith("click["))


def cheapest(shown: str) -> float:
    """The lower one of the prices that a page shows, in dollars; without one, infinity."""
    return min((float(price) for price in PRICE.findall(shown)), default=float("inf"))
