"""ALFWorld put together: which tasks a split name means, and how a worker plays them with the reference agent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitroute.engines.caching import CachingEngine
from bitroute.engines.engine import CacheMode, Engine
from bitroute.engines.loading import host
from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.corpus import weigh
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.alfworld.simulator.load import SPLITS as LABELS
from bitroute.envs.alfworld.simulator.load import find_games, load_split, load_task
from bitroute.episode import Episode
from bitroute.errors import ConfigError
from bitroute.nn.decoder import DecoderConfig
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.player import Player, play
from bitroute.rollout.workers import Hosting, Play, Shard
from bitroute.routers.registry import builder

FAILURES = ("nothing happens",)  # by which the game refuses an action, in lower case
OFFICIAL = "official-"  # "official-valid_seen": the publisher's split of that name, read from $ALFWORLD_DATA


@lru_cache(maxsize=4)
def official_games(name: str) -> list[Path]:
    """The game files of one of the publisher's splits. Raises ConfigError when $ALFWORLD_DATA does not hold it."""
    return find_games(None, name)


def official_tasks(name: str) -> list[AlfworldTask]:
    """All games of one of the publisher's splits, read. Raises DataError naming a file that is missing or truncated."""
    return list(load_split(None, name))


def task_at(split: str, index: int) -> AlfworldTask:
    """Task `index` of a generated split, or of an official one by its prefix. Raises ConfigError for an unknown split and an
    index beyond its end, DataError for a game file that is missing or truncated.
    """
    if not split.startswith(OFFICIAL):
        return splits.task(split, index)
    check_tasks(split, index + 1)
    name = split.removeprefix(OFFICIAL)
    return load_task(official_games(name)[index], LABELS.get(name, name))


def check_split(split: str) -> None:
    """Raise ConfigError when no split has this name; whether the files of an official one are here is another question."""
    if split not in splits.SPLITS and not split.startswith(OFFICIAL):
        raise ConfigError(
            f"unknown split {split!r}; want {', '.join(splits.SPLITS)} or {OFFICIAL}NAME, e.g. {OFFICIAL}valid_seen"
        )


def check_tasks(split: str, count: int) -> None:
    """Raise ConfigError unless `split` exists and has `count` tasks: generated splits have as many as one asks for."""
    check_split(split)
    if split.startswith(OFFICIAL) and count > (there := len(official_games(split.removeprefix(OFFICIAL)))):
        raise ConfigError(f"split {split} has {there} tasks, fewer than the {count} asked for")


def load_player(hosting: Hosting) -> Play:
    """Load model, variants and tokenizer once; the function that plays a shard with them. One thread: processes share the
    cores.
    """
    torch.set_num_threads(1)
    agent = AlfworldAgent(Tokenizer.load(hosting.model))
    hosted = host(
        hosting.model,
        hosting.schemes,
        hosting.variants,
        end_token=agent.tokenizer.end,
        cache_mode=CacheMode(hosting.cache_mode),
        dtype=getattr(torch, hosting.dtype),
    )
    engine: Engine[Any] = CachingEngine(hosted) if hosted.cache_mode is CacheMode.OWN else hosted

    build = builder(engine.ladder, engine.fingerprint)

    def run(shard: Shard) -> list[Episode]:
        job = shard.job
        router = build(job.router).with_options(threshold=job.threshold, sample=job.sample)
        player = Player(
            AlfworldEnvironment, agent, engine, router, max_steps=job.max_steps, constrained=not job.free, label=job.label
        )
        tasks = {i: task_at(job.split, i) for i in dict(shard.pairs)}
        jobs = [(tasks[i], seed) for i, seed in shard.pairs]
        order = {(task.id, seed): number for number, (task, seed) in enumerate(jobs)}
        episodes = play(player, jobs, job.policy, batch=len(jobs))
        return sorted(episodes, key=lambda e: order[e.task_id, e.seed])

    return run


def calibration_batches(model: Path, count: int = 64) -> tuple[Sequence[Tensor], str]:
    """Token sequences [1, t] of expert episodes of `lm-train`, for GPTQ; and where they come from."""
    agent = AlfworldAgent(Tokenizer.load(model))
    episodes = (demonstrate(task, seed=0, noise=0.15) for task in splits.tasks("lm-train"))
    batches = [torch.tensor([weigh(agent, episode).tokens[:1024]]) for episode in islice(episodes, count)]
    return batches, f"{count} expert episodes of lm-train"


def agent_config() -> DecoderConfig:
    """The reference agent's network: 3.3 M parameters, all widths multiples of 256 (what K-quants need)."""
    return DecoderConfig(
        vocab_size=768,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    )
