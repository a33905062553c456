"""Episodes while what the gateway stands on fails: replicas, the database, the session store, the router."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import json
import random
import resource
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import fakeredis
import pytest
import sqlalchemy as sa
from aiohttp import web

from bitroute.episode import View
from bitroute.gateway.records import tables
from bitroute.gateway.records.tables import episodes, open_database, steps
from bitroute.gateway.routing import arm, scoring
from bitroute.gateway.routing.loading import LoadedRouter
from bitroute.gateway.sessions import redis_store, sessions
from bitroute.routers.router import RouterCost
from bitroute.routers.threshold import Scored, ThresholdRouter
from support.gateway import Running, events, gateway_config, running
from support.upstream import PATIENCE, Flag, ScriptedUpstream, Seen, answer, choose, chunk, slow, stream, until

EPISODES, STEPS = 200, 4
KINDS = ("named", "hinted", "stepped", "named")
TRIES = 60  # of one step, before a client gives up


# Clients ---------------------------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """What the clients saw: every request that was sent, and every step that was answered."""

    sent: int = 0
    ended: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0  # streams that ended in an error event
    answered: list[tuple[str, int, str]] = field(default_factory=list)  # episode, step, variant


@dataclass
class Player:
    """One scripted agent. Its number says how it names its session, what it sends of its history, and when it streams."""

    base: str
    number: int
    ledger: Ledger
    http: aiohttp.ClientSession
    strict: bool = True  # its episode may not break in two
    places: list[tuple[str, int, str]] = field(default_factory=list)  # episode, step, variant of each answer
    history: list[dict[str, str]] = field(default_factory=list)

    async def play(self, count: int = STEPS) -> None:
        """Play so many steps, trying again what failed. AssertionError for what has no shape or does not belong together."""
        kind, history = KINDS[self.number % len(KINDS)], self.history
        if not history:
            history.append({"role": "system", "content": f"agent {self.number}"})
        for step in range(len(self.places), len(self.places) + count):
            history.append({"role": "user", "content": f"observation {step} of {self.number}"})
            headers = {} if kind == "hinted" else {"x-session-id": f"session {self.number}"}
            if kind == "stepped":
                headers["x-step"] = str(step)
            body = {
                "model": "auto",
                "messages": history[-1:] if kind == "stepped" else history,
                "stream": (self.number + step) % 2 == 0,
            }
            said, place = await self.ask(body, headers)
            self.places.append(place)
            assert not self.strict or place[:2] == (self.places[0][0], step), f"{kind} {self.number}"
            history.append({"role": "assistant", "content": said})

    async def ask(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[str, tuple[str, int, str]]:
        """One step, tried as often as an official client and a stubborn agent would."""
        again = 0
        for _ in range(TRIES):
            count = {"x-stainless-retry-count": str(again)} if again else {}
            self.ledger.sent += 1
            async with self.http.post(f"{self.base}/v1/chat/completions", json=body, headers=headers | count) as response:
                raw = await response.read()
            self.ledger.ended += 1
            self.ledger.statuses[response.status] += 1
            said = self.read(response, raw)
            if said is not None:
                told = response.headers
                place = (told["x-bitroute-episode"], int(told["x-bitroute-step"]), told["x-bitroute-variant"])
                self.ledger.answered.append(place)
                return said, place
            # Told not to retry, the client's library gives up; the agent above it then asks anew.
            again = 0 if response.headers.get("x-should-retry") == "false" else again + 1
        raise AssertionError(f"agent {self.number} was never answered")

    def read(self, response: aiohttp.ClientResponse, raw: bytes) -> str | None:
        """The answer's text, None for an error; either in its right shape."""
        if response.status != 200:
            assert response.content_type == "application/json"
            error = json.loads(raw)["error"]
            assert error["message"] and error["type"] and response.status in (429, 502, 503, 504)
            return None
        if response.content_type == "application/json":
            return str(json.loads(raw)["choices"][0]["message"]["content"])
        found = events(raw)
        if isinstance(found[-1], dict):
            assert found[-1]["error"]["code"] == "upstream_dropped"
            assert "[DONE]" not in found
            self.ledger.broken += 1
            return None
        assert found[-1] == "[DONE]" and not any("error" in event for event in found[:-1])
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in found[:-1])


async def play_all(gateway: Running, ledger: Ledger, numbers: range, count: int = STEPS) -> None:
    """All these agents at once."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(Player(gateway.url, number, ledger, http).play(count))


async def status(gateway: Running) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.admin}/status.json") as response:
        return await response.json()


def rows(gateway: Running, table: sa.Table) -> list[dict[str, Any]]:
    engine = open_database(gateway.config.records.url, create=False)
    try:
        with engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]
    finally:
        engine.dispose()


async def until_found(gateway: Running, condition: Callable[[Any], bool]) -> Any:
    """The gateway's status once it is as wanted."""
    async with asyncio.timeout(PATIENCE):
        while not condition(found := await status(gateway)):
            pass
    return found


