"""The real command in its own process: killed, stopped, with several workers, and refused a start."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakeredis
import httpx
import pytest
import sqlalchemy as sa

from bitroute.cli.main import main
from bitroute.gateway.records.tables import episodes, open_database, steps
from support.gateway import chat, events
from support.routing import save_signals
from support.traffic import until
from support.upstream import DONE, PATIENCE, Flag, ScriptedUpstream, answer, choose, chunk, slow, stream

pytestmark = pytest.mark.slow  # each starts and stops processes

FLUSH = 0.3
HIGH = {"name": "high", "urls": ["http://127.0.0.1:9"]}
PYTHON = (sys.executable, "-c", "from bitroute.cli.main import main; raise SystemExit(main())")


def toml(config: dict[str, Any]) -> str:
    """The sections of a gateway's configuration; what JSON writes of plain values is TOML, too."""
    lines = []
    for name, section in config.items():
        for table in section if isinstance(section, list) else [section]:
            lines.append(f"[[{name}]]" if isinstance(section, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines)


@dataclass
class Process:
    """`bitroute serve` on a configuration file."""

    folder: Path
    low: str
    high: str
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    port: int = 0

    def start(self) -> None:
        """Start it and wait until it says where it listens: the port stays the same over restarts."""
        config: dict[str, Any] = {
            "server": {"port": self.port, "admin_port": 0, "drain": PATIENCE},
            "variants": [{"name": "low", "urls": [self.low]}, {"name": "high", "urls": [self.high]}],
            "routing": {"router": "random"},
            "records": {"url": f"sqlite:///{self.folder / 'records.db'}", "flush": FLUSH},
        }
        for name, section in self.sections.items():
            config[name] = {**config.get(name, {}), **section}
        path = self.folder / "gateway.toml"
        path.write_text(toml(config))
        command = [*PYTHON, "serve", "--config", str(path)]
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=self.folder
        )
        assert self.child.stdout
        line = self.child.stdout.readline()
        found = re.search(r"serves (http://127\.0\.0\.1:(\d+))/v1 \(.*: (.*)\)", line)
        assert found, line + (self.child.communicate()[1] if not line else "")
        self.url, self.port, self.admins = found[1], int(found[2]), found[3].split(", ")

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said on the way."""
        _, err = self.child.communicate(timeout=PATIENCE)
        return self.child.returncode, err

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        engine = open_database(f"sqlite:///{self.folder / 'records.db'}", create=False)
        try:
            with engine.connect() as connection:
                return [dict(row) for row in connection.execute(sa.select(table)).mappings()]
        finally:
            engine.dispose()


@contextlib.contextmanager
def gateway(folder: Path, low: ScriptedUpstream, high: ScriptedUpstream, **sections: Any) -> Iterator[Process]:
    """The process, started; whatever a test does, none is left."""
    process = Process(folder, low.url, high.url, sections)
    process.start()
    try:
        yield process
    finally:
        if process.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.child.pid, signal.SIGKILL)
            process.child.communicate()


@pytest.fixture
def low() -> Iterator[ScriptedUpstream]:
    words = itertools.count()
    with ScriptedUpstream(choose(lambda _: answer(f"low {next(words)} now"))) as upstream:
        yield upstream


@pytest.fixture
def high() -> Iterator[ScriptedUpstream]:
    words = itertools.count()
    with ScriptedUpstream(choose(lambda _: answer(f"high {next(words)} now"))) as upstream:
        yield upstream


# kill -9


@dataclass
class Client:
    """One agent in a thread: an official client's retries, and the patience of the agent above it."""

    process: Process
    number: int
    last: threading.Event  # the steps after that one are its last
    kind: str
    places: list[tuple[str, int]] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)  # when

    def play(self) -> None:
        history: list[dict[str, str]] = []
        more = 3
        with httpx.Client(timeout=PATIENCE) as http:
            for step in itertools.count():
                more -= self.last.is_set()
                if not more:
                    return
                history.append({"role": "user", "content": f"observation {step} of {self.number}"})
                headers = {"x-session-id": f"session {self.number}"}
                if self.kind == "stepped":
                    headers["x-step"] = str(step)
                body = {"model": "auto", "messages": history[-1:] if self.kind == "stepped" else history}
                history.append({"role": "assistant", "content": self.ask(http, body, headers)})

    def ask(self, http: httpx.Client, body: dict[str, Any], headers: dict[str, str]) -> str:
        deadline = time.monotonic() + PATIENCE
        for again in itertools.count():
            assert time.monotonic() < deadline, "never answered"
            tries = {"x-stainless-retry-count": str(again)} if again else {}
            try:
                response = http.post(f"{self.process.url}/v1/chat/completions", json=body, headers=headers | tries)
            except httpx.TransportError:
                threading.Event().wait(0.05)  # until it is back
                continue
            assert response.status_code == 200, response.text
            self.answered.append(time.time())
            self.places.append((response.headers["x-bitroute-episode"], int(response.headers["x-bitroute-step"])))
            return str(response.json()["choices"][0]["message"]["content"])
        raise AssertionError


