"""What spinning threads cost beside other work: training of the router, threads that spin against threads that sleep.

    python benchmarks/threads.py [--rounds 5] [--steps 10] [--threads 2]

Each round runs the same training steps four times, each in a process of its own: with OpenMP's default of spinning at barriers
(the baseline) and with `bitroute.threads.wait_passively`, alone and beside as many busy loops as there are cores. Prints the
median over rounds of wall seconds and CPU seconds a step, and the ratio. Other work on the machine makes "alone" less so: its
load is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bitroute.threads import OTHERS, POLICY, wait_passively

WARM_UP = 2  # steps before the clock starts


def child(steps: int, threads: int) -> None:
    """Train for `steps` steps and print the seconds that one takes: on the wall and of the processor."""
    import torch  # noqa: PLC0415  (the environment decides how its threads wait, once it is loaded)

    from bitroute.routers.encoder.dataset import Trajectory  # noqa: PLC0415
    from bitroute.routers.encoder.network import SIGNAL_FEATURES, EncoderNetwork, encoder_config  # noqa: PLC0415
    from bitroute.routers.features import FEATURES  # noqa: PLC0415
    from bitroute.training.supervised import LabelledTrajectory, supervised_loss  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    draw = random.Random(0)
    rows = []
    for _ in range(16):  # episodes, as many and about as long as stage 1 reads at a time
        tokens = [draw.randrange(4, 768) for _ in range(draw.randint(350, 500))]
        decisions = sorted(draw.sample(range(1, len(tokens) - 5), 10))
        beside = [[0.1] * SIGNAL_FEATURES] * 10, [[0.1] * len(FEATURES)] * 10
        trajectory = Trajectory(tokens, decisions, *beside, [at + 1 for at in decisions])
        rows.append(LabelledTrajectory(trajectory, [draw.random() for _ in decisions]))
    network = EncoderNetwork(encoder_config(768), use_signals=True).train()
    optimizer = torch.optim.AdamW(network.parameters())
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            wall, cpu = time.perf_counter(), time.process_time()
        loss = supervised_loss(network, rows, 0.8, (0.6, 2.0), 0.3)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    print(json.dumps([(time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps]))


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """`loops` processes that do nothing as fast as they can."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(passive: bool, steps: int, threads: int) -> tuple[float, float]:
    """Wall and CPU seconds of a step."""
    environment = {key: value for key, value in os.environ.items() if key not in (POLICY, *OTHERS)}
    if passive:
        wait_passively(environment)
    command = [sys.executable, __file__, "--child", "--steps", str(steps), "--threads", str(threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    wall, cpu = json.loads(done.stdout)
    return wall, cpu


def main() -> None:
    """Parse the flags and print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.steps, arguments.threads)
        return
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"machine: {platform.processor() or platform.machine()}, {cores} cores{load}; {arguments.threads} threads of torch")
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    for _ in range(arguments.rounds):
        for loops in (0, cores):
            with busy(loops):
                for passive in (False, True):
                    found.setdefault((loops, passive), []).append(measure(passive, arguments.steps, arguments.threads))
    print(f"n {arguments.rounds} rounds of {arguments.steps} steps; median seconds a step, spinning -> sleeping")
    for loops in (0, cores):
        for index, kind in enumerate(("wall", "CPU")):
            spinning, sleeping = (statistics.median(row[index] for row in found[loops, passive]) for passive in (False, True))
            where = f"beside {loops} busy loops" if loops else "alone"
            print(f"{where:20} {kind:4} {spinning:7.3f} -> {sleeping:7.3f}  ({spinning / sleeping:.1f} times)")


if __name__ == "__main__":
    main()
