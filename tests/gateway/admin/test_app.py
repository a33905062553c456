"""The admin port at its boundary: what it answers, what it refuses, and what the switch does."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import uvicorn

from bitroute.cost import CostModel
from bitroute.gateway.admin.app import admin_app
from bitroute.gateway.auth.keys import Grant, add_key
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.records.tables import open_database
from bitroute.gateway.telemetry.metrics import Metrics
from support.gateway import chat, gateway_config, running
from support.recorded import LADDER, NOW, FakeKeys, FakePolicy, FakeRecorder, FakeUpstreams, fill, opening, row, write
from support.upstream import ScriptedUpstream

JSON = {"content-type": "application/json"}


class Admin:
    """The application over made-up parts."""

    def __init__(self, folder: Path, policy: FakePolicy | None = None, **sections: Any) -> None:
        self.url = f"sqlite:///{folder / 'records.db'}"
        self.policy, self.recorder, self.keys = policy or FakePolicy(), FakeRecorder(), FakeKeys()
        self.metrics = Metrics(LADDER, CostModel.steps(LADDER))
        variants = [{"name": name, "urls": ["http://a"]} for name in LADDER]
        data = {"variants": variants, "records": {"url": self.url}, **sections}
        config = GatewayConfig.of(data, "test")
        self.app = admin_app(self.policy, FakeUpstreams(), self.recorder, self.metrics, self.keys, config)

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def main() -> None:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8081") as client:
                await work(client)

        asyncio.run(main())

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        answers: list[httpx.Response] = []

        async def work(client: httpx.AsyncClient) -> None:
            answers.append(await client.request(method, path, **more))

        self.run(work)
        return answers[0]

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def close(self) -> None:
        async def main() -> None:
            async with self.app.router.lifespan_context(self.app):
                pass

        asyncio.run(main())


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Admin]:
    made = Admin(tmp_path)
    yield made
    made.close()


# What it answers


def test_status_says_how_all_parts_are(admin: Admin) -> None:
    admin.recorder.dropped = 4
    found = admin.get("/status.json").json()
    assert found["ladder"] == ["low", "high"]
    assert found["unit"] == "high steps"
    assert found["policy"]["realised"] == 0.41
    assert found["replicas"][1] == {
        "variant": "low",
        "url": "http://127.0.0.1:8002",
        "healthy": False,
        "in_flight": 0,
        "failures": 17,
    }
    assert found["records"] == {"pending": 5, "dropped": 4, "failures": 1}
    assert (found["keys"], found["content"]) == (True, False)


def test_metrics_have_the_parts_gauges(admin: Admin) -> None:
    response = admin.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = response.text.splitlines()
    assert "bitroute_records_pending 5.0" in lines
    assert "bitroute_router_errors 2.0" in lines
    assert "bitroute_kill_switch 0.0" in lines
    assert 'bitroute_realised_share{arm="trial"} 0.41' in lines
    assert 'bitroute_budget_share{arm="main"} 0.3' in lines
    assert 'bitroute_replica_healthy{replica="http://127.0.0.1:8002",variant="low"} 0.0' in lines
    assert 'bitroute_replica_in_flight{replica="http://127.0.0.1:8001",variant="low"} 3.0' in lines


def test_health(admin: Admin) -> None:
    assert admin.get("/health").json() == {"status": "ok"}


def test_records_are_read_in_pages(admin: Admin) -> None:
    fill(admin.url, 30)
    steps = admin.get("/steps.json?limit=7").json()["steps"]
    assert len(steps) == 7
    assert admin.get(f"/steps.json?after={steps[-2]['id']}").json()["steps"] == steps[-1:]
    assert len(admin.get("/steps.json?limit=100000").json()["steps"]) == 200
    episodes = admin.get("/episodes.json?limit=30").json()["episodes"]
    assert [episode["id"] for episode in episodes[:2]] == ["ep-0029", "ep-0028"]
    before = admin.get(f"/episodes.json?limit=30&before={episodes[9]['started']!r}").json()["episodes"]
    assert before == episodes[10:]


def test_one_episode_by_key_and_id(admin: Admin) -> None:
    write(admin.url, [opening("a/b", NOW, scope="k1")], [row("a/b", 0, NOW, "low", scope="k1")])
    assert admin.ask("GET", "/episode.json", params={"scope": "k1", "id": "a/b"}).json()["played"][0]["variant"] == "low"
    missing = admin.get("/episode.json?id=a/b")
    assert (missing.status_code, missing.json()) == (404, {"error": "There is no such episode"})


def test_policies_and_the_course(admin: Admin) -> None:
    fill(admin.url, 12)
    policies = admin.get("/policies.json").json()["policies"]
    assert [(policy["arm"], policy["episodes"]) for policy in policies] == [("main", 8), ("trial", 4)]
    assert set(policies[0]["success"]) == {"value", "low", "high"}
    course = admin.get("/course.json?window=24h").json()
    assert course["end"] - course["start"] == 86400


def test_what_is_dear_is_read_once_for_all_pages(admin: Admin) -> None:
    fill(admin.url, 3)

    async def work(client: httpx.AsyncClient) -> None:
        first = (await client.get("/policies.json")).json()
        write(admin.url, [opening("new", NOW, "other")], [row("new", 0, NOW, "low")])
        assert (await client.get("/policies.json")).json() == first
        assert (await client.get("/episodes.json?limit=1")).json()["episodes"][0]["id"] == "new"

    admin.run(work)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/steps.json?after=x", "after: want a number"),
        ("/steps.json?limit=1.5", "limit: want a number"),
        ("/episodes.json?before=yesterday", "before: want a number"),
        ("/episodes.json?before=nan", "before: want a number of a moderate size"),
        ("/steps.json?after=99999999999999999999", "after: want a number of a moderate size"),
        ("/course.json?window=2h", "window: want one of 15m, 1h, 6h, 24h"),
    ],
)
def test_wrong_questions_are_told_so(admin: Admin, path: str, message: str) -> None:
    response = admin.get(path)
    assert (response.status_code, response.json()) == (400, {"error": message})


def test_records_that_cannot_be_read_are_an_answer(admin: Admin) -> None:
    response = admin.get("/steps.json")
    assert response.status_code == 503
    assert "no such database" in response.json()["error"]
    assert admin.get("/status.json").status_code == 200


# The page


def test_the_page_is_three_files_and_asks_no_other_host(admin: Admin) -> None:
    page = admin.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if name != "data:,":
            assert admin.get("/" + name).status_code == 200
    for name in ("page.html", "page.css", "page.js"):
        text = (files("bitroute.gateway") / "page" / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_the_page_never_makes_elements_of_text(admin: Admin) -> None:
    script = admin.get("/page.js").text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script)
    page = admin.get("/").text
    assert not re.search(r"<script(?! src)|<style|\sstyle=|\son\w+=", page)


# The switch


def test_the_switch_sends_everything_to_one_variant_and_back(admin: Admin) -> None:
    response = admin.ask("POST", "/switch", json={"variant": "high"})
    assert (response.status_code, response.json()["policy"]["switch"]) == (200, "high")
    assert admin.ask("POST", "/switch", json={"variant": None}).json()["policy"]["switch"] is None
    assert admin.policy.asked == ["high", None]


def test_each_switch_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        upstream = "http://127.0.0.1:9"
        async with running(gateway_config(tmp_path, upstream, upstream)) as gateway, aiohttp.ClientSession() as client:
            for variant in ("low", "low", None):
                async with client.post(gateway.admin + "/switch", json={"variant": variant}) as response:
                    assert response.status == 200

    asyncio.run(main())
    logged = [record.getMessage() for record in caplog.records if "switch" in record.getMessage()]
    assert logged == ["kill switch: everything goes to low", "kill switch: off, the router decides again"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"variant": "high"}', {"content-type": "text/plain"}, 415),
        (b'{"variant": "high"}', {}, 415),
        (b"variant=high", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b'{"variant": "high"}', JSON | {"origin": "http://evil.example"}, 403),
        (b'{"variant": "high"}', JSON | {"origin": "null"}, 403),
        (b'{"variant": "high"}', JSON | {"host": "rebound.example:8081"}, 403),
        (b'{"variant": "medium"}', JSON, 400),
        (b'{"variant": 1}', JSON, 400),
        (b'{"variant": null, "more": 1}', JSON, 400),
        (b"{}", JSON, 400),
        (b"", JSON, 400),
        (b"\xff", JSON, 400),
        (b'{"variant": "' + b"x" * 2000 + b'"}', JSON, 413),
    ],
)
def test_forged_and_wrong_switches_change_nothing(admin: Admin, body: bytes, headers: dict[str, str], status: int) -> None:
    response = admin.ask("POST", "/switch", content=body, headers=headers)
    assert response.status_code == status
    assert response.json()["error"]
    assert admin.policy.asked == []


def test_the_pages_own_origin_may_switch(admin: Admin) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8", "origin": "http://127.0.0.1:8081"}
    assert admin.ask("POST", "/switch", content=b'{"variant":"low"}', headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_only_a_post_switches(admin: Admin, method: str) -> None:
    assert admin.ask(method, "/switch").status_code == 405
    assert admin.policy.asked == []


def test_the_switch_reaches_all_workers(tmp_path: Path) -> None:
    """Two admin ports of one configuration; the third worker is away, which is said."""
    policies = [FakePolicy(), FakePolicy()]

    async def main() -> None:
        with contextlib.ExitStack() as stack:
            sockets, port = neighbours(stack)
            server = {"admin_port": port, "workers": 3}
            served = []
            for policy, sock in zip(policies, sockets, strict=True):
                admin = Admin(tmp_path, policy=policy, sessions={"url": "redis://unused"}, server=server)
                running = uvicorn.Server(uvicorn.Config(admin.app, lifespan="on", log_config=None))
                served.append((running, asyncio.create_task(running.serve([sock]))))
            url, away = f"http://127.0.0.1:{port + 1}/switch", f"http://127.0.0.1:{port + 2}/switch"
            async with aiohttp.ClientSession() as client, client.post(url, json={"variant": "low"}) as response:
                assert response.status == 502
                assert await response.json() == {"error": f"These workers did not switch, all others did: {away}"}
            for running, task in served:
                running.should_exit = True
                await task

    asyncio.run(main())
    assert [policy.switched for policy in policies] == ["low", "low"]


def neighbours(stack: contextlib.ExitStack) -> tuple[list[socket.socket], int]:
    """Two listening sockets on neighbouring ports and one taken port that does not listen; the first one's number."""
    for _ in range(100):
        with contextlib.ExitStack() as found, contextlib.suppress(OSError):
            first = found.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = first.getsockname()[1]
            second = found.enter_context(socket.create_server(("127.0.0.1", port + 1)))
            third = found.enter_context(socket.socket())
            third.bind(("127.0.0.1", port + 2))
            stack.enter_context(found.pop_all())
            return [first, second], port
    raise AssertionError("no neighbouring ports")