def test_after_kill_9_no_step_is_missing_and_clients_finish_their_episodes(
    tmp_path: Path, low: ScriptedUpstream, high: ScriptedUpstream
) -> None:
    with gateway(tmp_path, low, high) as process:
        last = threading.Event()
        clients = [Client(process, n, last, ("named", "stepped")[n % 2]) for n in range(6)]
        threads = [threading.Thread(target=client.play) for client in clients]
        for thread in threads:
            thread.start()
        # In mid-load, when there are steps that are older than the flush interval.
        until(lambda: all(c.answered and c.answered[-1] - c.answered[0] > 2 * FLUSH for c in clients))
        killed = time.time()
        process.signal(signal.SIGKILL)
        process.child.communicate()
        old = {place for c in clients for place, at in zip(c.places, c.answered, strict=False) if at < killed - FLUSH}
        recorded = {(row["episode"], row["step"]) for row in process.rows(steps) if row["ended"] == "complete"}
        assert len(old) > 6 and old <= recorded
        process.start()
        last.set()
        for thread in threads:
            thread.join()
        process.signal(signal.SIGTERM)
        assert process.end()[0] == 0
        for client in clients:
            assert client.places == [(client.places[0][0], step) for step in range(len(client.places))]
        assert {row["id"] for row in process.rows(episodes)} == {client.places[0][0] for client in clients}


# Signals


