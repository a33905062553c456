"""Numbers that a rule would look at: cheap features of the episode so far, the same in training, in play and in the gateway.

They know chat text in general (repetition, failure, new words, overlap with the goal), what past generations revealed, and past
decisions; nothing of a particular environment. By which phrases an environment refuses an action is told them, and the goal is
a line that the agent is reminded of: the last one of every message, the opening's included. It may grow shorter as the episode
goes on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from bitroute.episode import View

Floats = npt.NDArray[np.float64]

FEATURES: Final = (
    "step",
    "log step",
    "words in message",
    "message seen before",
    "last action failed",
    "share of new words",
    "goal word in message",
    "share of goal words in message",
    "last action repeated",
    "share of repeated actions",
    "last at high",
    "share at high",
    "last entropy",
    "last margin",
    "last log-probability",
    "mean entropy",
    # since 0.2
    "times message was seen",
    "recency of message",
    "steps since a new message",
    "share of seen messages",
    "times last action was taken",
    "mean margin of three",
    "smallest margin",
    "steps since high",
    "high steps",
    "budget left",
    "share of goal left",
    "steps since goal changed",
)
REVEALED: Final = frozenset(  # what generating revealed: constant where a server gives no log-probabilities
    {"last entropy", "last margin", "last log-probability", "mean entropy", "mean margin of three", "smallest margin"}
)
FAILED: Final = ("error", "invalid", "cannot", "can't", "unknown", "failed")  # in any environment
_LABEL: Final = re.compile(r"\w+: ")
_WORD: Final = re.compile(r"\w+")
READ: Final = 100_000  # characters of a message that are read, its last ones: no message may take seconds
_WORD_BYTES: Final = 120  # of one word in a set: a short string, and its part of a table two thirds empty


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class FeatureState:
    """The words and goals of an episode's messages, kept so that a step need read its newest message alone."""

    __slots__ = ("_goals", "_newest", "_read", "_words")

    def __init__(self) -> None:
        self._read: list[int] = []  # hashes of the messages whose words these are
        self._words: set[str] = set()
        self._goals: list[tuple[int, int]] = []  # the goal as it stood at each of them: how many words, and their hash
        self._newest: tuple[int, list[str]] = (0, [])  # hash and words of the message that was read last

    @property
    def nbytes(self) -> int:
        """About what this takes of memory."""
        return _WORD_BYTES * (len(self._words) + len(self._newest[1])) + 160 * len(self._read)

    def earlier(self, messages: Sequence[str]) -> set[str]:
        """The words of all messages but the newest. Messages that continue the last call's cost what is new in them."""
        marks = [hash(message) for message in messages[:-1]]
        if marks[: len(self._read)] != self._read:
            self._read, self._words, self._goals = [], set(), []
        for index in range(len(self._read), len(marks)):
            known, words = self._newest
            self._words.update(words if marks[index] == known else _words(messages[index][-READ:]))
            self._goals.append(self._goal(messages, index))
        self._read = marks
        return self._words

    def goals(self, messages: Sequence[str]) -> list[tuple[int, int]]:
        """The goal as it stood at each message, after `earlier` for the same messages: how many words, and a hash of them
        whatever their order. A message that recalls no goal leaves it as it stood.
        """
        return [*self._goals, self._goal(messages, len(messages) - 1)]

    def _goal(self, messages: Sequence[str], index: int) -> tuple[int, int]:
        opening = _last_line(messages[0])
        told = _reminder(opening, messages[index]) if index else opening
        if index and not told:
            return self._goals[-1]
        words = sorted(_words(told))
        return len(words), hash(tuple(words))

    def note(self, newest: str, words: list[str]) -> None:
        """These are the words of the newest message: the next step need not read it again."""
        self._newest = hash(newest), words


