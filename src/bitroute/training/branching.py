"""What one step at high precision is worth, measured: chosen steps of low's own episodes are played again with high there.

The rest of such a replay is low's, so its outcome minus the original's is the effect of that one step: 1 where it rescues a
lost task, -1 where it spoils a won one. Most states lie in won episodes, where there is little to rescue: lost ones are sampled
more densely, and each state carries the weight that makes up for it. Knows episodes and replays; no network, no environment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitroute.episode import Episode
from bitroute.rollout.player import FORCED
from bitroute.rollout.workers import Replay

LOST: Final = 0.75  # of the sampled states lie in lost episodes, as far as there are as many


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A sampled state: before `step` of the `origin`-th episode. `weight` is the number of states that it stands for."""

    origin: int
    step: int
    weight: float


@dataclass(frozen=True, slots=True)
class Effect:
    """At a sampled state, the success that one step at high adds to low's own: -1, 0 or 1."""

    point: BranchPoint
    gain: int


def choose_points(origins: Sequence[Episode], count: int, seed: int) -> list[BranchPoint]:
    """`count` states of the episodes, or all where there are fewer, in order; three in four from lost episodes.

    Which ones is a function of count, seed and the episodes' outcomes and lengths.
    """
    states: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for number, episode in enumerate(origins):
        if episode.failure is None:
            states[episode.success] += [(number, step) for step in range(len(episode.steps))]
    wanted_won = min(len(states[True]), max(count - len(states[False]), round((1 - LOST) * count)))
    wanted = {True: wanted_won, False: min(len(states[False]), count - wanted_won)}
    chance = random.Random(seed)
    points = []
    for won in (False, True):
        chosen = chance.sample(states[won], wanted[won])
        points += [BranchPoint(number, step, len(states[won]) / len(chosen)) for number, step in chosen]
    return sorted(points, key=lambda p: (p.origin, p.step))


def replays(points: Sequence[BranchPoint], start: int, seed: int, variant: str) -> tuple[Replay, ...]:
    """The points as replays with `variant` forced; the origins are tasks `start`, `start` + 1 ... with `seed`."""
    return tuple(Replay(start + point.origin, seed, point.step, variant) for point in points)


def measured(points: Sequence[BranchPoint], origins: Sequence[Episode], played: Sequence[Episode]) -> list[Effect]:
    """Outcome of each replay minus that of its origin. What broke, and what left the origin's path before the forced step (a
    near-tie in another batch), tells nothing of the step and is left out.
    """
    return [
        Effect(point, int(replay.success) - int(origins[point.origin].success))
        for point, replay in zip(points, played, strict=True)
        if replay.failure is None and same_until(origins[point.origin], replay, point.step)
    ]


def same_until(origin: Episode, replay: Episode, step: int) -> bool:
    """Whether a replay took the origin's path up to `step`, where its decision was forced."""
    before = [[(s.message, s.action) for s in e.steps[:step]] for e in (origin, replay)]
    return before[0] == before[1] and len(replay.steps) > step and replay.steps[step].decision.reason == FORCED
