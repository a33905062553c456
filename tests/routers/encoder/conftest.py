"""Episodes of the toy task for the tests of the encoder."""

from __future__ import annotations

import pytest

from bitroute.episode import Episode
from bitroute.rollout.player import Player, play
from bitroute.routers.rules import Random
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task

PAIR = ("low", "high")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(PAIR, 0.5))
    return list(play(player, [(toy_task(i, steps=3 + i % 6), 0) for i in range(12)], "random"))
