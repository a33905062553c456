"""What worker processes play in tests: episodes made of nothing; and workers that break in every way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from bitroute.engines.spec import EngineSpec
from bitroute.episode import Episode
from bitroute.errors import DataError
from bitroute.rollout.workers import Hosting, Play, Shard, Submit
from bitroute.threads import POLICY

BREAKING = 1  # the number of the shard that breaks, the first time it is played


def episodes(shard: Shard) -> list[Episode]:
    """One empty episode a pair; task and seed alone decide whether it succeeds."""
    split, policy = shard.job.split, shard.job.policy
    return [Episode(f"{split}-{i}", "kind", split, policy, seed, (), (7 * i + seed) % 3 == 0) for i, seed in shard.pairs]


def load(hosting: Hosting) -> Play:
    """Plays, undisturbed."""
    return episodes


def load_telling(hosting: Hosting) -> Play:
    """Says how threads of its process wait for each other."""
    return lambda shard: [replace(episode, failure=os.environ[POLICY]) for episode in episodes(shard)]


def load_damaged(hosting: Hosting) -> Play:
    """Cannot be loaded."""
    raise DataError(f"{hosting.engine.model}: is damaged")


def load_killed(hosting: Hosting) -> Play:
    """Is killed, as when memory runs out."""
    return _once(hosting, lambda: os.kill(os.getpid(), signal.SIGKILL))


def load_interrupted(hosting: Hosting) -> Play:
    """Somebody types Ctrl-C: the whole process group gets the signal. Then plays on and on, until it is ended."""
    return _once(hosting, lambda: (os.killpg(0, signal.SIGINT), signal.pause()))


def load_refusing(hosting: Hosting) -> Play:
    """Meets a damaged file in the middle."""

    def play(shard: Shard) -> list[Episode]:
        if shard.number == BREAKING:
            raise DataError("game.tw-pddl: is truncated")
        return episodes(shard)

    return play


def _once(hosting: Hosting, happen: Callable[[], object]) -> Play:
    """`happen` in the middle of a shard, unless the file `hosting.engine.variants` tells that it happened before."""

    def play(shard: Shard) -> list[Episode]:
        if shard.number == BREAKING and not hosting.engine.variants.exists():
            hosting.engine.variants.touch()
            happen()
        return episodes(shard)

    return play


def hosting(marker: Path = Path("marker")) -> Hosting:
    """Nothing to host; `marker` is where a broken worker notes that it broke."""
    return Hosting("toy", None, EngineSpec(model=Path("model"), schemes=(), variants=marker))


def here(play: Play, log: list[Shard] | None = None) -> Submit:
    """Play shards at once and in this process; `log` notes which."""

    def submit(shard: Shard) -> Future[list[Episode]]:
        if log is not None:
            log.append(shard)
        future: Future[list[Episode]] = Future()
        future.set_result(play(shard))
        return future

    return submit