class Streaming:
    """A request whose answer is awaited in a thread of its own."""

    def __init__(self, process: Process, **body: Any) -> None:
        self.text, self.status = b"", 0
        self.began = threading.Event()
        self._url, self._body = f"{process.url}/v1/chat/completions", chat(**{"stream": True} | body)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=PATIENCE) as response:
            self.status = response.status_code
            for part in response.iter_raw():
                self.text += part
                self.began.set()

    def end(self) -> bytes:
        """The whole body."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.text


def refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/health", timeout=PATIENCE)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        pass
    return False


def stop(process: Process, number: int) -> None:
    """SIGTERM as a supervisor sends it, SIGINT as a terminal does: to the whole group."""
    if number == signal.SIGINT:
        os.killpg(process.child.pid, number)
    else:
        process.signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(tmp_path: Path, low: ScriptedUpstream, high: ScriptedUpstream, number: int) -> None:
    gate = Flag()
    high.script = stream(chunk("begun "), gate, chunk("ended", finish="stop"), DONE)
    with gateway(tmp_path, low, high) as process:
        running = Streaming(process, model="high")
        assert running.began.wait(PATIENCE)
        for _ in range(5):
            assert httpx.post(f"{process.url}/v1/chat/completions", json=chat(model="low")).status_code == 200
        stop(process, number)
        until(lambda: refused(process.url))
        assert process.child.poll() is None
        gate.set()
        assert events(running.end())[-1] == "[DONE]"
        assert process.end() == (0, "")
        assert [row["ended"] for row in process.rows(steps)] == ["complete"] * 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(tmp_path: Path, low: ScriptedUpstream, high: ScriptedUpstream, number: int) -> None:
    high.script = stream(chunk("begun "), Flag())
    low.script = slow(Flag())
    with gateway(tmp_path, low, high) as process:
        begun, waiting = Streaming(process, model="high"), Streaming(process, model="low", stream=False)
        assert begun.began.wait(PATIENCE)
        low.arrived.block()
        stop(process, number)
        until(lambda: refused(process.url))
        stop(process, number)
        # What is cut off is told so, in the right shape, and recorded.
        assert events(begun.end())[-1]["error"]["code"] == "stopping"
        assert json.loads(waiting.end())["error"]["code"] == "stopping" and waiting.status == 503
        assert process.end() == (0, "")
        found = {row["variant"] or row["decision"]: (row["status"], row["ended"]) for row in process.rows(steps)}
        assert set(found.values()) == {(200, "dropped"), (503, "error")}


def test_what_outlasts_the_drain_is_cut_off(tmp_path: Path, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
    high.script = stream(chunk("begun "), Flag())
    with gateway(tmp_path, low, high, server={"drain": 1.0}) as process:
        begun = Streaming(process, model="high")
        assert begun.began.wait(PATIENCE)
        process.signal(signal.SIGTERM)
        assert events(begun.end())[-1]["error"]["code"] == "stopping"
        assert process.end()[0] == 0
        assert [row["ended"] for row in process.rows(steps)] == ["dropped"]


# Workers


@pytest.fixture
def redis_url() -> Iterator[str]:
    server = fakeredis.TcpFakeServer(("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"redis://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def workers(process: Process) -> set[int]:
    """The processes that serve."""
    pid = process.child.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def test_workers_share_sessions_and_are_started_again(
    tmp_path: Path, low: ScriptedUpstream, high: ScriptedUpstream, redis_url: str
) -> None:
    sections = {"server": {"workers": 2}, "sessions": {"url": redis_url}}
    with gateway(tmp_path, low, high, **sections) as process, httpx.Client(timeout=PATIENCE) as http:
        for admin in process.admins:
            assert http.get(f"{admin}/health").status_code == 200
        first = workers(process)
        assert len(first) == 2

        def play(agent: int, history: list[dict[str, str]], count: int) -> list[tuple[str, int]]:
            places = []
            headers = {"x-session-id": f"session {agent}", "connection": "close"}  # any worker may take a request
            for _ in range(count):
                history.append({"role": "user", "content": f"observation {len(history)} of {agent}"})
                body = {"model": "auto", "messages": history}
                answered = http.post(f"{process.url}/v1/chat/completions", json=body, headers=headers)
                assert answered.status_code == 200
                history.append(answered.json()["choices"][0]["message"])
                places.append((answered.headers["x-bitroute-episode"], int(answered.headers["x-bitroute-step"])))
            return places

        histories: list[list[dict[str, str]]] = [[] for _ in range(4)]
        places = [play(agent, history, 3) for agent, history in enumerate(histories)]
        until(lambda: len(process.rows(steps)) == 4 * 3)
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(workers(process) - {killed}) == 2)
        for admin in process.admins:
            assert http.get(f"{admin}/health").status_code == 200
        for agent, history in enumerate(histories):
            places[agent] += play(agent, history, 3)
            assert places[agent] == [(places[agent][0][0], step) for step in range(6)]
        os.killpg(process.child.pid, signal.SIGINT)  # as from a terminal
        code, said = process.end()
        assert code == 0 and "Traceback" not in said and "is started again" in said
        assert len(process.rows(steps)) == 4 * 6 and len(process.rows(episodes)) == 4


def test_workers_drain_and_do_not_outlive_their_parent(
    tmp_path: Path, low: ScriptedUpstream, high: ScriptedUpstream, redis_url: str
) -> None:
    gate = Flag()
    high.script = stream(chunk("begun "), gate, chunk("ended", finish="stop"), DONE)
    sections = {"server": {"workers": 2}, "sessions": {"url": redis_url}}
    with gateway(tmp_path, low, high, **sections) as process, httpx.Client(timeout=PATIENCE) as http:
        running = Streaming(process, model="high")
        assert running.began.wait(PATIENCE)
        os.killpg(process.child.pid, signal.SIGINT)
        until(lambda: refused(process.url))
        gate.set()
        assert events(running.end())[-1] == "[DONE]"
        assert process.end()[0] == 0
        process.start()
        for admin in process.admins:
            assert http.get(f"{admin}/health").status_code == 200
        process.signal(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL  # and whoever else could write to its pipe has ended, too
        assert refused(process.url)


# Refusals


def refuse(folder: Path, capsys: pytest.CaptureFixture[str], **sections: Any) -> tuple[int, str]:
    """Exit code and message of a start that fails, which leaves nothing behind."""
    config = {
        "server": {"port": 0, "admin_port": 0},
        "variants": [HIGH | {"name": "low"}, HIGH],
        "records": {"url": f"sqlite:///{folder / 'records.db'}"},
    }
    for name, section in sections.items():
        config[name] = section if isinstance(section, list) else {**config.get(name, {}), **section}
    path = folder / "gateway.toml"
    path.write_text(toml(config))
    before = sorted(folder.iterdir())
    code = main(["serve", "--config", str(path)])
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), sorted(folder.iterdir())) == ("", 1, before), err
    return code, err


@pytest.mark.parametrize(
    ("sections", "code", "parts"),
    [
        ({"server": {"workers": 2}}, 2, ("server.workers", "sessions.url")),
        ({"server": {"port": "TAKEN"}}, 2, ("server.port", "already in use")),
        ({"server": {"admin_port": "TAKEN"}}, 2, ("server.admin_port", "already in use")),
        ({"routing": {"router": "nowhere/router"}}, 3, ("nowhere/router",)),
        ({"routing": {"router": "THREE"}}, 2, ("three.json", "3")),
        ({"server": {"prot": 1}}, 2, ("gateway.toml", "server.prot")),
        (
            {"variants": [HIGH | {"name": "low", "api_key_env": "NOT_SET"}, HIGH]},
            2,
            ("variants.low.api_key_env", "NOT_SET"),
        ),
        ({"sessions": {"url": "http://host"}}, 2, ("sessions.url",)),
        ({"records": {"url": "sqlite:///OTHER"}}, 3, ("other.db", "version 99")),
        ({"server": {"host": "0.0.0.0"}, "records": {"url": "sqlite:///KEYLESS"}}, 2, ("server.host", "bitroute keys add")),
    ],
)
def test_a_start_that_fails_is_one_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sections: dict[str, Any], code: int, parts: tuple[str, ...]
) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE schema (version INTEGER)")
        connection.execute("INSERT INTO schema VALUES (99)")
    connection.close()
    open_database(f"sqlite:///{tmp_path / 'keyless.db'}").dispose()
    save_signals(tmp_path / "three.json", ("w3", "w4", "w16"), {})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"THREE": str(tmp_path / "three.json"), "TAKEN": taken.getsockname()[1]}
        for section in sections.values():
            for key, value in section.items() if isinstance(section, dict) else ():
                section[key] = known.get(value, value) if isinstance(value, str) else value
                if key == "url":
                    section[key] = value.replace("OTHER", str(tmp_path / "other.db")).replace(
                        "KEYLESS", str(tmp_path / "keyless.db")
                    )
        found, said = refuse(tmp_path, capsys, **sections)
    assert found == code and said.startswith("bitroute: ")
    for part in parts:
        assert part in said


@pytest.mark.parametrize(("text", "code"), [(None, 3), ("[server", 2), (b"\xff", 2)])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: Any, code: int) -> None:
    path = tmp_path / "gateway.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["serve", "--config", str(path)]) == code
    said = capsys.readouterr().err
    assert said.startswith("bitroute: ") and "gateway.toml" in said and said.count("\n") == 1
