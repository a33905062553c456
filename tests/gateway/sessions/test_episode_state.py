"""What is remembered of an episode: chains, steps, signals."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from bitroute.episode import Signals
from bitroute.gateway.sessions.episode_state import (
    EpisodeState,
    answered_step,
    chain,
    episode_seed,
    extend,
    read_turns,
    signals_of,
)
from support.histories import turn

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
    assert signals_of(answered_step(0, 1, b"", b"", "low", signals)) == Signals((-0.75,), (-0.5,), (1.5,), (0.125,))
    assert signals_of(answered_step(0, 1, b"", b"", "low", Signals((), (), (), ()))) == Signals((0.0,), (0.0,), (0.0,), (1.0,))
    assert signals_of(answered_step(0, 1, b"", b"", "low")) is None


def test_a_steps_newer_answer_replaces_the_older_one_and_steps_stay_in_order() -> None:
    episode = EpisodeState("e", 1)
    for step, variant in ((0, "low"), (3, "low"), (1, "mid"), (3, "high")):
        episode.put(answered_step(step, 1, b"", b"", variant))
    assert [(answered.step, answered.variant) for answered in episode.steps] == [(0, "low"), (1, "mid"), (3, "high")]