def features(view: View, high: str, state: FeatureState | None = None, failures: Sequence[str] = ()) -> Floats:
    """The features of the coming step, [len(FEATURES)]; unknown log-probabilities count as certainty.

    `state` is the episode's, if one is kept; the values are the same without. `failures` are phrases, in lower case, that say
    of an action that it failed, besides `FAILED`.
    """
    newest = view.messages[-1][-READ:]
    body, goal = _parts(view, newest)
    plain = body.lower()
    words, goal_words = _WORD.findall(plain), _words(goal)
    here = set(words)
    known = FeatureState() if state is None else state
    earlier, goals = known.earlier(view.messages), known.goals(view.messages)
    if state is not None:
        state.note(view.messages[-1], words + _words(newest[len(body) :]))
    step = len(view.actions)
    last = view.signals[-1] if view.signals else None
    entropies = [sum(s.entropy) for s in view.signals if s is not None]
    margins = [min(s.margin, default=1.0) for s in view.signals if s is not None]
    seen = view.messages.count(view.messages[-1]) - 1
    gap = step - _last(view.messages[:-1], view.messages[-1])
    firsts = {message: at for at, message in reversed(list(enumerate(view.messages)))}
    return np.array(
        [
            step / 10,
            math.log1p(step),
            len(words) / 50,
            view.messages[-1] in view.messages[:-1],
            any(phrase in plain for phrase in (*FAILED, *failures)),
            len([w for w in words if w not in earlier]) / max(1, len(words)),
            bool(goal_words) and goal_words[-1] in here,
            len([w for w in goal_words if w in here]) / max(1, len(goal_words)),
            bool(view.actions) and view.actions[-1] in view.actions[:-1],
            (step - len(set(view.actions))) / max(1, step),
            bool(view.variants) and view.variants[-1] == high,
            view.variants.count(high) / max(1, step),
            sum(last.entropy) if last else 0.0,
            min(last.margin, default=1.0) if last else 1.0,
            sum(last.constrained) if last else 0.0,
            sum(entropies) / max(1, len(entropies)),
            math.log1p(seen),
            1 / gap if seen else 0.0,
            min(step - max(firsts.values()), 20) / 5,
            1 - len(firsts) / len(view.messages),
            math.log1p(max(0, view.actions.count(view.actions[-1]) - 1)) if view.actions else 0.0,
            sum(margins[-3:]) / max(1, len(margins[-3:])) if margins else 1.0,
            min(margins, default=1.0),
            math.log1p(step - 1 - _last(view.variants, high)),
            view.variants.count(high) / 5,
            1.0 if view.budget_left is None else view.budget_left,
            goals[-1][0] / max(1, goals[0][0]) if len(goals) > 1 else 1.0,
            math.log1p(step - next((at for at in range(step, 0, -1) if goals[at] != goals[at - 1]), 0)),
        ],
        dtype=np.float64,
    )


def _parts(view: View, newest: str) -> tuple[str, str]:
    """The `newest` message without its goal (a beginning of it), and the goal: "" where it states none.

    An opening of several lines states the goal in the last one, and repeats it in its own words in the line before.
    """
    body, _, last = newest.rpartition("\n")
    if not view.actions and body:
        return body.rpartition("\n")[0] or body, last
    goal = _reminder(_last_line(view.messages[0]), newest)
    return (body, goal) if goal else (newest, "")


def _last_line(message: str) -> str:
    return message[-READ:].rpartition("\n")[2]


def _reminder(opening: str, message: str) -> str:
    """The last line of a message if it recalls the goal: of several lines, and the one with which the `opening` ends, or, under
    the same label (`Goal: `), a part of its words. What merely stands last in a message is no goal.
    """
    body, _, line = message[-READ:].rpartition("\n")
    label = _LABEL.match(opening)
    shrunk = label is not None and line.startswith(label[0]) and set(_words(line)) <= set(_words(opening))
    return line if body and (line == opening or shrunk) else ""


def _last(values: Sequence[str], wanted: str) -> int:
    """Where `wanted` stands last among `values`, -1 where it does not."""
    return next((at for at in range(len(values) - 1, -1, -1) if values[at] == wanted), -1)
