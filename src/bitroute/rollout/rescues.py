"""How few steps at high precision turn a lost episode into a won one: the lowest variant's own trajectory, with high forced at
one step or at several, and the lowest variant again after them.

Other than `branches`, which sample states of any policy, this searches: every position counts. It knows how to play; no
environment, no model, no router by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from bitroute.engines.engine import CacheMode
from bitroute.episode import Task
from bitroute.errors import ConfigError
from bitroute.rollout.player import Player, Running


@dataclass(frozen=True, slots=True)
class Attempt:
    """An episode of the lowest variant in which `highs`, numbers of steps, were forced to high; without any, its own episode.

    `length` is how many steps it had.
    """

    task_id: str
    highs: tuple[int, ...]
    length: int
    success: bool
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Rescue:
    """What single steps are worth on a lost task of `length` steps.

    `positions` are the steps that rescue it alone; `pairs` those of the `tried` pairs that do, which are looked for only where
    no step alone does.
    """

    task_id: str
    length: int
    positions: tuple[int, ...]
    pairs: tuple[tuple[int, ...], ...] = ()
    tried: int = 0


@dataclass(slots=True)
class _Try:
    """An episode being played, and the steps that were forced in it."""

    running: Running
    highs: tuple[int, ...]


def attempts(player: Player, tasks: Iterable[Task], highs: int = 1, rate: float = 1.0, batch: int = 4) -> Iterator[Attempt]:
    """Play each task as the player's router does, and again with high forced at every set of up to `highs` steps.

    The router is meant to be the lowest variant alone. Sets of two steps and more are tried with probability `rate`, drawn from
    task and steps alone. Where every variant has its own cache, a step at which both would act alike is not tried: what follows
    it would be the same. `batch` tasks are begun at a time, each with all its branches; attempts come in the order in which
    they end. Raises ConfigError for a rate outside 0..1, and where `highs` or `batch` is not positive.
    """
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"rate {rate} is outside 0..1")
    if highs < 1 or batch < 1:
        raise ConfigError(f"highs {highs}, batch {batch}: both must be positive")
    high = player.engine.ladder[-1]
    differs = player.engine.cache_mode is CacheMode.OWN
    queue = iter(tasks)
    open_tries: list[_Try] = []
    try:
        while True:
            begun = sum(not attempt.highs for attempt in open_tries)
            open_tries += [_Try(player.start(task, 0), ()) for task in islice(queue, batch - begun)]
            if not open_tries:
                return
            forking = [t for t in open_tries if not t.running.done and len(t.highs) < highs and _chosen(t, rate)]
            labels = player.sensitivities([t.running for t in forking]) if differs and forking else None
            for index, origin in enumerate(forking):
                if labels is None or not labels[index].agrees:
                    step = len(origin.running.steps)
                    open_tries.append(_Try(player.branch(origin.running, high), (*origin.highs, step)))
            playing = [t.running for t in open_tries if not t.running.done]
            if playing:
                player.advance(playing)
            ended = [t for t in open_tries if t.running.done]
            open_tries = [t for t in open_tries if not t.running.done]
            for each in ended:
                episode = player.finish(each.running, "")
                yield Attempt(episode.task_id, each.highs, len(episode.steps), episode.success, episode.failure)
    finally:
        for left in open_tries:
            player.engine.close(left.running.context)


def rescues(player: Player, tasks: Iterable[Task], rate: float = 1.0, batch: int = 4) -> Iterator[Rescue]:
    """For each task that the lowest variant loses: the single steps that rescue it, and where there is none, the pairs, of
    which a share `rate` is tried. Tasks that it wins, and those that break, are left out.
    """
    waiting: list[Task] = []
    queue = iter(tasks)
    while waiting := list(islice(queue, batch)):
        alone = _by_task(attempts(player, waiting, batch=batch))
        stubborn: list[Task] = []
        found: dict[str, Rescue] = {}
        for task in waiting:
            own, *others = sorted(alone[task.id], key=lambda attempt: attempt.highs)
            if own.success or own.failure:
                continue
            positions = tuple(attempt.highs[0] for attempt in others if attempt.success)
            found[task.id] = Rescue(task.id, own.length, positions)
            if not positions and rate:
                stubborn.append(task)
        for name, played in _by_task(attempts(player, stubborn, highs=2, rate=rate, batch=batch)).items():
            pairs = [attempt for attempt in played if len(attempt.highs) == 2]
            won = tuple(sorted(attempt.highs for attempt in pairs if attempt.success))
            found[name] = Rescue(name, found[name].length, (), won, len(pairs))
        yield from found.values()


def _by_task(played: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    grouped: dict[str, list[Attempt]] = {}
    for attempt in played:
        grouped.setdefault(attempt.task_id, []).append(attempt)
    return grouped


def _chosen(origin: _Try, rate: float) -> bool:
    """Whether to force the coming step besides those that are forced already."""
    if not origin.highs:
        return True
    drawn = f"{origin.running.task.id}|{origin.highs}|{len(origin.running.steps)}|rescue"
    return random.Random(drawn).random() < rate
