"""What a router may read of a history, whatever a client sends: roles in any order, gaps, an answer already begun.

It gives the same view as `View.from_messages` wherever that gives one, and knows nothing of sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitroute.episode import Signals, View
from bitroute.gateway.core.values import Turn
from bitroute.gateway.sessions.episode_state import AnsweredStep, read_turns, signals_of


def view_of(turns: Sequence[Turn], marks: Mapping[int, AnsweredStep], unknown: str) -> View:
    """The view of a history; `marks` are the served steps by the number of messages that each answered.

    Consecutive messages of one side are joined with a newline. An answer that nobody asked for (the history begins with it)
    follows an empty message; assistant messages at the end begin the coming answer and are not read. A past action that no
    mark tells of (it was served elsewhere, or is forgotten) counts as `unknown`; of joined ones the last that is known counts.
    """
    # Parts are joined at the end: a history of a million messages of one side must not be copied a million times.
    told: list[list[str]] = []
    actions: list[list[str]] = []
    variants: list[str] = []
    signals: list[Signals | None] = []
    asked = answering = False
    for i in range(read_turns(turns)):
        turn = turns[i]
        if turn.role != "assistant":
            if asked:
                told[-1].append(turn.text)
            else:
                told.append([turn.text])
            asked, answering = True, False
            continue
        mark = marks.get(i)
        if answering:
            actions[-1].append(turn.text)
            if mark is not None:
                variants[-1], signals[-1] = mark.variant, signals_of(mark)
            continue
        if not asked:
            told.append([])
        actions.append([turn.text])
        variants.append(unknown if mark is None else mark.variant)
        signals.append(None if mark is None else signals_of(mark))
        asked, answering = False, True
    if not asked:
        told.append([])
    return View(tuple(map("\n".join, told)), tuple(map("\n".join, actions)), tuple(variants), tuple(signals))


def remembered_view(marks: Iterable[AnsweredStep], turns: Sequence[Turn], system: int) -> View:
    """The view of an agent that sends one fresh message a step: the remembered steps, then this request's messages.

    The first `system` messages are left out, they were told before. A text that had to be forgotten reads as an empty one.
    """
    past = tuple(marks)
    fresh = "\n".join(turn.text for turn in turns[system:] if turn.role != "assistant")
    return View(
        (*(mark.message or "" for mark in past), fresh),
        tuple(mark.action or "" for mark in past),
        tuple(mark.variant for mark in past),
        tuple(signals_of(mark) for mark in past),
    )
