"""Time of one routing decision in the gateway, one thread: `Policy.decide`, features of the step included.

    python benchmarks/router_latency.py [--decisions 300] [--tokens 2000]

Rules, the heuristic and the regression at histories of 10 and 50 messages of 1 KB; the encoder (the default network with random
weights: its speed does not hang on them) at a history of `--tokens` tokens of which all but the newest step has been read, and
the same read anew, which is what a router without a cache does each time (arXiv 2602.02711 reports 17 to 29 ms a call). Each
decision is of another episode, whose texts are new strings, as a new request brings them; the two decisions before it were
taken, too. CPU milliseconds of this process, which a busy machine disturbs little, and wall-clock ones, which hold on a quiet
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bitroute.envs.models import find_model
from bitroute.episode import View
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.core.values import Call, StepContext
from bitroute.gateway.routing.policy import Policy
from bitroute.nn.tokenizer import Tokenizer
from bitroute.routers.encoder.dataset import TextReader
from bitroute.routers.encoder.network import EncoderNetwork, encoder_config
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.features import FEATURES
from bitroute.routers.signals import SignalsModel

TOKENIZER = find_model("alfworld-router")
LADDER = ("low", "high")
THINGS = ("book", "pen", "mug", "plate", "lettuce", "soapbar", "cloth", "pillow", "vase", "laptop")
PLACES = ("desk", "shelf", "drawer", "sinkbasin", "countertop", "bed", "dresser", "fridge")
Times = list[tuple[float, float]]  # CPU and wall-clock seconds
CALL = Call("/v1/chat/completions", "auto", False, {}, (), (), False, b"")


def sentence(chance: random.Random) -> str:
    place, things = chance.choice(PLACES), chance.sample(THINGS, 3)
    seen = ", ".join(f"a {thing} {chance.randint(1, 4)}" for thing in things)
    return f"You arrive at {place} {chance.randint(1, 9)}. On the {place}, you see {seen}."


def message(chance: random.Random, characters: int) -> str:
    parts = [sentence(chance)]
    while sum(map(len, parts)) < characters:
        parts.append(
            sentence(chance) if chance.random() < 0.5 else f"note{chance.randrange(10**6)} says word{chance.randrange(999)}"
        )
    return " ".join(parts) + "\nGoal: desk put pen"


def history(seed: int, steps: int, characters: int) -> View:
    """The view before step `steps` of an episode."""
    chance = random.Random(seed)
    messages = tuple(message(chance, characters) for _ in range(steps + 1))
    actions = tuple(f"go to {chance.choice(PLACES)} {chance.randint(1, 9)}" for _ in range(steps))
    return View(messages, actions, tuple(chance.choice(LADDER) for _ in range(steps)), (None,) * steps)


def before(view: View) -> View:
    """The view one step earlier."""
    return View(view.messages[:-1], view.actions[:-1], view.variants[:-1], view.signals[:-1])


def two_steps(view: View) -> list[View]:
    """The two views before it: the second decision makes room for more than it needs."""
    return [before(before(view)), before(view)]


def nothing(view: View) -> list[View]:
    """No decision before it: all is read anew."""
    return []


def fresh(view: View) -> View:
    """The same texts as new strings."""
    texts = [tuple(bytes(t, "utf-8").decode() for t in part) for part in (view.messages, view.actions)]
    return View(*texts, view.variants, view.signals)


async def decide(spec: str, views: list[View], earlier: Callable[[View], list[View]] = two_steps) -> Times:
    """Seconds of the decisions on `views`, each after those on its `earlier` ones."""
    variants = [{"name": name, "urls": ["http://127.0.0.1:9"]} for name in LADDER]
    config = GatewayConfig.of({"variants": variants, "routing": {"router": spec, "timeout": 60.0, "cache": 2**30}}, "benchmark")
    policy = Policy(config)
    await policy.start()
    requested, times = policy.resolve("auto", None), []
    try:
        for number, view in enumerate([*views[:5], *views]):
            for what in (*earlier(view), fresh(view)):
                place = StepContext("s", "header", f"e{number}", len(what.actions), what, number, False)
                started = time.process_time(), time.perf_counter()
                ruling = await policy.decide(place, CALL, requested, lambda _: False)
                took = time.process_time() - started[0], time.perf_counter() - started[1]
                assert ruling.decision.reason not in ("late", "router-error"), ruling
            times.append(took)
    finally:
        await policy.close()
    return times[5:]


def save_routers(directory: Path) -> tuple[str, str]:
    """A regression and an encoder, untrained."""
    ones = (1.0,) * len(FEATURES)
    fitted = SignalsModel(
        features=FEATURES, mean=ones, scale=ones, weights=ones, bias=0.0, variants=LADDER, model="benchmark", failures=()
    )
    fitted.save(directory / "signals.json")
    torch.manual_seed(0)
    tokenizer = Tokenizer.load(TOKENIZER)
    network = EncoderNetwork(encoder_config(tokenizer.vocab_size), use_signals=True)
    EncoderRouter(network, tokenizer, LADDER, model="benchmark").save(directory / "encoder")
    return str(directory / "signals.json"), str(directory / "encoder")


def long_views(tokens: int, count: int) -> tuple[list[View], float]:
    """Views of about `tokens` tokens, and the mean number of tokens of their newest step."""
    reader = TextReader(Tokenizer.load(TOKENIZER))
    views, new = [], []
    for seed in range(count):
        total = steps = 0
        while total < tokens:
            steps += 1
            view = history(seed, steps, 60)
            total = sum(len(reader.message(m)) for m in view.messages) + sum(len(reader.action(a)) for a in view.actions)
        new.append(len(reader.action(view.actions[-1])) + len(reader.message(view.messages[-1])))
        views.append(view)
    return views, float(np.mean(new))


def line(name: str, times: Times) -> None:
    cpu, wall = (1000 * np.percentile(column, [50, 99]) for column in zip(*times, strict=True))
    print(f"{name:45} {cpu[0]:9.3f} {cpu[1]:9.3f} {wall[0]:10.3f} {wall[1]:10.3f} {len(times):6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{platform.processor() or platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    print(f"{'milliseconds':45} {'CPU p50':>9} {'CPU p99':>9} {'wall p50':>10} {'wall p99':>10} {'n':>6}")
    with tempfile.TemporaryDirectory() as directory:
        signals, encoder = save_routers(Path(directory))
        for steps in (10, 50):
            views = [history(seed, steps, 1000) for seed in range(given.decisions)]
            for name, spec in (("rule (always:high)", "always:high"), ("heuristic", "heuristic"), ("signals", signals)):
                line(f"{name}, {steps} messages of 1 KB", asyncio.run(decide(spec, views)))
            line(f"signals, {steps} messages of 1 KB, read anew", asyncio.run(decide(signals, views, nothing)))
        views, new = long_views(given.tokens, given.decisions // 3)
        line(f"encoder, {given.tokens} tokens, {new:.0f} of them new", asyncio.run(decide(encoder, views)))
        line(f"encoder, {given.tokens} tokens, read anew", asyncio.run(decide(encoder, views, nothing)))


if __name__ == "__main__":
    main()
