"""Speed of the torch engine in real play: the agent plays `validation` games, one thread.

    python benchmarks/engine.py [--model alfworld-agent] [--games 192]

Prints steps/s and tokens/s (read, not only generated) by batch size and dtype, how much of that time matrix products take and
which share of this machine's peak they reach, the two cache modes under routing, and what the memory of generations saves when
several policies play the same games. Seconds are CPU seconds of this process, so that a busy machine disturbs little; batches
get smaller towards the end of a run, as they do in every evaluation.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitroute.engines.caching import CachingEngine
from bitroute.engines.engine import CacheMode, Engine
from bitroute.engines.torch import TorchEngine
from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.models import find_model
from bitroute.episode import Task
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder
from bitroute.nn.tokenizer import Tokenizer
from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.model import materialize
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.rollout.player import Player, play
from bitroute.routers.router import Router
from bitroute.routers.rules import Always, Periodic, Random

LOW = "w3g64-rtn"
BATCH = 64


@dataclass(slots=True)
class Products:
    """Counts the matrix products of linear layers while it is attached: operations, and CPU seconds."""

    operations: float = 0.0
    seconds: float = 0.0
    started: float = 0.0

    def attach(self, *models: nn.Module) -> None:
        """Hook every linear layer, quantized or not; a layer that two models share is hooked once."""
        layers = {m for model in models for m in model.modules() if isinstance(m, nn.Linear | QuantizedLinear)}
        for layer in layers:
            layer.register_forward_pre_hook(self._begin)
            layer.register_forward_hook(self._end)

    def clear(self) -> None:
        """Start anew."""
        self.operations = self.seconds = 0.0

    def _begin(self, layer: Any, inputs: tuple[Tensor, ...]) -> None:
        self.started = time.process_time()

    def _end(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.seconds += time.process_time() - self.started
        self.operations += 2.0 * output.numel() * layer.in_features


@dataclass(frozen=True, slots=True)
class Run:
    """What one policy's play took."""

    steps: int
    tokens: int
    seconds: float


def peak(dtype: torch.dtype) -> float:
    """The best rate of a square product of 1,024 columns, operations a second."""
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    rates = []
    for _ in range(20):
        start = time.process_time()
        torch.mm(left, right)
        rates.append(2 * 1024**3 / (time.process_time() - start))
    return max(rates)


def measure(engine: Engine[Any], agent: AlfworldAgent, router: Router, tasks: Sequence[Task], batch: int) -> Run:
    """Play all tasks with one policy."""
    player = Player(AlfworldEnvironment, agent, engine, router)
    start = time.process_time()
    episodes = list(play(player, [(task, 0) for task in tasks], "benchmark", batch=batch))
    seconds = time.process_time() - start
    usages = [step.usage for episode in episodes for step in episode.steps]
    return Run(len(usages), sum(u.prefill + u.decode for u in usages), seconds)


def main() -> None:
    """Parse the flags and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=find_model, default="alfworld-agent")
    parser.add_argument("--games", type=int, default=192)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    agent = AlfworldAgent(Tokenizer.load(arguments.model))
    tasks = splits.split("validation", arguments.games)
    print(
        f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread"
    )

    for dtype in (torch.bfloat16, torch.float32):
        models = ladder(arguments.model, dtype)
        products = Products()
        products.attach(*models.values())
        best = peak(dtype)
        engine = host(models, agent)
        size = sum(p.numel() for p in models["high"].parameters()) / 1e6
        print(f"\n{dtype}, {size:.1f} M parameters, every step at high precision; peak of a product {best / 1e9:.0f} GFLOP/s")
        print(
            f"{'batch':>5} {'games':>5} {'steps':>6} {'steps/s':>8} {'tokens/s':>9}   products: share of time, GFLOP/s, of peak"
        )
        for batch in (1, 8, 32, 64, 128):
            played = tasks[: max(8, 2 * batch)]
            products.clear()
            run = measure(engine, agent, Always(engine.ladder, "high"), played, batch)
            rate = products.operations / products.seconds
            print(
                f"{batch:5} {len(played):5} {run.steps:6} {run.steps / run.seconds:8.0f} {run.tokens / run.seconds:9,.0f}"
                f"   {products.seconds / run.seconds:24.0%} "
                f"{rate / 1e9:9.0f} {rate / best:8.0%}"
            )

    models = ladder(arguments.model, torch.bfloat16)
    print(f"\ntorch.bfloat16, every other step at high precision, the rest {LOW}, {len(tasks)} games, batches of {BATCH}")
    for mode in CacheMode:
        engine = host(models, agent, mode)
        run = measure(engine, agent, Periodic(engine.ladder, 0.5), tasks, BATCH)
        print(f"cache mode {mode:6}: {run.steps / run.seconds:4.0f} steps/s, {run.tokens / run.steps:.0f} tokens read a step")

    routers: list[Router] = [Always(engine.ladder, variant) for variant in engine.ladder]
    routers += [Periodic(engine.ladder, 0.3), *(Random(engine.ladder, p) for p in (0.2, 0.4, 0.6))]
    print(f"\ntorch.bfloat16, cache mode own, {len(routers)} policies on the same {len(tasks)} games, one after the other")
    plain, memory = host(models, agent), CachingEngine(host(models, agent))
    for hosted, name in ((plain, "without memory"), (memory, "with memory")):
        runs = [measure(hosted, agent, router, tasks, BATCH) for router in routers]
        rates = ", ".join(f"{run.steps / run.seconds:.0f}" for run in runs)
        total = sum(run.steps for run in runs) / sum(run.seconds for run in runs)
        print(f"{name:14}: {total:4.0f} steps/s (by policy: {rates})")
    print(f"generations that were remembered: {memory.hits / (memory.hits + memory.misses):.0%}")


def ladder(directory: Path, dtype: torch.dtype) -> dict[str, Decoder]:
    """The checkpoint and a quantized variant of it, held densely."""
    high = load_model(directory, torch.float32)
    low = quantize_model(high, Scheme.parse(LOW)).to(dtype)
    materialize(low, dtype)
    return {"low": low.eval(), "high": high.to(dtype)}


def host(models: dict[str, Decoder], agent: AlfworldAgent, mode: CacheMode = CacheMode.OWN) -> TorchEngine:
    """An engine of these models."""
    return TorchEngine(models, end_token=agent.tokenizer.end, fingerprint="benchmark", cache_mode=mode)


if __name__ == "__main__":
    main()
