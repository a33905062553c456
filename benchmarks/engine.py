"""Speed of the torch engine on one thread: real play, against a former tree, and by the shape of a network.

    python benchmarks/engine.py [--only paired shapes play] [--model alfworld-agent] [--games 192]
    python benchmarks/engine.py --only paired --baseline ../bitroute-185291e --rounds 5

`paired` plays the same `validation` games with this tree and with another one, in turns, each time in a new process
(`benchmarks/engine_steps.py`). `shapes` prefills and decodes with random weights of two shapes and prints the share of this
machine's peak. `play` prints steps/s by batch size and dtype, the two cache modes under routing, and what the memory of
generations saves when several policies play the same games. Seconds are CPU seconds, so that a busy machine disturbs less; it
still does, and the load is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any, Final

import torch
from scipy.stats import t as student

from bitroute.engines.caching import CachingEngine
from bitroute.engines.engine import CacheMode, Engine, Sampling
from bitroute.engines.torch import TorchEngine
from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.models import find_model
from bitroute.episode import Task
from bitroute.nn.checkpoint import load_model, read_config
from bitroute.nn.decoder import Decoder, DecoderConfig
from bitroute.nn.tokenizer import Tokenizer
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.rollout.player import Player, play
from bitroute.routers.router import Router
from bitroute.routers.rules import Always, Periodic, Random

LOW: Final = "w3g64-rtn"
BATCH: Final = 64
PROMPTS, LENGTH, DECODED = 16, 256, 16  # of the shapes
DTYPES: Final = (torch.bfloat16, torch.float32)
SMOLLM2: Final = DecoderConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    head_dim=64,
    max_position_embeddings=2048,
    rope_theta=100_000.0,
    rms_norm_eps=1e-5,
    qk_norm=False,
)


@dataclass(frozen=True, slots=True)
class Run:
    """What one policy's play took."""

    steps: int
    tokens: int
    seconds: float


