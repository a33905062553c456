"""Episodes as the encoder's training input."""

from __future__ import annotations

import pytest

from bitroute.episode import Episode
from bitroute.routers.encoder.dataset import TextReader, read_episode
from bitroute.routers.encoder.network import SIGNAL_FEATURES
from support.toy import toy_tokenizer

TOKENIZER = toy_tokenizer()


def test_a_trajectory_marks_decisions_and_actions(episodes: list[Episode]) -> None:
    trajectory = read_episode(TextReader(TOKENIZER), episodes[1], "high")
    assert len(trajectory.decisions) == len(trajectory.signals) == len(episodes[1].steps)
    assert {trajectory.tokens[d] for d in trajectory.decisions} == {TOKENIZER.assistant}
    actions = TOKENIZER.decode([trajectory.tokens[i] for i in trajectory.actions])
    assert actions == "".join(f"{s.action}<|end|>" for s in episodes[1].steps)
    assert trajectory.signals[0] == [0.0] * SIGNAL_FEATURES
    first = episodes[1].steps[0]
    assert trajectory.signals[1][0] == 1.0 and trajectory.signals[1][1] == pytest.approx(sum(first.signals.entropy))
