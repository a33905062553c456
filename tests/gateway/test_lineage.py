"""What is remembered of a session: chains, marks, and the bound on a session's state."""

from __future__ import annotations

from zlib import crc32

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bitroute.episode import Signals
from bitroute.gateway.lineage import (
    EPISODES,
    LIMIT,
    Lineage,
    Remembered,
    Try,
    answered,
    chain,
    decode,
    episode_seed,
    extend,
    read_turns,
    signals_of,
)
from support.histories import ruling, turn

TEXTS = st.lists(st.sampled_from(["u:1", "a:1", "u:2", "a:2", "s:1"]), max_size=6)


@given(TEXTS, TEXTS)
def test_equal_chains_are_equal_histories(one: list[str], other: list[str]) -> None:
    assert (chain(map(turn, one)) == chain(map(turn, other))) is (one == other)


@given(TEXTS, st.sampled_from(["u:1", "a:2"]))
def test_a_chain_grows_by_a_message(texts: list[str], last: str) -> None:
    assert chain(map(turn, [*texts, last])) == extend(chain(map(turn, texts)), turn(last).digest)
    assert len(chain(map(turn, [*texts, last]))) == 16


def test_a_prefill_is_not_read() -> None:
    assert [read_turns([turn(t) for t in texts]) for texts in (["u:1"], ["u:1", "a:1"], ["a:1", "a:2"], [])] == [1, 1, 0, 0]


def test_the_seed_of_an_explicit_sessions_episode_is_a_function_of_its_number() -> None:
    assert episode_seed("key", "session", 0) == crc32(b"key\0session\x000") & 0x7FFFFFFF
    assert len({episode_seed("key", "session", n) for n in range(100)}) == 100


def test_signals_keep_what_routers_read() -> None:
    signals = Signals((-0.5, -0.25), (-0.5, 0.0), (1.0, 0.5), (0.75, 0.125))
    assert signals_of(answered(0, 1, b"", b"", "low", signals)) == Signals((-0.75,), (-0.5,), (1.5,), (0.125,))
    assert signals_of(answered(0, 1, b"", b"", "low", Signals((), (), (), ()))) == Signals((0.0,), (0.0,), (0.0,), (1.0,))
    assert signals_of(answered(0, 1, b"", b"", "low")) is None


def test_a_steps_newer_answer_replaces_the_older_one_and_steps_stay_in_order() -> None:
    lineage = Lineage("e", 1)
    for step, variant in ((0, "low"), (3, "low"), (1, "mid"), (3, "high")):
        lineage.put(answered(step, 1, b"", b"", variant))
    assert [(mark.step, mark.variant) for mark in lineage.marks] == [(0, "low"), (1, "mid"), (3, "high")]


def test_a_state_comes_back_as_it_was() -> None:
    state = Remembered(scope="key", session="s", begun=3, restored=True)
    for name in ("one", "two"):
        lineage = Lineage(name * 4, 7, ("one", 2), stepped=True, system=b"digest", closed=name == "one")
        lineage.put(answered(0, 2, b"request", b"answer", "low", Signals((-1.0,), (-1.0,), (2.0,), (0.5,)), told="t", did="d"))
        lineage.latest = Try(b"body", b"request", 0, 2, ruling=msgspec.msgpack.encode(ruling()))
        state.touch(lineage)
    found = decode(state.encode(LIMIT))
    assert found == state
    assert found.lineages[0].latest is not None
    assert found.lineages[0].latest.decided == ruling()


def _state(episodes: int, steps: int, text: str | None = None) -> Remembered:
    state = Remembered(scope="key", session="s")
    for e in range(episodes):
        lineage = Lineage(f"{e:032x}", e, stepped=text is not None)
        for step in range(steps):
            lineage.put(answered(step, 2 * step + 1, bytes([e]) * 16, bytes(16), "low", told=text, did=text))
        state.touch(lineage)
    return state


def test_over_the_limit_the_oldest_episodes_go_first() -> None:
    state = _state(60, 30)
    data = state.encode(LIMIT)
    found = decode(data)
    assert LIMIT // 2 < len(data) <= LIMIT
    assert [lineage.seed for lineage in found.lineages] == list(range(60 - len(found.lineages), 60))
    assert all(len(lineage.marks) == 30 for lineage in found.lineages)


def test_then_the_oldest_texts_but_the_openings() -> None:
    state = _state(1, 100, "word " * 100)
    found = decode(state.encode(LIMIT)).lineages[0]
    kept = [mark.step for mark in found.marks if mark.told is not None]
    assert len(found.marks) == 100
    assert kept == [0, *range(100 - len(kept) + 1, 100)]
    assert len(kept) > 30


def test_then_the_opening_then_the_oldest_steps() -> None:
    found = decode(_state(1, 3, "é" * LIMIT).encode(LIMIT)).lineages[0]
    assert [mark.told for mark in found.marks] == [None, None, None]
    data = _state(1, 3000).encode(LIMIT)
    found = decode(data).lineages[0]
    assert len(data) <= LIMIT
    assert found.marks[-1].step == 2999
    assert 500 < len(found.marks) < 3000


def test_pruning_leaves_room_for_steps_to_come() -> None:
    lineage = decode(_state(1, 3000).encode(LIMIT)).lineages[0]
    before = len(lineage.marks)
    state = Remembered([lineage])
    lineage.put(answered(3000, 6001, bytes(16), bytes(16), "low"))
    assert len(decode(state.encode(LIMIT)).lineages[0].marks) == before + 1


def test_episodes_are_bounded_in_number() -> None:
    found = decode(_state(EPISODES + 5, 0).encode(LIMIT))
    assert [lineage.seed for lineage in found.lineages] == list(range(5, EPISODES + 5))
