"""ALFWorld's texts in short, for language models with a tokenizer of their own. It knows texts alone.

`You arrive at shelf 1. On the shelf 1, you see a mug 2, and a plate 1.` becomes `On shelf1: mug2, plate1.`, and the list of the
room's receptacles is told by ranges. A name and its number are one word: tokenizers of texts spend a token on the space between
them. What follows no known sentence stays as it is.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Final

_NUMBER: Final = re.compile(r"([a-z]) (\d+)\b")
_JOINED: Final = re.compile(r"\b([a-z]+?)(\d+)\b")
_ROOM: Final = re.compile(r"You are in the middle of a room\. Looking quickly around you, you see (.+)\.")
_SENTENCES: Final = (
    (re.compile(r"You arrive at [a-z]+ \d+\. "), ""),
    (re.compile(r"You (?:open|close) the (\w+ \d+)\.$", re.MULTILINE), r"Closed \1."),
    (re.compile(r"You open the [a-z]+ \d+\. "), ""),
    (re.compile(r"On the ([a-z]+ \d+), you see (.+)\."), r"On \1: \2."),
    (re.compile(r"The ([a-z]+ \d+) is open\. In it, you see (.+)\."), r"In \1: \2."),
    (re.compile(r"The ([a-z]+ \d+) is closed\."), r"Closed \1."),
    (re.compile(r"You pick up the ([a-z]+ \d+) from the [a-z]+ \d+\."), r"Took \1."),
    (re.compile(r"You move the ([a-z]+ \d+) to the [a-z]+ \d+\."), r"Moved \1."),
    (re.compile(r"You (\w+) the ([a-z]+ \d+) using the [a-z]+ \d+\."), r"Done: \1 \2."),
)
_ITEM: Final = re.compile(r"(?:and )?an? ([a-z]+ \d+)")
_TASK: Final = "Your task is to: "


class AlfworldShorthand:
    """The shorthand of messages and commands."""

    def message(self, text: str) -> str:
        """An observation with its lines on the goal, in short."""
        lines = [_room(line) or _sentence(line) for line in text.split("\n") if line]
        return _NUMBER.sub(r"\1\2", "\n".join(lines))

    def write(self, action: str) -> str:
        """`go to shelf 1` is `go to shelf1`."""
        return _NUMBER.sub(r"\1\2", action)

    def read(self, line: str) -> str:
        """`go to shelf1` is `go to shelf 1`."""
        return _JOINED.sub(r"\1 \2", line)


def _room(line: str) -> str | None:
    """`Room: cabinet 1-3, fridge 1.` for the sentence that lists the receptacles, in their order."""
    found = _ROOM.fullmatch(line)
    if found is None:
        return None
    names = [name.rsplit(" ", 1) for name in _ITEM.findall(found[1])]
    ranges = []
    for kind, group in groupby(names, key=lambda name: name[0]):
        numbers = sorted(int(number) for _, number in group)
        # numbers in a row have the same distance to their place in the list
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            first, *_, last = [number for _, number in run] * 2
            ranges.append(f"{kind} {first}" if first == last else f"{kind} {first}-{last}")
    return f"Room: {', '.join(ranges)}."


def _sentence(line: str) -> str:
    for pattern, short in _SENTENCES:
        line = pattern.sub(short, line)
    return _ITEM.sub(r"\1", line).replace(_TASK, "Task: ")
