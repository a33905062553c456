"""The public port at its boundary: real sockets, scripted upstreams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support import upstream as up
from support.gateway import Running, chat, events, gateway_config, running
from support.upstream import Flag, ScriptedUpstream

CHAT = "/v1/chat/completions"
Body = Callable[[aiohttp.ClientSession, Running, ScriptedUpstream, ScriptedUpstream], Awaitable[None]]


def play(tmp_path: Path, test: Body, *, low: up.Script | None = None, high: up.Script | None = None, **sections: Any) -> None:
    """Run `test` with a client, the gateway and its two upstreams."""

    async def main() -> None:
        async with ScriptedUpstream(low) as first, ScriptedUpstream(high) as second:
            config = gateway_config(tmp_path, first.url, second.url, **sections)
            async with running(config) as gateway, aiohttp.ClientSession(gateway.url) as client:
                await test(client, gateway, first, second)

    asyncio.run(main())


def test_only_the_model_changes_on_the_way(tmp_path: Path) -> None:
    body = (
        b'{"model":"auto","messages":[{"role":"user","content":[{"type":"text","text":"hi"}],"name":null}],"seed":1e0,"x":1.50}'
    )

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, data=body) as response:
            answer = await response.json()
        assert response.status == 200
        assert high.requests[0].body.replace(b" ", b"") == body.replace(b'"auto"', b'"high"')
        assert answer["model"] == response.headers["x-bitroute-variant"] == "high"
        assert answer["choices"][0]["message"]["content"] == "hi"
        assert response.headers["x-bitroute-reason"] == "always"
        assert float(response.headers["x-bitroute-router-ms"]) >= 0
        assert float(response.headers["x-bitroute-overhead-ms"]) > 0
        assert response.headers["x-bitroute-step"] == "0"
        assert len(response.headers["x-bitroute-episode"]) == 32
        assert not low.requests

    play(tmp_path, test)


def test_a_variants_own_name_bypasses_the_router_and_the_clients_name_can_be_kept(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat(model="low")) as response:
            assert (await response.json())["model"] == "low"
        async with client.post(CHAT, json=chat(model="auto")) as response:
            assert (await response.json())["model"] == "auto"
        assert (len(low.requests), len(high.requests)) == (1, 1)

    play(tmp_path, test, server={"model_name": "client"})


def test_a_stream_is_relayed_and_usage_taken_out_unless_asked(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat("a b c", stream=True)) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            plain = events(await response.read())
        async with client.post(CHAT, json=chat("a b c", stream=True, stream_options={"include_usage": True})) as response:
            asked = events(await response.read())
        assert high.requests[0].json["stream_options"] == {"include_usage": True}
        assert plain[-1] == asked[-1] == "[DONE]"
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in plain[:-1]) == "a b c"
        assert all(chunk["choices"] and not chunk.get("usage") for chunk in plain[:-1])
        assert {chunk["model"] for chunk in plain[:-1]} == {"high"}
        assert asked[-2]["usage"]["completion_tokens"] == 3

    play(tmp_path, test)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", CHAT, chat(model="gpt-9"), 404, "model_not_found"),
        ("POST", CHAT, chat(model="auto-7"), 404, "model_not_found"),
        ("GET", "/v1/models/none", None, 404, "model_not_found"),
        ("GET", "/v1/nothing", None, 404, "unknown_url"),
        ("GET", CHAT, None, 405, "method_not_allowed"),
        ("POST", "/v1/models", {}, 405, "method_not_allowed"),
        ("POST", "/v1/episodes/none/outcome", {"success": True}, 404, "episode_not_found"),
    ],
)
def test_errors_of_ours_have_the_clients_shape(
    tmp_path: Path, method: str, path: str, body: Any, status: int, code: str
) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.request(method, path, json=body) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert error["message"]
        assert not high.requests

    play(tmp_path, test)


def test_anthropics_clients_get_anthropics_errors(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(
            "/v1/messages", json={"model": "none", "messages": [{"role": "user", "content": "x"}]}
        ) as response:
            body = await response.json()
        assert response.status == 404
        assert body["type"] == "error"
        assert body["error"]["type"] == "not_found_error"

    play(tmp_path, test)


def test_bodies_and_headers_have_limits(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async def chunks() -> Any:
            for _ in range(3):
                yield b"x" * 500

        statuses = []
        for data, headers in [
            (b"x" * 1001, {}),
            (chunks(), {}),
            (b"{}", {"content-encoding": "gzip"}),
            (b"{}", {f"x-{i}": "y" * 4000 for i in range(9)}),
        ]:
            async with client.post(CHAT, data=data, headers=headers, skip_auto_headers=()) as response:
                assert (await response.json())["error"]["message"]
                statuses.append(response.status)
        assert statuses == [413, 413, 415, 431]
        assert not high.requests

    play(tmp_path, test, server={"max_body": 1000})


def test_heads_that_never_end_are_hung_up_on(tmp_path: Path) -> None:
    async def endless(url: str, opening: bytes) -> None:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(opening)
            while not reader.at_eof():
                writer.write(b"a" * 65536)
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with asyncio.timeout(20):
            await endless(gateway.url, b"GET /health HTTP/1.1\r\nx-a: ")
            await endless(gateway.url, b"POST /nowhere HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-a: ")
        async with client.post(CHAT, json=chat("x" * 1_000_000)) as response:
            assert response.status == 200

    play(tmp_path, test)


@pytest.mark.parametrize("path", [CHAT, "/v1/episodes/e/outcome"])
def test_a_length_of_thousands_of_digits_is_a_length(tmp_path: Path, path: str) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        length = "0" * 5000 + "1"
        writer.write(f"POST {path} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{{".encode())
        assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        writer.close()

    play(tmp_path, test)


def test_an_upstreams_headers_do_not_pass_for_ours(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat()) as response:
            assert response.headers.getall("x-bitroute-variant") == ["high"]
            assert "x-bitroute-score" not in response.headers
            assert response.headers["x-other"] == "1"

    theirs = {"x-bitroute-variant": "theirs", "x-bitroute-score": "9", "x-other": "1"}
    play(tmp_path, test, high=up.answer(headers=theirs))


def test_a_floor_holds_where_upstreams_fail(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "pay"}}

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat(tools=[tool], tool_choice=tool)) as response:
            assert (response.status, response.headers["x-bitroute-reason"]) == (500, "floor")
        assert not low.requests
        async with client.post(CHAT, json=chat()) as response:
            assert (response.status, response.headers["x-bitroute-variant"]) == (200, "low")

    play(tmp_path, test, high=up.error(500), routing={"floors": {"pay": "high"}})


def test_a_client_that_hangs_up_at_the_last_event_has_its_answer(tmp_path: Path) -> None:
    gate = Flag()

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat(stream=True)) as response:
            while b"[DONE]" not in await response.content.readany():
                pass
            response.close()
        async with aiohttp.ClientSession(gateway.admin) as admin, asyncio.timeout(20):
            while True:
                async with admin.get("/steps.json") as steps:
                    if found := (await steps.json())["steps"]:
                        break
        gate.set()
        assert found[0]["ended"] == "complete"

    play(tmp_path, test, high=up.stream(up.chunk("hi"), up.chunk(finish="stop") + up.DONE, gate))


def test_keys_and_internal_headers_stay_on_their_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream")

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        sent = {"authorization": "Bearer sk-client", "x-bitroute-force": "low", "x-forwarded-for": "1.2.3.4", "cookie": "a=b"}
        async with client.post(CHAT, json=chat(), headers=sent) as response:
            await response.read()
        async with client.post(CHAT, json=chat(), headers={"x-request-id": "r1"}) as response:
            await response.read()
        forced, plain = low.requests[0].headers, high.requests[0].headers
        assert "authorization" not in forced
        assert not {name for name in forced if name.startswith(("x-bitroute", "x-forwarded", "cookie"))}
        assert plain["authorization"] == "Bearer sk-upstream"
        assert plain["x-request-id"] == "r1"
        assert "sk-" not in str(response.headers)

    def variants(low: str, high: str) -> list[dict[str, Any]]:
        return [{"name": "low", "urls": [low]}, {"name": "high", "urls": [high], "api_key_env": "UPSTREAM_KEY"}]

    async def main() -> None:
        async with ScriptedUpstream() as low, ScriptedUpstream() as high:
            config = gateway_config(tmp_path, low.url, high.url, variants=variants(low.url, high.url))
            async with running(config) as gateway, aiohttp.ClientSession(gateway.url) as client:
                await test(client, gateway, low, high)

    asyncio.run(main())


@pytest.mark.parametrize("window", ["before the answer", "before the first token", "in mid-stream"])
def test_a_client_that_goes_away_cancels_the_upstream(tmp_path: Path, window: str) -> None:
    never = Flag()
    script = {
        "before the answer": up.slow(never),
        "before the first token": up.stream(never),
        "in mid-stream": up.stream(up.chunk("first"), never),
    }[window]

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async def ask() -> None:
            async with client.post(CHAT, json=chat(stream=True)) as response:
                await response.content.readuntil(b"\n\n")
                seen.set()
                await response.read()

        seen = asyncio.Event()
        asking = asyncio.create_task(ask())
        await high.arrived.wait()
        if window == "in mid-stream":
            await seen.wait()
        asking.cancel()
        await high.cancelled.wait()
        await asyncio.wait((asking,))
        high.script = up.answer()
        async with client.post(CHAT, json=chat()) as response:
            assert response.status == 200

    play(tmp_path, test, high=script)


def test_an_upstream_that_drops_in_mid_stream_ends_in_an_error_event(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat(stream=True)) as response:
            found = events(await response.read())
        assert found[0]["choices"][0]["delta"]["content"] == "half"
        assert found[-1]["error"]["message"]
        assert "[DONE]" not in found
        assert (len(high.requests), len(low.requests)) == (1, 0)  # never tried again once bytes went out

    play(tmp_path, test, high=up.drop(up.chunk("half")))


def test_silence_after_the_first_chunk_is_bridged_with_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitroute.gateway.http.connection.KEEP_ALIVE", 0.01)
    gate = Flag()

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat(stream=True)) as response:
            assert b"one" in await response.content.readuntil(b"\n\n")
            assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            gate.set()
            assert events(await response.read())[-1] == "[DONE]"

    play(tmp_path, test, high=up.stream(up.chunk("one"), gate, up.chunk(finish="stop"), up.DONE))


def test_an_upstreams_refusal_is_relayed_and_gets_a_shape_where_it_has_none(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        bodies = []
        for _ in range(2):
            async with client.post(CHAT, json=chat()) as response:
                assert response.status == 422
                bodies.append((await response.json())["error"]["message"])
        assert bodies == ["too long", "The upstream refused: plain words"]

    script = [up.error(422, "too long"), up.raw(b"plain words", "text/plain", 422)]
    play(tmp_path, test, high=script)


def test_the_next_message_continues_the_episode_and_its_outcome_closes_it(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        history = chat("one")["messages"]
        places = []
        for text in ("two", "three"):
            async with client.post(
                CHAT, json={"model": "auto", "messages": history}, headers={"x-session-id": "s"}
            ) as response:
                message = (await response.json())["choices"][0]["message"]
            places.append((response.headers["x-bitroute-episode"], response.headers["x-bitroute-step"]))
            history += [message, {"role": "user", "content": text}]
        assert places[0][0] == places[1][0]
        assert [step for _, step in places] == ["0", "1"]
        assert response.headers["x-bitroute-session-source"] == "x-session-id"
        async with client.post("/v1/episodes/s/outcome", json={"success": True, "reward": 1.0}) as response:
            assert await response.json() == {"episode": places[0][0], "success": True, "reward": 1.0}
        async with client.post("/v1/episodes/s/outcome", json={"success": "yes"}) as response:
            assert response.status == 400
        async with client.post(CHAT, json={"model": "auto", "messages": history}, headers={"x-session-id": "s"}) as response:
            assert response.headers["x-bitroute-episode"] != places[0][0]

    play(tmp_path, test)


def test_a_full_gateway_refuses_at_once_and_says_when_to_come_back(tmp_path: Path) -> None:
    gate = Flag()

    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async def ask() -> int:
            async with client.post(CHAT, json=chat()) as response:
                return response.status

        first = asyncio.create_task(ask())
        await high.arrived.wait()
        async with client.post(CHAT, json=chat()) as response:
            assert response.status == 503
            assert response.headers["retry-after"] == "1"
            assert (await response.json())["error"]["code"] == "overloaded"
        gate.set()
        assert await first == 200

    play(tmp_path, test, high=up.slow(gate), server={"max_requests": 1})


def test_health_models_and_description(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.get("/health") as response:
            assert await response.json() == {"status": "ok"}

        async def ready() -> bool:
            async with client.get("/ready") as response:
                return response.status == 200

        while not await ready():
            await asyncio.sleep(0)
        async with client.get("/v1/models") as response:
            names = [model["id"] for model in (await response.json())["data"]]
        assert {"auto", "low", "high"} <= set(names)
        async with client.get("/v1/models/low") as response:
            assert (await response.json())["id"] == "low"
        async with client.get("/openapi.json") as response:
            assert CHAT in (await response.json())["paths"]

    play(tmp_path, test)


def test_the_kill_switch_sends_everything_to_one_variant(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with aiohttp.ClientSession(gateway.admin) as admin, admin.post("/switch", json={"variant": "low"}) as response:
            assert response.status == 200
        async with client.post(CHAT, json=chat()) as response:
            assert response.headers["x-bitroute-variant"] == "low"
        async with client.post(CHAT, json=chat(model="high")) as response:
            assert response.headers["x-bitroute-variant"] == "low"

    play(tmp_path, test)


def test_draining_finishes_what_runs(tmp_path: Path) -> None:
    gate = Flag()

    async def main() -> None:
        async with ScriptedUpstream() as low, ScriptedUpstream(up.stream(up.chunk("one"), gate, up.DONE)) as high:
            config = gateway_config(tmp_path, low.url, high.url)
            async with aiohttp.ClientSession() as client:
                async with running(config) as gateway:
                    response = await client.post(gateway.url + CHAT, json=chat(stream=True))
                    await response.content.readuntil(b"\n\n")
                    leaving = asyncio.get_running_loop().call_later(0.2, gate.set)
                assert not leaving.cancelled()
                assert events(await response.read())[-1] == "[DONE]"

    asyncio.run(main())


def test_json_of_any_kind_never_fails_inside(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        for body in (
            b"",
            b"null",
            b"[]",
            b'{"model":1}',
            b"\xff",
            b'{"model":"auto","messages":[1]}',
            b"[" * 5000,
            json.dumps(chat(stream=3)).encode(),
        ):
            async with client.post(CHAT, data=body) as response:
                assert response.status == 400, body
                assert (await response.json())["error"]["type"] == "invalid_request_error"

    play(tmp_path, test)


def test_an_outcome_finds_its_episode_after_a_restart(tmp_path: Path) -> None:
    async def ask(client: aiohttp.ClientSession, *_: Any) -> None:
        async with client.post(CHAT, json=chat()) as response:
            found.append(response.headers["x-bitroute-episode"])

    async def report(client: aiohttp.ClientSession, *_: Any) -> None:
        async with client.post(f"/v1/episodes/{found[0]}/outcome", json={"success": False}) as response:
            assert await response.json() == {"episode": found[0], "success": False, "reward": None}

    found: list[str] = []
    play(tmp_path, ask)
    play(tmp_path, report)


def test_an_upstreams_rules_for_pages_stay_with_it(tmp_path: Path) -> None:
    async def test(client: aiohttp.ClientSession, gateway: Running, low: ScriptedUpstream, high: ScriptedUpstream) -> None:
        async with client.post(CHAT, json=chat()) as response:
            assert "access-control-allow-origin" not in response.headers
            assert response.headers["x-request-id"] == "r"

    play(tmp_path, test, high=up.answer(headers={"access-control-allow-origin": "*", "x-request-id": "r"}))