def check(ledger: Ledger, gateway: Running, count: int, length: int = STEPS) -> None:
    """The records of a gateway that was closed tell what the clients saw."""
    recorded = rows(gateway, steps)
    assert len(recorded) == ledger.sent
    answered = [(row["episode"], row["step"], row["variant"]) for row in recorded if row["ended"] == "complete"]
    assert sorted(answered) == sorted(ledger.answered)
    assert len({place[:2] for place in answered}) == len(answered) == count * length
    assert len({place[0] for place in answered}) == count
    # A hint's first step that failed and is asked anew, without a retry count, may be another sample: an episode of its own.
    others = [row for row in rows(gateway, episodes) if row["id"] not in {place[0] for place in answered}]
    assert all(row["source"] == "opening" and row["first"] == 0 for row in others)


# Replicas ---------------------------------------------------------------------------------------------------------------


class Mortal(ScriptedUpstream):
    """A replica that gets stuck in the middle of every fifth answer, of three at most, until it is killed."""

    words = itertools.count()

    def __init__(self) -> None:
        super().__init__(self.behave)
        self.end, self.stuck, self.alive = Flag(), 0, False

    async def behave(self, seen: Seen, request: web.Request) -> web.StreamResponse:
        if seen.number % 5 != 4 or self.stuck == 3:
            return await answer(f"act {next(self.words)} now")(seen, request)
        self.stuck += 1
        try:
            return await (stream(chunk("half "), self.end) if seen.stream else slow(self.end))(seen, request)
        finally:
            self.stuck -= 1

    async def turn(self) -> None:
        """Kill it, or start it again at its port."""
        await (self.kill() if self.alive else self.start())
        self.alive = not self.alive


