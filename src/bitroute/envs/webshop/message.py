"""What the agent reads of a page: the text of mode `text`, shorter and in lower case. It knows pages, no model.

What stands on every page (the instruction, the buttons that are always there) is left out: the episode's first message has the
instruction, and the model knows the buttons. Of results that were listed before only the first line is told again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bitroute.envs.webshop.pages import SEP
from bitroute.envs.webshop.shopper import ASIN, clickables, instruction_of
from bitroute.episode import Observation

TITLE: Final = 16  # words of a title


def message(observations: Sequence[Observation]) -> str:
    """The user message for the last of an episode's observations."""
    observation = observations[-1]
    parts = observation.text.split(SEP)
    if len(observations) == 1:
        return instruction_of(observation.text).lower()
    if parts[0] == "WebShop":
        return "search"
    if "buy now" in clickables(observation):
        return _item(parts, clickables(observation))
    if any(part.startswith("Page ") for part in parts):
        again = any(earlier.text == observation.text for earlier in observations[:-1])
        return _results(parts).split("\n", 1)[0] if again else _results(parts)
    return "\n".join(part.strip() for part in parts[4:]).lower()


def _results(parts: Sequence[str]) -> str:
    lines = [next(part for part in parts if part.startswith("Page "))]
    for position, part in enumerate(parts[:-2]):
        if ASIN.fullmatch(part):
            lines.append(f"{part} {_short(parts[position + 1])} {parts[position + 2]}")
    return "\n".join(lines).lower()


def _item(parts: Sequence[str], values: frozenset[str]) -> str:
    price = next(place for place, part in enumerate(parts) if part.startswith("Price: "))
    lines = [f"{_short(parts[price - 1])} {parts[price].removeprefix('Price: ')}"]
    for part in parts[4 : price - 1]:
        if part in values:
            lines[-1] += f" {part}," if lines[-1].endswith((":", ",")) else f" | {part}"
        else:
            lines.append(f"{part}:")
    return "\n".join(line.removesuffix(",") for line in lines).lower()


def _short(title: str) -> str:
    return " ".join(title.split()[:TITLE])
