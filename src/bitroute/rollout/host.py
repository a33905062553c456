"""What a worker process does: it loads suite, agent and engine once, and plays the shards that it is given.

Here names become things: a suite's name its environment and agent, a router's specification a router.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitroute.engines.caching import CachingEngine
from bitroute.engines.engine import CacheMode, Engine
from bitroute.engines.registry import load_engine
from bitroute.envs.models import find_router
from bitroute.envs.registry import load_suite
from bitroute.envs.suite import Calibrating, Role, Suite, demonstrating, split_for
from bitroute.episode import Episode
from bitroute.nn.device import pick_device
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.player import Forced, Player, play_numbered
from bitroute.rollout.workers import Hosting, Play, Shard
from bitroute.routers.budgeted import Budgeted
from bitroute.routers.registry import builder
from bitroute.routers.router import Router

BATCH = 64  # episodes played at a time; where one ends, the shard's next one begins
LONGEST = 1024  # tokens of an episode that a quantiser sees


def load_player(hosting: Hosting) -> Play:
    """Load suite, tokenizer, model and variants; the function that plays a shard with them.

    One thread: processes share the cores.
    """
    torch.set_num_threads(1)
    suite = load_suite(hosting.suite, hosting.data)
    agent = suite.agent(Tokenizer.load(hosting.engine.model))
    hosted = load_engine(hosting.engine, agent.end)
    engine: Engine[Any] = CachingEngine(hosted) if hosted.cache_mode is CacheMode.OWN else hosted

    build, device = builder(engine.ladder, engine.fingerprint), str(pick_device(hosting.engine.device))

    def run(shard: Shard) -> list[Episode]:
        job = shard.job
        router: Router = build(find_router(job.router)).with_options(threshold=job.threshold, sample=job.sample).to(device)
        if job.limit is not None:
            router = Budgeted(router, job.limit)
        player = Player(
            suite.environment, agent, engine, router, max_steps=job.max_steps, constrained=not job.free, label=job.label
        )
        tasks = {i: suite.task(job.split, i) for i in dict(shard.pairs)}
        forced: list[Forced | None] = [Forced(r.step, r.variant) for r in shard.replays]
        forced = forced or [None] * len(shard.pairs)
        jobs = [(tasks[i], seed, force) for (i, seed), force in zip(shard.pairs, forced, strict=True)]
        played = dict(play_numbered(player, jobs, job.policy, batch=BATCH))
        return [played[number] for number in range(len(jobs))]

    return run


def calibration_batches(suite: Suite, model: Path, count: int = 64) -> tuple[Sequence[Tensor], str]:
    """Token sequences [1, t] of `count` expert episodes, for GPTQ; and where they come from.

    Raises CapabilityError when the suite has no demonstrations.
    """
    agent = suite.agent(Tokenizer.load(model))
    if isinstance(suite, Calibrating):
        rows = list(islice(suite.calibration(agent), count))
    else:
        demonstration = demonstrating(suite).demonstrations(agent, seed=0)
        rows = [demonstration(index).tokens for index in range(count)]
    return [torch.tensor([tokens[:LONGEST]]) for tokens in rows], f"{count} expert episodes of {split_for(suite, Role.LM)}"