def seconds_of(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def peak(dtype: torch.dtype) -> float:
    """The median rate of a square product of 1,024 columns, operations a second."""
    left, right = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    return 2 * 1024**3 / median(seconds_of(lambda: torch.mm(left, right)) for _ in range(40))


# Against a former tree


def paired(baseline: Path, model: Path, games: int, rounds: int) -> None:
    """Steps/s of both trees, their ratio with a 95 % interval over rounds, and how many episodes are the same."""
    trees = {"baseline": baseline, "this tree": Path(__file__).parents[1]}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        runs = [{tree: child(path, model, games, name) for tree, path in trees.items()} for _ in range(rounds)]
        rates = {tree: [run[tree]["steps"] / run[tree]["seconds"] for run in runs] for tree in trees}
        ratios = [ours / theirs for theirs, ours in zip(rates["baseline"], rates["this tree"], strict=True)]
        spread = student.ppf(0.975, rounds - 1) * stdev(ratios) / rounds**0.5 if rounds > 1 else float("nan")
        first = runs[0]
        same = sum(a == b for a, b in zip(first["baseline"]["actions"], first["this tree"]["actions"], strict=True))
        print(
            f"{name}: {games} games, periodic:0.5, own caches, {rounds} rounds: "
            + ", ".join(f"{tree} {median(values):.0f} steps/s" for tree, values in rates.items())
            + f"; ratio {mean(ratios):.2f} [{mean(ratios) - spread:.2f}, {mean(ratios) + spread:.2f}]; "
            f"{same} episodes the same, won {first['baseline']['wins']} and {first['this tree']['wins']}; {load()}",
            flush=True,
        )


def child(tree: Path, model: Path, games: int, dtype: str) -> dict[str, Any]:
    """What `benchmarks/engine_steps.py` finds with the package of a tree."""
    script = Path(__file__).with_name("engine_steps.py")
    command = [sys.executable, script, model, "--games", str(games), "--dtype", dtype]
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve() / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# By shape


def shapes(configs: dict[str, DecoderConfig]) -> None:
    """Prefill and decoding with random weights, and which share of the peak that is."""
    for dtype in DTYPES:
        best = peak(dtype)
        print(f"\n{dtype}: peak of a product {best / 1e9:.0f} GFLOP/s; {PROMPTS} prompts of {LENGTH} tokens; {load()}")
        for name, config in configs.items():
            torch.manual_seed(0)
            engine = TorchEngine({"high": Decoder(config).to(dtype)}, end_token=-1, fingerprint="benchmark")
            took = prefill(engine, config)
            products, attention = operations(config)
            decoded = ", ".join(f"{batch}: {decode(engine, config, batch):.0f}" for batch in (1, 8, 32, 64))
            print(
                f"{name}: prefill {PROMPTS * LENGTH / took:,.0f} tokens/s, {products / took / 1e9:.0f} GFLOP/s of products "
                f"({products / took / best:.0%} of peak; {(products + attention) / took / best:.0%} with those of attention); "
                f"decoded tokens/s by batch {decoded}",
                flush=True,
            )


def operations(config: DecoderConfig) -> tuple[float, float]:
    """Floating-point operations of a prefill that wants the last token of each prompt: of layers, and of attention."""
    tokens = PROMPTS * LENGTH
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    keys = 2 * kv_heads * width * config.hidden_size
    rest = 2 * heads * width * config.hidden_size + 3 * config.hidden_size * config.intermediate_size
    whole = config.num_hidden_layers - 1
    products = tokens * (whole * (keys + rest) + keys) + PROMPTS * (rest + config.hidden_size * config.vocab_size)
    return 2.0 * products, 2.0 * whole * tokens * LENGTH * heads * width  # half of all pairs, two products


def prefill(engine: TorchEngine, config: DecoderConfig) -> float:
    """CPU seconds (the median of five)."""
    generator, times = torch.Generator().manual_seed(1), []
    for _ in range(6):
        contexts = [engine.open() for _ in range(PROMPTS)]
        for context in contexts:
            engine.extend(context, torch.randint(config.vocab_size, (LENGTH,), generator=generator).tolist())
        tokens = [[0]] * PROMPTS
        times.append(seconds_of(lambda c=contexts, t=tokens: engine.score(c, t, "high")))  # type: ignore[misc]
    return median(times[1:])


def decode(engine: TorchEngine, config: DecoderConfig, batch: int) -> float:
    """Tokens a CPU second of `batch` contexts of LENGTH tokens, one token each at a time."""
    contexts = [engine.open() for _ in range(batch)]
    for context in contexts:
        engine.extend(context, torch.randint(config.vocab_size, (LENGTH,)).tolist())
    names, free = ["high"] * batch, [None] * batch
    engine.generate(contexts, names, free, Sampling(max_tokens=2))
    took = seconds_of(lambda: engine.generate(contexts, names, free, Sampling(max_tokens=DECODED)))
    return batch * DECODED / took


# Play


def measure(engine: Engine[Any], agent: AlfworldAgent, router: Router, tasks: Sequence[Task], batch: int) -> Run:
    """Play all tasks with one policy."""
    player = Player(AlfworldEnvironment, agent, engine, router)
    start = time.process_time()
    episodes = list(play(player, [(task, 0) for task in tasks], "benchmark", batch=batch))
    seconds = time.process_time() - start
    usages = [step.usage for episode in episodes for step in episode.steps]
    return Run(len(usages), sum(u.prefill + u.decode for u in usages), seconds)


def played(directory: Path, games: int) -> None:
    """Play by batch size and dtype, by cache mode, and with the memory of generations."""
    agent = AlfworldAgent(Tokenizer.load(directory))
    tasks = splits.split("validation", games)
    for dtype in DTYPES:
        engine = host(ladder(directory, dtype), agent)
        print(f"\n{dtype}, every step at high precision; {load()}")
        for batch in (1, 8, 32, 64, 128):
            chosen = tasks[: max(8, 2 * batch)]
            run = measure(engine, agent, Always(engine.ladder, "high"), chosen, batch)
            print(
                f"batch {batch}, {len(chosen)} games: {run.steps} steps, {run.steps / run.seconds:.0f} steps/s, "
                f"{run.tokens / run.seconds:,.0f} tokens/s"
            )
    models = ladder(directory, torch.bfloat16)
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
    """The checkpoint and a quantized variant of it."""
    high = load_model(directory, torch.float32)
    return {"low": quantize_model(high, Scheme.parse(LOW)).to(dtype), "high": high.to(dtype)}


def host(models: dict[str, Decoder], agent: AlfworldAgent, mode: CacheMode = CacheMode.OWN) -> TorchEngine:
    """An engine of these models."""
    return TorchEngine(models, end_token=agent.tokenizer.end, fingerprint="benchmark", cache_mode=mode)


def load() -> str:
    """How busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Parse the flags and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=["paired", "shapes", "play"], default=["shapes", "play"])
    parser.add_argument("--model", type=find_model, default="alfworld-agent")
    parser.add_argument("--games", type=int, default=192)
    parser.add_argument("--baseline", type=Path, help="another tree, of commit 185291e or later, for `paired`")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = platform.processor() or platform.machine()
    print(f"machine: {machine}, {os.cpu_count()} cores, torch {torch.__version__}, one thread")
    if "paired" in arguments.only:
        if arguments.baseline is None:
            parser.error("--only paired needs --baseline, the directory of another tree")
        paired(arguments.baseline, arguments.model, arguments.games, arguments.rounds)
    if "shapes" in arguments.only:
        shapes({arguments.model.name: read_config(arguments.model), "135 M, SmolLM2's shape": SMOLLM2})
    if "play" in arguments.only:
        played(arguments.model, arguments.games)


if __name__ == "__main__":
    main()
