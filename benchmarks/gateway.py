"""What the gateway costs: added latency, requests a second of one core, and memory under thousands of open streams.

    python benchmarks/gateway.py [--rounds 6] [--seconds 4] [--litellm VENV] [--only KINDS] [--realtime]
    python benchmarks/gateway.py --streams 5000

Side by side, in rounds that take each server in turn: the upstream itself (`direct`), a bare Starlette and aiohttp pass-through
(`floor`), the gateway with sessions, records (SQLite) and the signals router (a regression fitted here, on made-up features),
the same with the bundled trained encoder, and LiteLLM's proxy where `--litellm` names a virtual environment that has it
(pip install 'litellm[proxy]'). Agents play episodes of six steps with their whole histories (1 KB a request in the mean) for
one chat completion each, whole or streamed in 16 chunks. The server under test has one core for itself (the
quietest, where other work shares the machine), upstream and load share another.

Saturation is a closed loop of 32 connections. Latency is an open loop (Poisson arrivals) at half of that, at most 1,000
requests a second, and what is added is the difference to `direct` at 500 a second, of the same quantile. CPU time is the server
process's, of all its threads (/proc/PID/stat), at saturation; 1000 / (CPU ms) is what a core of its own would answer. Where
other work shares the machine, CPU time suffers least and latency most. Intervals (95 %) are bootstraps over rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
import uvloop
from sqlalchemy import func, select

from bitroute.envs.models import find_model
from bitroute.gateway.records.tables import open_database, steps
from bitroute.routers.features import FEATURES
from bitroute.routers.signals import fit_signals
from gateway_load import Load, Seen

ROOT: Final = Path(__file__).resolve().parent.parent
SERVERS: Final = Path(__file__).with_name("gateway_servers.py")
ENCODER: Final = find_model("alfworld-router-trained")
KINDS: Final = ("floor", "signals", "encoder", "litellm")
DIRECT_RATE: Final = 500.0  # requests a second at which the upstream alone is asked
MOST: Final = 1000.0  # requests a second that load and upstream handle without being late themselves
AGENTS: Final = 32  # connections at saturation ...
WAITING: Final = 128  # ... and in the open loop: more than ever wait at half of that
_WITHOUT_KEYS: Final = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"  # on this machine alone, as the gateway is asked
CORES: list[int] = []  # of this run: upstream and load get the first one, the servers the last, the quietest
TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """A running server: its process, port, and the model name to ask it for."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]
    model: str = "auto"
    admin: int = 0

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak(self) -> int:
        """The most resident memory so far, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

    def status(self) -> dict[str, object]:
        """What the gateway's admin port tells."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/status.json") as response:
            found: dict[str, object] = json.load(response)
            return found


