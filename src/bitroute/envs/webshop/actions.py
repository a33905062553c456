"""What an agent may write, `search[...]` and `click[...]`, and the buttons that pages have. It knows no page and no state."""

from __future__ import annotations

import re
from typing import Final

SEARCH: Final = "search"  # the verb, and the button of the search page, which cannot be clicked
CLICK: Final = "click"
BACK: Final = "Back to Search"
PREVIOUS: Final = "< Prev"
NEXT: Final = "Next >"
BUY: Final = "Buy Now"
SUB_PAGES: Final = ("Description", "Features", "Reviews", "Attributes")

# Names that lead somewhere else, or nowhere, whatever else on the page has them. `next >` is none: it works on results alone.
_TAKEN: Final = frozenset(name.lower() for name in (SEARCH, BACK, PREVIOUS, BUY, *SUB_PAGES))
_ACTION: Final = re.compile(r"(.+)\[(.+)\]")


def parse(action: str) -> tuple[str, str] | None:
    """The verb and the argument, in lower case; None for what has another form.

    The verb is taken as it stands and reaches to the last bracket that leaves an argument: `search[a[b]` has the verb
    `search[a`. A line's end ends the action, what follows the last closing bracket is ignored.
    """
    found = _ACTION.match(action)
    return (found[1], found[2].lower()) if found else None


def click(name: str) -> str:
    """The action that clicks what has this name."""
    return f"{CLICK}[{name}]"


def can_click(name: str) -> bool:
    """Whether a click on what has this name, in lower case, arrives as one. False for the search button."""
    return name != SEARCH and parse(click(name)) == (CLICK, name)


def can_choose(value: str) -> bool:
    """Whether clicking an option's value chooses it: a value that is named like a button works as the button."""
    return value not in _TAKEN and can_click(value)
