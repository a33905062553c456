"""A session's state in bytes: what comes back, what is found without reading all, and the bound on its size."""

from __future__ import annotations

import msgspec

from bitroute.episode import Signals
from bitroute.gateway.sessions.episode_state import EPISODES, EpisodeState, PendingRequest, RestoredSession, answered_step
from bitroute.gateway.sessions.session_state import LIMIT, SessionState
from support.histories import routing


def _lineage(number: int, steps: int = 0, text: str | None = None) -> EpisodeState:
    episode = EpisodeState(f"{number:032x}", number, stepped=text is not None)
    for step in range(steps):
        episode.put(answered_step(step, 2 * step + 1, bytes([number]) * 16, bytes(16), "low", message=text, action=text))
    return episode


def _state(episodes: int, steps: int, text: str | None = None) -> SessionState:
    state = SessionState("key", "s")
    for number in range(episodes):
        state.put(_lineage(number, steps, text))
    return state


def _newest(data: bytes) -> EpisodeState:
    return next(SessionState.decode(data).episodes())


def test_a_state_comes_back_as_it_was() -> None:
    state = SessionState("key", "s")
    state.begun, state.restored = 3, True
    episode = EpisodeState("one", 7, ("zero", 2), stepped=True, system=b"digest")
    episode.put(
        answered_step(0, 2, b"request", b"answer", "low", Signals((-1.0,), (-1.0,), (2.0,), (0.5,)), message="t", action="d")
    )
    episode.pending = PendingRequest(b"body", b"request", 0, 2, routing=msgspec.msgpack.encode(routing()))
    closed = EpisodeState("two", 8, closed=True)
    state.put(episode)
    state.put(closed)
    found = SessionState.decode(state.encode(LIMIT))
    assert (found.scope, found.session, found.begun, found.restored) == ("key", "s", 3, True)
    assert list(found.episodes()) == [closed, episode]
    assert episode.pending.decided == routing()


def test_lineages_stand_in_the_order_of_their_newest_requests() -> None:
    state = _state(4, 1)
    state.put(_lineage(1, 2), newest=True)
    state.put(_lineage(2, 3))
    assert [(one.seed, len(one.steps)) for one in state.episodes()] == [(1, 2), (3, 1), (2, 3), (0, 1)]
    assert len(state) == 4


def test_lineages_are_found_by_id_by_digest_and_by_what_waits() -> None:
    state = _state(3, 2)
    waiting = _lineage(1, 2)
    waiting.parent = (_lineage(2).id, 1)
    waiting.pending = PendingRequest(b"b" * 16, b"r" * 16, 2, 5)
    state.put(waiting)
    assert state.find(_lineage(2).id) == _lineage(2, 2)
    assert state.find("f" * 32) is None
    assert [one.seed for one in state.episodes(containing=b"b" * 16)] == [1]
    assert [one.seed for one in state.episodes(waiting=True)] == [1]
    waiting.pending.answered = True
    state.put(waiting)
    assert list(state.episodes(waiting=True)) == []


def test_the_records_lineages_come_before_what_is_known() -> None:
    state = _state(2, 1)
    state.begun = 2
    state.adopt(RestoredSession([_lineage(7, 3), _lineage(1, 3)], begun=9))
    assert [(one.seed, len(one.steps)) for one in state.episodes()] == [(1, 1), (0, 1), (7, 3)]
    assert (state.begun, state.restored) == (9, True)
    other = SessionState("", "")
    other.adopt(None)
    assert (len(other), other.restored, other.begun) == (0, True, 0)


def test_over_the_limit_the_oldest_episodes_go_first() -> None:
    state = _state(60, 30)
    data = state.encode(LIMIT)
    found = list(SessionState.decode(data).episodes())
    assert LIMIT // 2 < len(data) <= LIMIT
    assert [episode.seed for episode in found] == list(range(59, 59 - len(found), -1))
    assert all(len(episode.steps) == 30 for episode in found)


def test_then_the_oldest_texts_but_the_openings() -> None:
    state = _state(1, 100, "word " * 100)
    found = _newest(state.encode(LIMIT))
    kept = [answered.step for answered in found.steps if answered.message is not None]
    assert len(found.steps) == 100
    assert kept == [0, *range(100 - len(kept) + 1, 100)]
    assert len(kept) > 30


def test_then_the_opening_then_the_oldest_steps() -> None:
    found = _newest(_state(1, 3, "é" * LIMIT).encode(LIMIT))
    assert [answered.message for answered in found.steps] == [None, None, None]
    data = _state(1, 3000).encode(LIMIT)
    found = _newest(data)
    assert len(data) <= LIMIT
    assert found.steps[-1].step == 2999
    assert 500 < len(found.steps) < 3000


def test_pruning_leaves_room_for_steps_to_come() -> None:
    episode = _newest(_state(1, 3000).encode(LIMIT))
    before = len(episode.steps)
    episode.put(answered_step(3000, 6001, bytes(16), bytes(16), "low"))
    state = SessionState("key", "s")
    state.put(episode)
    assert len(_newest(state.encode(LIMIT)).steps) == before + 1


def test_episodes_are_bounded_in_number() -> None:
    found = SessionState.decode(_state(EPISODES + 5, 0).encode(LIMIT))
    assert [episode.seed for episode in found.episodes()] == list(range(EPISODES + 4, 4, -1))