@dataclass
class Measured:
    """One server's rounds of one kind of answer."""

    rate: list[float] = field(default_factory=list)  # requests a second at saturation
    cpu: list[float] = field(default_factory=list)  # milliseconds a request, there
    share: list[float] = field(default_factory=list)  # of a core that the server got meanwhile, per cent
    latency: list[np.ndarray] = field(default_factory=list)  # milliseconds, at half of it
    n: int = 0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def quietest_last(cores: set[int]) -> list[int]:
    """The cores by how idle they are, over a second."""

    def idle() -> dict[int, int]:
        lines = (line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu"))
        return {int(name[3:]): int(counts[3]) for name, *counts in lines if name != "cpu"}

    before = idle()
    time.sleep(1)
    after = idle()
    return sorted(cores, key=lambda core: after[core] - before[core])


def start(command: list[str], core: int, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process on one core."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})})
    os.sched_setaffinity(process.pid, {core})
    return process


def wait(server: Server, path: str, log: Path, seconds: float = 120.0) -> None:
    """Until it answers."""
    deadline = time.monotonic() + seconds
    while True:
        if server.process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{server.kind} did not start:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=5):
            return
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def save_fitted(path: Path) -> None:
    """A regression that sends about a third of the steps to high; what it was fitted on does not change what it costs."""
    rng = np.random.default_rng(0)
    rows = rng.random((4000, len(FEATURES)))
    labels = rng.random(4000) < 1 / (1 + np.exp(-4 * (rows[:, 5] + rows[:, 2] - 1.2)))
    fit_signals(rows, labels, ("low", "high"), "bench").save(path)


def gateway(kind: str, upstream: int, home: Path, core: int) -> Server:
    """The gateway with everything on that a first user has on."""
    port, admin = free_port(), free_port()
    router = str(ENCODER)
    if kind == "signals":
        router = str(home / "signals.json")
        save_fitted(Path(router))
    variants = "".join(
        f'[[variants]]\nname = "{name}"\nurls = ["http://127.0.0.1:{upstream}"]\nmax_requests = 8192\n'
        for name in ("low", "high")
    )
    config = home / f"{kind}.toml"
    config.write_text(
        f'[server]\nport = {port}\nadmin_port = {admin}\n{variants}[routing]\nrouter = "{router}"\nbudget = 0.3\n'
        f'[records]\nurl = "sqlite:///{home}/{kind}.db"\n'
    )
    command = [str(Path(sys.executable).with_name("bitroute")), "serve", "--config", str(config)]
    return Server(kind, port, start(command, core, home / f"{kind}.log"), admin=admin)


def litellm(venv: Path, upstream: int, home: Path, core: int) -> Server:
    port, config = free_port(), home / "litellm.yaml"
    target = f'{{model: openai/high, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none}}'
    config.write_text(
        f"model_list:\n  - model_name: auto\n    litellm_params: {target}\nlitellm_settings: {{telemetry: false}}\n"
    )
    command = [
        str(venv / "bin" / "litellm"),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    env = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "PATH": path, _WITHOUT_KEYS: "true"}
    return Server("litellm", port, start(command, core, home / "litellm.log", env))


@contextlib.contextmanager
def running(kinds: list[str], venv: Path | None, home: Path, options: list[str]) -> Iterator[list[Server]]:
    """The servers, started and stopped again: the upstream on the first core, the others on the last."""
    port = free_port()
    upstream = [sys.executable, str(SERVERS), "upstream", str(port), *options]
    servers = [Server("direct", port, start(upstream, CORES[0], home / "upstream.log"))]
    try:
        wait(servers[0], "/health", home / "upstream.log")
        for kind in kinds:
            core = CORES[-1]
            if kind == "floor":
                at = free_port()
                command = [sys.executable, str(SERVERS), "floor", str(at), f"http://127.0.0.1:{port}"]
                servers.append(Server(kind, at, start(command, core, home / "floor.log")))
            elif kind in ("signals", "encoder"):
                servers.append(gateway(kind, port, home, core))
            elif kind == "litellm" and venv is not None:
                servers.append(litellm(venv, port, home, core))
            else:
                continue
            wait(servers[-1], "/health/liveliness" if kind == "litellm" else "/health", home / f"{kind}.log")
        yield servers
    finally:
        for server in reversed(servers):
            stop(server.process)


def check(server: Server, seen: Seen) -> None:
    if seen.failed:
        sys.exit(f"{server.kind}: {seen.failed} of {seen.failed + len(seen.total)} requests failed: {seen.example!r}")


async def saturate(server: Server, stream: bool, seconds: float, seed: int, into: Measured) -> None:
    """One round of one server: a moment to get warm, then as much as it takes."""
    load = Load(server.port, server.model, stream, seed)
    await load.connect(AGENTS)
    check(server, await load.closed_loop(0.5))
    before, began = server.cpu(), time.perf_counter()
    seen = await load.closed_loop(seconds)
    check(server, seen)
    took, spent = time.perf_counter() - began, server.cpu() - before
    into.rate.append(len(seen.total) / took)
    into.cpu.append(spent * 1000 / len(seen.total))
    into.share.append(100 * spent / took)
    load.close()


async def respond(server: Server, stream: bool, seconds: float, seed: int, into: Measured) -> None:
    """One round of one server: answers at half of that."""
    rate = min(float(np.mean(into.rate)) / 2, MOST) if into.rate else DIRECT_RATE
    load = Load(server.port, server.model, stream, seed)
    await load.connect(WAITING)
    check(server, await load.open_loop(rate, 0.5))
    seen = await load.open_loop(rate, seconds)
    check(server, seen)
    into.latency.append(np.array(seen.first if stream else seen.total) * 1000)
    into.n += len(seen.total)
    load.close()


@contextlib.contextmanager
def urgent(*processes: int) -> Iterator[None]:
    """No other work comes before theirs. They must leave their cores idle for most of the time."""

    def schedule(policy: int, priority: int) -> None:
        for process in processes:
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))

    schedule(os.SCHED_FIFO, 1)
    try:
        yield
    finally:
        schedule(os.SCHED_OTHER, 0)


@contextlib.contextmanager
def awake(server: Server) -> Iterator[None]:
    """The server runs; otherwise it is halted, so that what others do in the background costs this one nothing."""
    if server.kind == "direct":  # the upstream of all
        yield
        return
    server.process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGSTOP)


