"""Which episode a history belongs to: the one that it continues, else the one that it shares most with. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitroute.gateway.core.values import Turn
from bitroute.gateway.sessions.episode_state import EpisodeState
from bitroute.gateway.sessions.state import State


@dataclass(frozen=True, slots=True)
class Match:
    """What a history has in common with an episode: its first `shared` marks, and `reach` messages in all.

    `continues`: nothing of the episode comes after that, and its next step is free. `echoed` says whether the history repeats
    our newest answer as it was given (None: it goes on from a request that was not answered).
    """

    lineage: EpisodeState
    shared: int
    reach: int
    continues: bool
    echoed: bool | None


def find_lineage(state: State, chains: Sequence[bytes], turns: Sequence[Turn], *, hinted: bool) -> Match | None:
    """The best match of a history whose first k messages have the chain `chains[k]`; None when it shares nothing with any.

    1. The newest episode that lacks nothing of the history but our newest answer, as it was given, and the messages after it.
    2. The one that shares most; to continue goes before to branch. It also does where an episode lacks nothing but an answer
       that is not as it was given, if this client never gives answers back as they were: an agent that plays a task again the
       same way does not branch off its first time.

    Under a hint an opening belongs to nothing: it is another sample of a group.
    """
    n = len(chains) - 1
    told = next((k for k in range(n, 0, -1) if turns[k - 1].role == "assistant"), 0)
    if told:
        for lineage in state.lineages(containing=chains[told]):
            match = _match(lineage, chains, turns)
            if match is not None and match.continues and match.reach == told:
                return match
    elif hinted:
        return None
    onward: Match | None = None
    branch: Match | None = None
    # A history without an answer shares no step: it can only take the place of a request that failed.
    for lineage in state.lineages(waiting=not told):
        match = _match(lineage, chains, turns)
        if match is None:
            continue
        if match.continues:
            if onward is None or match.reach > onward.reach:
                onward = match
        elif branch is None or match.reach > branch.reach:
            branch = match
    if onward is None or branch is None or onward.reach >= branch.reach:
        return onward or branch
    if onward.echoed is None or not _is_next(onward.lineage.marks[-1].turns, turns[:n]):
        return branch
    first_time = branch.lineage.marks[onward.shared - 1 : onward.shared]
    return branch if any(mark.echoed for mark in first_time) else onward


def _match(lineage: EpisodeState, chains: Sequence[bytes], turns: Sequence[Turn]) -> Match | None:
    if lineage.closed or lineage.stepped:
        return None
    n, marks, latest = len(chains) - 1, lineage.marks, lineage.latest
    if latest is not None and not latest.answered and 0 < latest.turns <= n and chains[latest.turns] == latest.request:
        return Match(lineage, len(marks), latest.turns, lineage.free, None)
    for i in range(len(marks) - 1, -1, -1):
        mark = marks[i]
        if not 0 < mark.turns <= n or chains[mark.turns] != mark.request:
            continue
        if mark.turns == n or turns[mark.turns].role != "assistant":
            return Match(lineage, i, mark.turns, False, None)  # asked again, or left without its answer
        echoed = chains[mark.turns + 1] == mark.answer
        return Match(lineage, i + 1, mark.turns + echoed, i == len(marks) - 1 and lineage.free, echoed)
    return None


def _is_next(asked: int, turns: Sequence[Turn]) -> bool:
    """Whether a history holds one answer, and not more, after its first `asked` messages."""
    rest = [turn.role == "assistant" for turn in turns[asked:]]
    return rest == sorted(rest, reverse=True)
