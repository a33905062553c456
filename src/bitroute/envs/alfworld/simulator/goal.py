"""The goals as a player reads them: ALFWorld's twelve official task sentences, taken apart. Knows text only, no game file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from bitroute.envs.alfworld.simulator.game import GOAL_JOINT, TASK_MARK, TaskKind

# ALFRED's templates as ALFWorld fills them in; the object types appear in lower case, as in every other text of the game.
_TEMPLATES: tuple[tuple[TaskKind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (TaskKind.TWO, r"(?:put|find) two (?P<target>\w+)(?: and put them)? (?:in|on) (?P<parent>\w+)"),
        (TaskKind.CLEAN, r"(?:put a clean|clean some) (?P<target>\w+)(?: and put it)? (?:in|on) (?P<parent>\w+)"),
        (TaskKind.HEAT, r"(?:put a hot|heat some) (?P<target>\w+)(?: and put it)? (?:in|on) (?P<parent>\w+)"),
        (TaskKind.COOL, r"(?:put a cool|cool some) (?P<target>\w+)(?: and put it)? (?:in|on) (?P<parent>\w+)"),
        (TaskKind.PLACE, r"put (?:a|some) (?P<target>\w+) (?:in|on) (?P<parent>\w+)"),
        (TaskKind.LOOK, r"look at (?P<target>\w+) under the (?P<lamp>\w+)"),
        (TaskKind.LOOK, r"examine the (?P<target>\w+) with the (?P<lamp>\w+)"),
    )
)


@dataclass(frozen=True, slots=True)
class SpokenGoal:
    """One thing that the task sentence asks for. Types are the words of the text (`mug`, `coffeemachine`)."""

    kind: TaskKind
    target: str
    parent: str | None = None
    lamp: str | None = None


def goal_sentence(opening: str) -> str:
    """The task sentence of an opening observation, without its full stop; empty when there is none."""
    _, mark, rest = opening.rpartition(TASK_MARK)
    return rest.split("\n", 1)[0].strip().removesuffix(".") if mark else ""


@lru_cache(maxsize=4096)
def read_goals(opening: str) -> tuple[SpokenGoal, ...]:
    """The goals of an opening observation in its order; none when a part of the sentence follows no official template."""
    found = [_read(part) for part in goal_sentence(opening).split(GOAL_JOINT)]
    return tuple(goal for goal in found if goal is not None) if None not in found else ()


def _read(sentence: str) -> SpokenGoal | None:
    for kind, pattern in _TEMPLATES:
        if found := pattern.fullmatch(sentence):
            return SpokenGoal(kind, **found.groupdict())
    return None