def interval(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def added(own: list[np.ndarray], direct: list[np.ndarray], q: float, rng: np.random.Generator) -> tuple[float, float, float]:
    """A quantile of all requests less that of direct ones; its interval by drawing rounds, the same for both."""

    def difference(rounds: np.ndarray | range) -> float:
        ours, theirs = (np.percentile(np.concatenate([found[r] for r in rounds]), q) for found in (own, direct))
        return float(ours - theirs)

    count = len(own)
    return (difference(range(count)), *interval([difference(rng.integers(count, size=count)) for _ in range(1000)]))


def mean(values: list[float], rng: np.random.Generator) -> tuple[float, float, float]:
    array = np.array(values)
    return (float(array.mean()), *interval(list(array[rng.integers(len(array), size=(1000, len(array)))].mean(axis=1))))


def table(found: dict[str, Measured], what: str) -> None:
    """Print a table in Markdown."""
    rng = np.random.default_rng(0)
    columns = (what, "added p50 ms", "added p99 ms", "CPU ms a request", "requests/s at saturation", "with % of a core", "n")
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    direct = found["direct"]
    for kind, measured in found.items():
        all_ = np.concatenate(measured.latency)
        if kind == "direct":
            cells = [f"(took {np.percentile(all_, q):.2f})" for q in (50, 99)]
        else:
            cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*added(measured.latency, direct.latency, q, rng)) for q in (50, 99)]
        if measured.rate:
            cells += ["{:.3f} [{:.3f}, {:.3f}]".format(*mean(measured.cpu, rng))]
            cells += ["{:.0f} [{:.0f}, {:.0f}]".format(*mean(measured.rate, rng)), f"{np.mean(measured.share):.0f}"]
        else:
            cells += ["", "", ""]
        print(f"| {kind} | {' | '.join(cells)} | {measured.n} |", flush=True)


def machine() -> str:
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?"
    )
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cpu}, {os.cpu_count()} cores, {system}, load average {os.getloadavg()[0]:.1f}"


def compare(args: argparse.Namespace, home: Path) -> None:
    kinds = args.only.split(",")
    if "litellm" in kinds and args.litellm is None:
        print("litellm: left out; --litellm VENV names a virtual environment that has it")
    answers = {"whole": False, "streamed, to the first chunk": True}
    with running(kinds, args.litellm, home, []) as servers:
        found = {what: {server.kind: Measured() for server in servers} for what in answers}
        for server in servers[1:]:
            server.process.send_signal(signal.SIGSTOP)
        for step in (saturate, respond):  # apart: a scheduler takes back in one what a server had too much in the other
            for number in range(args.rounds):
                for (what, stream), server in product(answers.items(), servers):
                    if step is respond or server.kind != "direct":
                        shared = args.realtime and step is respond
                        at_work = {os.getpid(), servers[0].process.pid, server.process.pid}
                        with awake(server), urgent(*at_work) if shared else contextlib.nullcontext():
                            uvloop.run(step(server, stream, args.seconds, number, found[what][server.kind]))
                print(f"{step.__name__}: round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        for server in servers[1:]:
            server.process.send_signal(signal.SIGCONT)
        for what in answers:
            table(found[what], what)
        print(f"\n{args.rounds} rounds of {args.seconds:g} s each; {machine()}")
        for server in servers:
            if server.admin:
                time.sleep(1)
                status = server.status()
                policy = status["policy"]
                assert isinstance(policy, dict)
                counts = ", ".join(f"{name} {policy[name]}" for name in ("late", "router_errors", "realised"))
                print(
                    f"{server.kind}: {counts}, records {status['records']}, stored steps {stored(home / f'{server.kind}.db')}"
                )


def stored(path: Path) -> int:
    with open_database(f"sqlite:///{path}", create=False).connect() as connection:
        return int(connection.execute(select(func.count()).select_from(steps)).scalar_one())


async def hold(server: Server, count: int) -> tuple[Seen, float]:
    """Open `count` streams at once and wait for all ends; with the seconds that took."""
    load = Load(server.port, server.model, True, 0)
    await load.connect(count)
    began = time.perf_counter()
    seen = await load.closed_loop(0.0)
    load.close()
    return seen, time.perf_counter() - began


def many_streams(args: argparse.Namespace, home: Path) -> None:
    """Streams that are all open together: each gets a token every two seconds."""
    chunks, apart = 16, 2.0
    with running(["signals"], None, home, ["--chunks", str(chunks), "--interval", str(apart)]) as (_, server):
        idle = server.peak()
        before = server.cpu()
        seen, took = uvloop.run(hold(server, args.streams))
        check(server, seen)
        open_ = f"{len(seen.total)} streams complete in {took:.1f} s, the shortest open for {min(seen.total):.1f} s"
        print(f"{open_}; first chunk after {max(seen.first):.2f} s at most")
        memory = f"peak memory {server.peak() / 2**20:.0f} MiB ({idle / 2**20:.0f} MiB before)"
        print(f"{memory}, CPU {server.cpu() - before:.1f} s; {machine()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--litellm", type=Path, metavar="VENV")
    parser.add_argument("--realtime", action="store_true", help="latency at real-time priority (shared machines, root)")
    parser.add_argument("--streams", type=int, metavar="N", help="hold N streams open instead, and report memory")
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        sys.exit("this needs two cores: one for the server under test, one for upstream and load")
    CORES.extend(quietest_last(cores))
    os.sched_setaffinity(0, {CORES[0]})
    with tempfile.TemporaryDirectory() as name:
        if args.streams:
            many_streams(args, Path(name))
        else:
            compare(args, Path(name))


if __name__ == "__main__":
    main()
