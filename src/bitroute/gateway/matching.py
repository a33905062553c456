"""Which episode a history belongs to: the one that it continues, else the one that it shares most with. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitroute.gateway.exchange import Turn
from bitroute.gateway.lineage import Lineage, Remembered


@dataclass(frozen=True, slots=True)
class Match:
    """What a history has in common with an episode: its first `shared` marks, and `reach` messages in all.

    `continues`: nothing of the episode comes after that, and its next step is free. `echoed` says whether the history repeats
    our newest answer as it was given (None: it goes on from a request that was not answered).
    """

    lineage: Lineage
    shared: int
    reach: int
    continues: bool
    echoed: bool | None


def find_lineage(state: Remembered, chains: Sequence[bytes], turns: Sequence[Turn], *, hinted: bool) -> Match | None:
    """The best match of a history whose first k messages have the chain `chains[k]`; None when it shares nothing with any.

    To continue goes before to branch when it reaches as far. It also does when an episode that lacks only its newest answer
    gets that answer, though another episode once went further along the same messages: an agent that plays the same task
    again the same way. That holds where the answer comes back as it was given, and where this client never gives answers back
    as they were given.
    """
    n = len(chains) - 1
    onward: Match | None = None
    branch: Match | None = None
    for lineage in reversed(state.lineages):
        match = _match(lineage, chains, turns, hinted)
        if match is None:
            continue
        if not match.continues:
            if branch is None or match.reach > branch.reach:
                branch = match
        elif onward is None or match.reach > onward.reach:
            onward = match
            if onward.reach >= n - 1:
                break  # all but the newest message is known: nothing can share more
    if onward is None or branch is None or onward.reach >= branch.reach:
        return onward or branch
    if onward.echoed is None or not _is_next(onward.lineage.marks[-1].turns, turns[:n]):
        return branch
    told = branch.lineage.marks[onward.shared - 1 : onward.shared]
    return onward if onward.echoed or not (told and told[0].echoed) else branch


def _match(lineage: Lineage, chains: Sequence[bytes], turns: Sequence[Turn], hinted: bool) -> Match | None:
    if lineage.closed or lineage.stepped:
        return None
    n, marks, latest = len(chains) - 1, lineage.marks, lineage.latest
    if latest is not None and not latest.answered and 0 < latest.turns <= n and chains[latest.turns] == latest.request:
        if hinted and not marks and latest.turns == n:
            return None  # an equal opening: another sample of a group
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
