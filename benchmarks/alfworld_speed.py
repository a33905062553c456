"""Speed and memory of the native ALFWorld engine: steps/s on one core, loading, copying, 1,000 open games.

Plays random admissible commands in official games ($ALFWORLD_DATA or --data), or in generated ones where there are none, and
times the official engine beside it when the extra is installed:
    python benchmarks/alfworld_speed.py
Times are CPU seconds of one process; reading the list of admissible commands is part of every step.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path
from random import Random

from bitroute.envs.alfworld.official import OfficialAlfworldEnvironment
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.alfworld.simulator.load import find_games, load_task
from bitroute.envs.alfworld.splits import split
from bitroute.errors import CapabilityError, ConfigError


def wander(
    engine: AlfworldEnvironment | OfficialAlfworldEnvironment, task: AlfworldTask, steps: int, random: Random
) -> tuple[float, float, int]:
    """Seconds of the reset, seconds of all steps together, and the number of commands that were admissible in them."""
    start = time.process_time()
    observation = engine.reset(task)
    begun = time.process_time()
    commands = 0
    for _ in range(steps):
        observation = engine.step(random.choice(observation.admissible)).observation
        commands += len(observation.admissible)
    return begun - start, time.process_time() - begun, commands


def report(name: str, engine: AlfworldEnvironment | OfficialAlfworldEnvironment, tasks: list[AlfworldTask], steps: int) -> None:
    """Print the rate of one engine."""
    random = Random(0)
    runs = [wander(engine, task, steps, random) for task in tasks]
    seconds = sum(run[1] for run in runs)
    n = steps * len(runs)
    reset = statistics.median(run[0] for run in runs) * 1e3
    commands = sum(run[2] for run in runs) / n
    print(f"{name}: {n / seconds:,.0f} steps/s ({n:,} steps, {commands:.1f} admissible commands each), reset {reset:.2f} ms")


def main() -> None:
    """Parse the flags and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory that holds json_2.1.1 (default: $ALFWORLD_DATA)")
    parser.add_argument("--games", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50, help="steps a game")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # This directory holds an `alfworld.py` of our own, which must not hide the official package of that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        files = (find_games(arguments.data, "valid_seen") + find_games(arguments.data, "train"))[: arguments.games]
    except ConfigError as error:
        print(f"generated games: {error}")
        tasks = split("lm-train", arguments.games)
    else:
        tasks, seconds = [], []
        for file in files:
            start = time.process_time()
            tasks.append(load_task(file))
            seconds.append(time.process_time() - start)
        slow = statistics.quantiles(seconds, n=100)[-1] * 1e3
        print(f"load: median {statistics.median(seconds) * 1e3:.2f} ms, 99th percentile {slow:.2f} ms an official game")
    worlds = [AlfworldEnvironment() for _ in tasks]
    for world, task in zip(worlds, tasks, strict=True):
        world.reset(task)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"memory: {(after - before) / 1024:.0f} MiB for {len(worlds):,} different games, all open")

    report("native", AlfworldEnvironment(), tasks, arguments.steps)
    start = time.process_time()
    for number in range(100_000):
        worlds[number % len(worlds)].copy()
    print(f"copy: {(time.process_time() - start) / 100_000 * 1e6:.2f} us")
    try:
        official = OfficialAlfworldEnvironment()
    except CapabilityError as error:
        print(error)
    else:
        report("official", official, tasks[:3], 20)


if __name__ == "__main__":
    main()
