"""What a router may read of a history, whatever a client sends: roles in any order, gaps, an answer already begun.

It gives the same view as `View.from_messages` wherever that gives one, and knows nothing of sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitroute.episode import Signals, View
from bitroute.gateway.core.values import Turn
from bitroute.gateway.sessions.episode_state import AnsweredStep, read_turns, signals_of


def view_of(turns: Sequence[Turn], steps: Mapping[int, AnsweredStep], unknown: str) -> View:
    """The view of a history; `steps` are the served steps by the number of messages that each answered.

    Consecutive messages of one side are joined with a newline. An answer that nobody asked for (the history begins with it)
    follows an empty message; assistant messages at the end begin the coming answer and are not read. A past action that no
    step tells of (it was served elsewhere, or is forgotten) counts as `unknown`; of joined ones the last that is known counts.
    """
    # Parts are joined at the end: a history of a million messages of one side must not be copied a million times.
    messages: list[list[str]] = []
    actions: list[list[str]] = []
    variants: list[str] = []
    signals: list[Signals | None] = []
    asked = answering = False
    for i in range(read_turns(turns)):
        turn = turns[i]
        if turn.role != "assistant":
            if asked:
                messages[-1].append(turn.text)
            else:
                messages.append([turn.text])
            asked, answering = True, False
            continue
        answered = steps.get(i)
        if answering:
            actions[-1].append(turn.text)
            if answered is not None:
                variants[-1], signals[-1] = answered.variant, signals_of(answered)
            continue
        if not asked:
            messages.append([])
        actions.append([turn.text])
        variants.append(unknown if answered is None else answered.variant)
        signals.append(None if answered is None else signals_of(answered))
        asked, answering = False, True
    if not asked:
        messages.append([])
    return View(tuple(map("\n".join, messages)), tuple(map("\n".join, actions)), tuple(variants), tuple(signals))


def remembered_view(steps: Iterable[AnsweredStep], turns: Sequence[Turn], system: int) -> View:
    """The view of an agent that sends one fresh message a step: the remembered steps, then this request's messages.

    The first `system` messages are left out, they were read before. A text that had to be forgotten reads as an empty one.
    """
    past = tuple(steps)
    fresh = "\n".join(turn.text for turn in turns[system:] if turn.role != "assistant")
    return View(
        (*(answered.message or "" for answered in past), fresh),
        tuple(answered.action or "" for answered in past),
        tuple(answered.variant for answered in past),
        tuple(signals_of(answered) for answered in past),
    )
