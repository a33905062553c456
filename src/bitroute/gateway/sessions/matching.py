"""Which episode a history belongs to: the one that it continues, else the one that it shares most with. It changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitroute.gateway.core.values import Turn
from bitroute.gateway.sessions.episode_state import EpisodeState
from bitroute.gateway.sessions.session_state import SessionState


@dataclass(frozen=True, slots=True)
class Match:
    """What a history has in common with an episode: its first `shared` answered steps, and `reach` messages in all.

    `continues`: nothing of the episode comes after that, and its next step is free. `echoed` says whether the history repeats
    our newest answer as it was given (None: it goes on from a request that was not answered).
    """

    episode: EpisodeState
    shared: int
    reach: int
    continues: bool
    echoed: bool | None


def find_episode(state: SessionState, chains: Sequence[bytes], turns: Sequence[Turn], *, hinted: bool) -> Match | None:
    """The best match of a history whose first k messages have the chain `chains[k]`; None when it shares nothing with any.

    1. The newest episode that lacks nothing of the history but our newest answer, as it was given, and the messages after it.
    2. The one that shares most; to continue goes before to branch. It also does where an episode lacks nothing but an answer
       that is not as it was given, if this client never gives answers back as they were: an agent that plays a task again the
       same way does not branch off its first time.

    Under a hint an opening belongs to nothing: it is another sample of a group.
    """
    n = len(chains) - 1
    last = next((k for k in range(n, 0, -1) if turns[k - 1].role == "assistant"), 0)
    if last:
        for episode in state.episodes(containing=chains[last]):
            match = _match(episode, chains, turns)
            if match is not None and match.continues and match.reach == last:
                return match
    elif hinted:
        return None
    onward: Match | None = None
    branch: Match | None = None
    # A history without an answer shares no step: it can only take the place of a request that failed.
    for episode in state.episodes(waiting=not last):
        match = _match(episode, chains, turns)
        if match is None:
            continue
        if match.continues:
            if onward is None or match.reach > onward.reach:
                onward = match
        elif branch is None or match.reach > branch.reach:
            branch = match
    if onward is None or branch is None or onward.reach >= branch.reach:
        return onward or branch
    if onward.echoed is None or not _is_next(onward.episode.steps[-1].turns, turns[:n]):
        return branch
    first_time = branch.episode.steps[onward.shared - 1 : onward.shared]
    return branch if any(answered.echoed for answered in first_time) else onward


def _match(episode: EpisodeState, chains: Sequence[bytes], turns: Sequence[Turn]) -> Match | None:
    if episode.closed or episode.stepped:
        return None
    n, steps, pending = len(chains) - 1, episode.steps, episode.pending
    if pending is not None and not pending.answered and 0 < pending.turns <= n and chains[pending.turns] == pending.request:
        return Match(episode, len(steps), pending.turns, episode.free, None)
    for i in range(len(steps) - 1, -1, -1):
        answered = steps[i]
        if not 0 < answered.turns <= n or chains[answered.turns] != answered.request:
            continue
        if answered.turns == n or turns[answered.turns].role != "assistant":
            return Match(episode, i, answered.turns, False, None)  # asked again, or left without its answer
        echoed = chains[answered.turns + 1] == answered.answer
        return Match(episode, i + 1, answered.turns + echoed, i == len(steps) - 1 and episode.free, echoed)
    return None


def _is_next(asked: int, turns: Sequence[Turn]) -> bool:
    """Whether a history holds one answer, and not more, after its first `asked` messages."""
    rest = [turn.role == "assistant" for turn in turns[asked:]]
    return rest == sorted(rest, reverse=True)
