"""Labels along recorded trajectories against those that playing takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitroute.agents.template import StepTokens
from bitroute.engines.engine import CacheMode
from bitroute.errors import DataError
from bitroute.training import labelling
from bitroute.training.labelling import label, label_all
from support.engine import FakeEngine
from support.episodes import bare, played
from support.toy import ToyFormat


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_labels_are_those_that_playing_takes(share: float) -> None:
    episodes = played(6, share)
    engine = FakeEngine(max_length=4096)
    found = label(engine, ToyFormat(), [bare(e) for e in episodes], "high")
    for had, has in zip(episodes, found, strict=True):
        for before, after in zip(had.steps, has.steps, strict=True):
            expected, label_ = before.sensitivity, after.sensitivity
            assert expected
            assert label_
            assert label_.kl_sum == pytest.approx(expected.raw_sum, abs=1e-6)
            assert label_.kl_sum == pytest.approx(label_.raw_sum)
            assert (label_.action, label_.agrees) == (expected.action, expected.agrees)
            assert (label_.kl_sum > 0.5) == before.message.startswith("hard")
            assert replace(after, sensitivity=None) == replace(before, sensitivity=None, signals=None)
    assert engine.alive == 0


def test_what_has_no_room_is_cut_off() -> None:
    (episode,) = [bare(e) for e in played(1)]
    room = FakeEngine(max_length=512 + 3 * 9 + 6)  # three steps, a fourth message, and what an action may take
    (found,) = label(room, ToyFormat(), [episode], "high")
    assert [s.message for s in found.steps] == [s.message for s in episode.steps[:4]]
    assert label(FakeEngine(max_length=100), ToyFormat(), [episode], "high") == []
    assert label(room, ToyFormat(), [], "high") == []


def test_labelling_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    episodes = [bare(e) for e in played(20)]
    path = tmp_path / "labels.jsonl"
    whole = label_all(FakeEngine(max_length=4096), ToyFormat(), episodes, "high", path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:50])  # killed in mid-write
    engine = FakeEngine(max_length=4096)
    assert label_all(engine, ToyFormat(), episodes, "high", path) == whole
    assert len(engine.contexts) == 13


class Forgetful(ToyFormat):
    """Writes the newest turn alone."""

    def steps(self, messages: Sequence[str], actions: Sequence[str]) -> Iterator[StepTokens]:
        return (replace(step, kept=0) for step in super().steps(messages, actions))


class Reluctant(ToyFormat):
    """Does not write the third step of the episode that begins with a hard one."""

    def steps(self, messages: Sequence[str], actions: Sequence[str]) -> Iterator[StepTokens]:
        for number, step in enumerate(super().steps(messages, actions)):
            if number == 2 and messages[0].startswith("hard"):
                raise DataError("toy: never three times")
            yield step


@pytest.mark.parametrize("mode", list(CacheMode))
def test_a_chat_that_is_written_anew_is_read_anew(mode: CacheMode) -> None:
    episodes = [bare(e) for e in played(6)]
    engine = FakeEngine(max_length=512 + 5 + 3, cache_mode=mode)  # a single turn fits
    found = label(engine, Forgetful(), episodes, "high")
    assert [len(e.steps) for e in found] == [6] * 6
    expected = label(
        FakeEngine(max_length=4096, cache_mode=mode), ToyFormat(), episodes, "high"
    )  # the toy looks at its last screen
    assert [s.sensitivity for e in found for s in e.steps] == [s.sensitivity for e in expected for s in e.steps]
    assert engine.alive == 0


def test_an_episode_ends_where_its_format_cannot_write_it(caplog: pytest.LogCaptureFixture) -> None:
    episodes = [bare(e) for e in played(8)]
    hard = [e.steps[0].message.startswith("hard") for e in episodes]
    assert 0 < sum(hard) < 8
    with caplog.at_level(logging.WARNING):
        found = label(FakeEngine(max_length=4096), Reluctant(), episodes, "high")
    assert [len(e.steps) for e in found] == [2 if is_hard else 6 for is_hard in hard]
    assert len(caplog.records) == sum(hard)
    name = episodes[hard.index(True)].task_id
    assert f"episode {name} ends before step 2: toy: never three times" in caplog.text


def test_large_vocabularies_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = [bare(e) for e in played(6)]
    whole = label(FakeEngine(max_length=4096), ToyFormat(), episodes, "high")
    sizes = []

    class Watched(FakeEngine):
        def score(self, contexts: Sequence[object], continuations: Sequence[Sequence[int]], variant: str) -> list[np.ndarray]:
            sizes.append(sum(map(len, continuations)))
            return super().score(contexts, continuations, variant)

    for room, largest in ((1, 3), (7, 6), (1000, 18)):  # tokens; an answer has three
        monkeypatch.setattr(labelling, "SCORED", room * ToyFormat.vocab_size)
        sizes.clear()
        assert label(Watched(max_length=4096), ToyFormat(), episodes, "high") == whole
        assert max(sizes) == largest