def test_behind_a_real_gateway(tmp_path: Path) -> None:
    """What really passed is on the page and in the metrics, and a key's limits hold."""

    async def main() -> None:
        async with ScriptedUpstream() as low, ScriptedUpstream() as high:
            config = gateway_config(tmp_path, low.url, high.url)
            engine = open_database(config.records.url)
            key = add_key(engine, "test", Grant(requests=2, models=("auto",)), time.time())
            engine.dispose()
            async with running(config) as gateway, aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as client:
                url = gateway.url + "/v1/chat/completions"
                statuses = []
                for model in ("auto", "low", "auto", "auto"):
                    async with client.post(url, json=chat(model=model)) as response:
                        statuses.append(response.status)
                        limits = {name for name in response.headers if name.startswith("x-ratelimit-")}
                assert statuses == [200, 403, 200, 429]
                assert len(limits) == 3
                found: list[Any] = []
                async with asyncio.timeout(20):
                    while len(found) < 2:
                        async with client.get(gateway.admin + "/steps.json") as response:
                            found = (await response.json())["steps"]
                assert [(step["variant"], step["scope"], step["cost"]) for step in found] == [("high", key[3:11], 1.0)] * 2
                async with client.get(gateway.admin + "/metrics") as response:
                    lines = (await response.text()).splitlines()
                requests = 'bitroute_requests_total{endpoint="/v1/chat/completions",status="%s",variant="%s"} %s'
                assert requests % ("2xx", "high", "2.0") in lines
                assert requests % ("4xx", "none", "2.0") in lines
                assert "bitroute_in_flight 0.0" in lines
                assert "bitroute_sessions 0.0" not in lines
                assert key[3:11] not in "".join(lines)
                async with client.get(gateway.admin + "/status.json") as response:
                    status = await response.json()
                assert (status["keys"], status["ladder"]) == (True, ["low", "high"])
                assert [(replica["variant"], replica["healthy"]) for replica in status["replicas"]] == [
                    ("low", True),
                    ("high", True),
                ]

    asyncio.run(main())