@pytest.mark.parametrize("ticks", range(8))
def test_a_replica_whose_start_or_end_is_cut_off_leaves_no_socket(ticks: int) -> None:
    """A socket that nobody closes would fail a later test, where it is collected."""

    async def cut_off(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def main() -> None:
        replica = Mortal()
        await cut_off(replica.start())
        await replica.kill()
        await replica.start()
        await cut_off(replica.kill())
        await replica.kill()
        with socket.create_server(("127.0.0.1", replica.port)):
            pass

    asyncio.run(main())
    gc.collect()


@pytest.mark.slow
def test_every_request_gets_an_answer_or_an_error_while_replicas_die_and_come_back(tmp_path: Path) -> None:
    async def main(stack: contextlib.AsyncExitStack) -> None:
        ledger, draw = Ledger(), random.Random(7)
        replicas = [Mortal() for _ in range(4)]
        for replica in replicas:
            stack.push_async_callback(replica.kill)
            await replica.turn()
        urls = [replica.url for replica in replicas]
        routing = {"router": "random", "budget": 0.3}
        config = gateway_config(tmp_path, urls[:2], urls[2:], routing=routing, upstream={"health": 0.05})

        def due(at: int) -> bool:
            return ledger.ended >= at or ledger.sent - ledger.ended == sum(replica.stuck for replica in replicas) > 0

        async def chaos() -> None:
            """For every few requests that ended, whatever way they did, one replica dies or comes back."""
            at = itertools.accumulate(draw.randint(10, 40) for _ in itertools.count())
            for wanted in itertools.cycle(("stuck", "dead", "any")):
                await until(functools.partial(due, next(at)))
                found = [r for r in replicas if (wanted == "stuck" and r.stuck) or (wanted == "dead" and not r.alive)]
                await draw.choice(found or replicas).turn()

        async with running(config) as gateway:
            raging = asyncio.create_task(chaos())
            try:
                await play_all(gateway, ledger, range(EPISODES))
            finally:
                raging.cancel()
                await asyncio.wait([raging])
            found = await status(gateway)
            assert [replica["in_flight"] for replica in found["replicas"]] == [0] * 4
            assert found["policy"]["realised"] == pytest.approx(0.3, abs=0.06)
        check(ledger, gateway, EPISODES)
        assert ledger.broken and ledger.statuses[502]

    async def closing() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await main(stack)

    asyncio.run(closing())


# The database -----------------------------------------------------------------------------------------------------------


def scripted(folder: Path, **sections: Any) -> tuple[ScriptedUpstream, ScriptedUpstream, Callable[[], Any]]:
    """Two upstreams whose answers differ, and what makes the configuration once they are up."""
    words = itertools.count()
    low, high = (ScriptedUpstream(choose(lambda _: answer(f"act {next(words)} now"))) for _ in range(2))
    return low, high, lambda: gateway_config(folder, low.url, high.url, **{"routing": {"router": "random"}, **sections})


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_requests_do_not_wait_for_a_locked_database(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BUSY", 0.05)
    low, high, config = scripted(tmp_path)

    async def main() -> None:
        ledger = Ledger()
        async with low, high, running(config()) as gateway:
            other = sqlite3.connect(tmp_path / "records.db", isolation_level=None)
            other.execute(f"BEGIN {mode}")
            await play_all(gateway, ledger, range(20))
            found = (await status(gateway))["records"]
            assert found["pending"] == 20 * STEPS + 20 and found["dropped"] == 0
            await until_found(gateway, lambda s: s["records"]["failures"] > 0)
            other.execute("ROLLBACK")
            other.close()
            await until_found(gateway, lambda s: s["records"]["pending"] == 0)
            check(ledger, gateway, 20)

    asyncio.run(main())


def test_a_full_disk_costs_rows_and_no_answers(tmp_path: Path) -> None:
    low, high, config = scripted(tmp_path)

    async def main() -> None:
        ledger = Ledger()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        async with low, high, running(config()) as gateway:
            await play_all(gateway, ledger, range(0, 4))
            await until_found(gateway, lambda s: s["records"]["pending"] == 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(f.stat().st_size for f in tmp_path.iterdir()), before[1]))
            try:
                await play_all(gateway, ledger, range(4, 20))
                found = await until_found(gateway, lambda s: s["records"]["failures"] > 0)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert found["records"]["dropped"] == 0
            await until_found(gateway, lambda s: s["records"]["pending"] == 0)
            check(ledger, gateway, 20)

    asyncio.run(main())


# The session store --------------------------------------------------------------------------------------------------------


def test_sessions_that_are_away_cost_memory_and_not_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fakeredis.FakeServer()
    client = functools.partial(fakeredis.FakeAsyncRedis, server=server)
    monkeypatch.setattr(sessions, "PAUSE", 0.0)
    monkeypatch.setattr(redis_store.Redis, "from_url", lambda *_, **__: client())
    low, high, config = scripted(tmp_path, sessions={"url": "redis://nowhere"})

    async def main() -> None:
        ledger = Ledger()
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with low, high, running(config()) as gateway, aiohttp.ClientSession(timeout=timeout) as http:
            players = [Player(gateway.url, number, ledger, http, strict=False) for number in range(12)]
            await asyncio.gather(*(player.play(2) for player in players))
            server.connected = False
            await asyncio.gather(*(player.play(2) for player in players))
            server.connected = True
            await asyncio.gather(*(player.play(2) for player in players))
        assert ledger.statuses == {200: 12 * 6} and len(rows(gateway, steps)) == 12 * 6
        # The first and the last two steps of an episode belong together whatever the store did in between.
        for player in players:
            found = player.places
            assert found[0][0] == found[1][0] and [place[1] for place in found[:2]] == [0, 1]
            assert found[4][0] == found[5][0] and found[5][1] == found[4][1] + 1

    asyncio.run(main())


# The router -------------------------------------------------------------------------------------------------------------


class Failing(ThresholdRouter):
    """A slow router whose thread raises, or never comes back until the gate opens."""

    name = "failing"
    cost = RouterCost.THREAD

    def __init__(self, gate: threading.Event | None) -> None:
        super().__init__(("low", "high"))
        self.gate = gate

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        if self.gate is None:
            raise RuntimeError("boom")
        self.gate.wait()
        return [0.0 for _ in views]


@pytest.mark.parametrize(("hangs", "reason", "count"), [(False, "router-error", "router_errors"), (True, "late", "late")])
def test_a_router_that_breaks_falls_to_high_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: bool, reason: str, count: str
) -> None:
    gate = threading.Event() if hangs else None
    router = Failing(gate)
    loaded = LoadedRouter("failing", "1", lambda _: router, follows=True)
    monkeypatch.setattr(arm, "load_router", lambda *_: loaded)
    monkeypatch.setattr(scoring, "FAREWELL", 0.05)
    low, high, config = scripted(tmp_path, routing={"router": "heuristic", "timeout": 0.02 if hangs else PATIENCE})

    async def main() -> None:
        ledger = Ledger()
        async with low, high, running(config()) as gateway:
            await play_all(gateway, ledger, range(20))
            found = (await status(gateway))["policy"]
            assert (found[count], found["fell_to_high"]) == (20 * STEPS, 20 * STEPS)
        # It ended although the router's thread does not.
        check(ledger, gateway, 20)
        assert {(row["variant"], row["reason"]) for row in rows(gateway, steps)} == {("high", reason)}

    try:
        asyncio.run(main())
    finally:
        if gate is not None:
            gate.set()
