"""Episodes of the toy: played and labelled, and as a gateway would have recorded them."""

from __future__ import annotations

from dataclasses import replace

from bitroute.episode import Episode
from bitroute.rollout.player import Player, play
from bitroute.routers.rules import Random
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task


def played(count: int, share: float = 0.5, first: int = 0) -> list[Episode]:
    """Labelled episodes of the toy; `share` of the steps is at high."""
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(("low", "high"), share), label=True)
    return list(play(player, [(toy_task(i), 0) for i in range(first, first + count)], "random"))


def bare(episode: Episode) -> Episode:
    """The episode as a gateway would have recorded it."""
    return replace(episode, steps=tuple(replace(s, sensitivity=None, signals=None) for s in episode.steps))
