"""Which tasks can teach stage 2: those where precision decides, found by playing each once at low and, where it loses, at high.

On most tasks every group of sampled episodes ends alike, and nothing is learned of where to spend. Yet the others are not left
out: what is spent on them is most of what is spent. Half of what an iteration plays is of either sort, and each episode counts
for as many as it stands for. Knows jobs and outcomes; no router that learns.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitroute.rollout.workers import Job, Replay, Workers


@dataclass(frozen=True, slots=True)
class ScreenedTasks:
    """Task indices: `deciding` are those that low loses and high wins, `others` all the rest."""

    deciding: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def share(self) -> float:
        """The part of all tasks that is deciding."""
        return len(self.deciding) / (len(self.deciding) + len(self.others))

    def draw(self, iteration: int, count: int, seed: int) -> tuple[list[int], list[int]]:
        """`count` tasks for an iteration, half deciding ones: each is taken once before any is taken again, in an order that
        `seed` gives.
        """
        half = max(1, count // 2)
        return (
            _turn(self.deciding, iteration * half, half, f"{seed}|deciding"),
            _turn(self.others, iteration * (count - half), count - half, f"{seed}|others"),
        )

    def weight(self, deciding: int, others: int) -> float:
        """How much an episode of the others counts, where one of a deciding task counts 1, if so many of each were drawn."""
        return (1 - self.share) / self.share * deciding / max(1, others)


def screen(pool: Workers, job: Job) -> ScreenedTasks:
    """Play the tasks of `job` at low and, where low loses, at high. No task may be deciding: then there is nothing to learn."""
    indices = range(job.start, job.start + job.count)
    (low,) = pool.play([replace(job, router="always:low")], "screen: low")
    lost = [index for index, episode in zip(indices, low, strict=True) if not episode.success]
    won: list[int] = []
    if lost:
        again = replace(job, router="always:high", replays=tuple(Replay(index, 0) for index in lost))
        (high,) = pool.play([again], "screen: high where low lost")
        won = [index for index, episode in zip(lost, high, strict=True) if episode.success]
    return ScreenedTasks(tuple(won), tuple(index for index in indices if index not in set(won)))


def _turn(values: Sequence[int], start: int, count: int, seed: str) -> list[int]:
    """`count` of the values from place `start` on in an endless row of shuffled rounds."""
    found = []
    for place in range(start, start + count):
        turn, at = divmod(place, len(values))
        order = list(values)
        random.Random(f"{seed}|{turn}").shuffle(order)
        found.append(order[at])
    return found
