"""Upstreams before scripted servers: what is retried and where, what is relayed, and that nobody leaves a request behind."""

import asyncio
import contextlib
import gzip
import json

import pytest
from aiohttp import web

from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.core.values import GatewayError
from bitroute.gateway.upstreams.replicas import FREE
from bitroute.gateway.upstreams.upstreams import DroppedError, Upstreams
from support.rig import CHAT, body, rig, run, said
from support.upstream import (
    DONE,
    Behaviour,
    Flag,
    Seen,
    answer,
    big,
    choose,
    chunk,
    drop,
    error,
    raw,
    slow,
    split_utf8,
    stream,
    truncated,
    until,
)

# What goes up and what comes back -------------------------------------------------------------------------------------


@run
async def test_a_whole_answer() -> None:
    async with rig(low=[answer()], high=[answer("high")]) as it:
        got = await it.open()
        assert (got.status, got.variant, got.content_type) == (200, "low", "application/json")
        assert said(await got.body()) == "two words"
        assert it.in_flight == 0
        await got.close()
        assert it.tries == [("low", 200, None)]
        assert it.attempts[0].replica == it.servers["low"][0].url
        assert it.attempts[0].seconds > 0
        assert it.servers["low"][0].requests[0].json["model"] == "low"
        assert it.servers["high"][0].requests == []


@run
async def test_a_stream_comes_chunk_by_chunk() -> None:
    gates = [Flag(), Flag()]
    parts = (chunk("a"), gates[0], chunk("b"), gates[1], chunk(finish="stop") + DONE)
    async with rig(low=[stream(*parts)]) as it:
        got = await it.open(streamed=True)
        assert got.content_type == "text/event-stream"
        assert it.in_flight == 1
        chunks = got.chunks()
        assert await anext(chunks) == parts[0]
        gates[0].set()
        assert await anext(chunks) == parts[2]
        gates[1].set()
        assert b"".join([part async for part in chunks]) == parts[4]
        assert it.in_flight == 0
        await got.close()


@run
async def test_bytes_are_not_touched() -> None:
    async with rig(low=[[split_utf8("größer 🙂"), big(20 * 1024 * 1024), raw(b'{"choices": null}')]]) as it:
        got = await it.open(streamed=True)
        assert await got.body() == chunk("größer 🙂") + chunk(finish="stop") + DONE
        got = await it.open()
        assert len(said(await got.body())) == 20 * 1024 * 1024
        got = await it.open()
        assert await got.body() == b'{"choices": null}'


@run
async def test_a_large_request_goes_through() -> None:
    async with rig(low=[answer("done")]) as it:
        large = json.dumps({"messages": [{"role": "user", "content": "x" * 20 * 1024 * 1024}]}).encode()
        got = await it.upstreams.open(CHAT, "low", lambda _: large, affinity="", headers={}, stream=False, attempts=it.attempts)
        assert said(await got.body()) == "done"
        assert it.servers["low"][0].requests[0].body == large


@run
async def test_the_connection_is_used_again() -> None:
    async with rig(low=[answer()]) as it:
        for streamed in (False, True) * 5:
            got = await it.open(streamed=streamed)
            await got.body()
            await got.close()
        assert it.servers["low"][0].connections <= 2  # one of the health check


def test_the_keys_never_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "upstream-secret")

    async def test() -> None:
        refusal = error(401, "bad key upstream-secret", x_echo="key upstream-secret", x_api_key="k", www_authenticate="Bearer")
        async with rig(low=[[answer(), refusal]], variant={"api_key_env": "UPSTREAM_KEY"}) as it:
            client = {
                "authorization": "Bearer client-secret",
                "X-Api-Key": "client-secret",
                "cookie": "c",
                "user-agent": "agent/1",
            }
            await it.open(headers=client)
            sent = it.servers["low"][0].requests[0].headers
            assert sent["authorization"] == "Bearer upstream-secret"
            assert sent["user-agent"] == "agent/1"
            assert "client-secret" not in json.dumps(sent) and "cookie" not in sent
            got = await it.open()
            assert got.status == 401
            assert "upstream-secret" not in str(got.headers) + (await got.body()).decode()
            assert [name for name, _ in got.headers] == []
            assert it.tries == [("low", 401, None)]

    asyncio.run(test())


@run
async def test_without_a_key_none_is_sent() -> None:
    async with rig(low=[answer()]) as it:
        await it.open(headers={"Authorization": "Bearer client-secret"})
        assert "authorization" not in it.servers["low"][0].requests[0].headers


@run
async def test_what_names_the_server_stays_here() -> None:
    headers = {
        "x-request-id": "r1",
        "Server": "vllm",
        "Set-Cookie": "a=b",
        "X-Powered-By": "p",
        "x-ratelimit-remaining-tokens": "5",
    }
    async with rig(low=[answer(headers=headers)]) as it:
        got = await it.open()
        assert sorted(got.headers) == [("x-ratelimit-remaining-tokens", "5"), ("x-request-id", "r1")]


@run
async def test_a_compressed_answer_arrives_plain() -> None:
    packed = raw(gzip.compress(b'{"a": 1}'), headers={"content-encoding": "gzip"})
    async with rig(low=[packed]) as it:
        got = await it.open()
        assert await got.body() == b'{"a": 1}'
        assert got.headers == []


# Retries and fallbacks ------------------------------------------------------------------------------------------------


@run
async def test_a_failure_goes_to_another_replica_then_to_another_variant() -> None:
    async with rig(low=[error(500), error(503)], high=[answer("saved")]) as it:
        got = await it.open(affinity="s")
        assert (said(await got.body()), got.variant) == ("saved", "high")
        assert sorted(it.tries[:2], key=lambda one: one[1] or 0) == [("low", 500, "answered"), ("low", 503, "answered")]
        assert it.tries[2:] == [("high", 200, None)]
        assert it.servers["high"][0].requests[0].json["model"] == "high"


@run
async def test_the_other_replica_saves_the_variant() -> None:
    async with rig(low=[error(429, retry_after="60"), answer("a")], high=[answer()]) as it:
        for _ in range(2):
            got = await it.open()
            assert (got.status, got.variant) == (200, "low")
        assert it.servers["high"][0].requests == []


@run
async def test_ladders_are_climbed_first() -> None:
    async with rig(w3=[error(500)], w4=[error(500)], w8=[error(500)], bf16=[error(500)]) as it:
        got = await it.open("w4")
        assert [one[0] for one in it.tries] == ["w4", "w8", "bf16", "w3"]
        assert (got.status, got.variant) == (500, "w3")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_these_statuses_are_retried(status: int) -> None:
    async def test() -> None:
        async with rig(low=[error(status)], high=[answer("saved")]) as it:
            for streamed in (False, True):
                got = await it.open(streamed=streamed)
                assert (got.status, got.variant) == (200, "high")
                assert it.tries == [("low", status, "answered"), ("high", 200, None)]
                await got.close()

    asyncio.run(test())


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 501])
def test_these_are_the_clients(status: int) -> None:
    async def test() -> None:
        async with rig(low=[error(status, "no", code="c")], high=[answer()]) as it:
            for streamed in (False, True):
                got = await it.open(streamed=streamed)
                assert (got.status, got.variant) == (status, "low")
                assert json.loads(await got.body())["error"]["code"] == "c"
                assert "x-should-retry" not in dict(got.headers)
                assert it.tries == [("low", status, None)]

    asyncio.run(test())


@pytest.mark.parametrize(
    "bad",
    [drop(), truncated(b'{"choices": []}'), raw(b""), raw(b"", status=302, headers={"location": "http://127.0.0.1:1/"})],
    ids=["dropped", "truncated", "empty", "redirected"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_nothing_usable_counts_as_a_failure(bad: Behaviour, streamed: bool) -> None:
    async def test() -> None:
        async with rig(low=[bad], high=[answer()]) as it:
            got = await it.open(streamed=streamed)
            if streamed and bad.__qualname__.startswith("truncated"):
                with pytest.raises(DroppedError):  # it had begun
                    await got.body()
                assert got.variant == "low"
            else:
                assert got.variant == "high"
                assert all(one[:2] in {("low", None), ("low", 302)} for one in it.tries[:-1])
            await got.close()

    asyncio.run(test())


@run
async def test_no_http_at_all() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with other, rig(high=[answer()]) as it:
        port = other.sockets[0].getsockname()[1]
        variants = [{"name": "low", "urls": [f"http://127.0.0.1:{port}"]}]
        upstreams = Upstreams(GatewayConfig.of({"variants": variants}, "test"))
        await upstreams.start()
        assert not upstreams.ready()
        with pytest.raises(GatewayError) as caught:
            await upstreams.open(CHAT, "low", body, affinity="", headers={}, stream=False, attempts=it.attempts)
        await upstreams.close()
        assert caught.value.status == 502
        assert it.attempts[0].status is None


@run
async def test_a_single_replica_gets_a_second_try_after_a_dropped_connection_only() -> None:
    async with rig(low=[[drop(), answer("again"), error(500), answer()]]) as it:
        got = await it.open(allow_fallback=False)
        assert said(await got.body()) == "again"
        assert it.tries == [("low", None, "connection"), ("low", 200, None)]
        got = await it.open(allow_fallback=False)
        assert got.status == 500
        assert len(it.tries) == 1


@run
async def test_without_fallback_the_variant_stays() -> None:
    async with rig(low=[error(500, "low's own")], high=[answer()]) as it:
        got = await it.open(allow_fallback=False)
        assert (got.status, got.variant) == (500, "low")
        assert b"low's own" in await got.body()
        assert "x-should-retry" not in dict(got.headers)  # nothing was retried: the client may


@run
async def test_the_last_error_is_relayed_and_tells_the_client_not_to_retry() -> None:
    limits = error(429, "slow down", retry_after="7", x_should_retry="true")
    async with rig(low=[error(500, "first")], high=[limits]) as it:
        got = await it.open()
        assert (got.status, got.variant) == (429, "high")
        assert sorted(got.headers) == [("retry-after", "7"), ("x-should-retry", "false")]
        assert b"slow down" in await got.body()
    async with rig(low=[error(500, "first")], high=[drop()]) as it:
        got = await it.open()
        assert (got.status, got.variant) == (500, "low")
        assert dict(got.headers)["x-should-retry"] == "false"
        assert [one[0] for one in it.tries] == ["low", "high"]


@run
async def test_no_answer_at_all() -> None:
    async with rig(low=[drop()], high=[drop()]) as it:
        failure = await it.fail()
        assert (failure.status, failure.kind, failure.headers) == (502, "server_error", {"x-should-retry": "false"})
        assert it.tries == [("low", None, "connection")] * 2 + [("high", None, "connection")]
        assert "127.0.0.1" not in failure.message


@run
async def test_retries_stop_when_their_budget_is_spent() -> None:
    async with rig(low=[error(500)], high=[answer()], upstream={"retry_budget": 0.01}) as it:
        variants = []
        for _ in range(30):
            got = await it.open()
            variants.append((got.variant, got.status, dict(got.headers).get("x-should-retry")))
        assert variants == [("high", 200, None)] * int(FREE) + [("low", 500, "false")] * (30 - int(FREE))
    async with rig(low=[error(500)], high=[answer()], upstream={"retry_budget": 0}) as it:
        assert (await it.open()).status == 500


# Time -----------------------------------------------------------------------------------------------------------------


@run
async def test_a_first_token_that_does_not_come_is_looked_for_elsewhere() -> None:
    for stuck in (slow(Flag()), stream(Flag())):
        async with rig(low=[stuck], high=[answer("in time")], upstream={"first_token": 0.1}) as it:
            got = await it.open(streamed=True)
            assert got.variant == "high"
            assert it.tries == [("low", None, "no"), ("high", 200, None)]
            await got.close()
            await it.servers["low"][0].cancelled.wait()


@run
async def test_one_deadline_for_all_tries() -> None:
    async with rig(low=[slow(Flag())], high=[answer()], upstream={"total": 0.2}) as it:
        for streamed in (False, True):
            failure = await it.fail(streamed=streamed)
            assert (failure.status, failure.kind) == (504, "timeout")
            assert len(it.tries) == 1
        assert it.servers["high"][0].requests == []
        await it.servers["low"][0].cancelled.wait()


@run
async def test_a_stream_that_stalls_ends_at_the_deadline() -> None:
    async with rig(low=[stream(chunk("a"), Flag())], upstream={"total": 0.3}) as it:
        got = await it.open(streamed=True)
        chunks = got.chunks()
        assert await anext(chunks) == chunk("a")
        with pytest.raises(DroppedError) as caught:
            await anext(chunks)
        assert (caught.value.status, caught.value.kind) == (504, "timeout")
        await it.servers["low"][0].cancelled.wait()
        await got.close()


@run
async def test_a_drop_in_mid_stream_is_not_retried() -> None:
    gate = Flag()
    async with rig(low=[drop(chunk("a"), gate)], high=[answer()]) as it:
        got = await it.open(streamed=True)
        chunks = got.chunks()
        assert await anext(chunks) == chunk("a")
        gate.set()
        with pytest.raises(DroppedError) as caught:
            await anext(chunks)
        assert caught.value.status == 502
        await got.close()
        assert it.servers["high"][0].requests == []
        assert it.upstreams.status()[0].failures == 1


# Clients that leave ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("where", ["headers", "first token"])
def test_a_cancelled_open_cancels_the_upstream(where: str, streamed: bool) -> None:
    async def test() -> None:
        script = slow(Flag()) if where == "headers" else stream(Flag())
        async with rig(low=[script], high=[answer()]) as it:
            task = asyncio.create_task(it.open(streamed=streamed))
            await it.servers["low"][0].arrived.wait()
            assert it.in_flight == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert it.in_flight == 0
            await it.servers["low"][0].cancelled.wait()
            assert it.tries == [("low", None, "cancelled")]
            assert it.servers["high"][0].requests == []

    asyncio.run(test())


@run
async def test_close_in_mid_stream_cancels_the_upstream() -> None:
    async with rig(low=[stream(chunk("a"), Flag())]) as it:
        got = await it.open(streamed=True)
        assert await anext(got.chunks()) == chunk("a")
        assert it.in_flight == 1
        await got.close()
        await got.close()
        assert it.in_flight == 0
        await it.servers["low"][0].cancelled.wait()
        await until(lambda: it.servers["low"][0].connections <= 1)


@run
async def test_a_reader_cancelled_in_mid_stream_leaves_nothing_behind() -> None:
    async with rig(low=[stream(chunk("a"), Flag())]) as it:
        got = await it.open(streamed=True)

        async def read() -> None:
            try:
                async for _ in got.chunks():
                    begun.set()
            finally:
                await got.close()

        begun = asyncio.Event()
        task = asyncio.create_task(read())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await it.servers["low"][0].cancelled.wait()
        assert it.in_flight == 0


@run
async def test_many_that_leave_at_any_moment() -> None:
    """Cancelled after every possible number of turns of the loop, no request stays in flight and no connection open."""
    async with rig(low=[answer()], high=[answer()]) as it:
        for turns in range(60):
            for streamed in (False, True):
                task = asyncio.create_task(it.open(streamed=streamed))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await task).close()
                assert it.in_flight == 0, turns
        got = await it.open()
        assert said(await got.body()) == "two words"


# Load -----------------------------------------------------------------------------------------------------------------


@run
async def test_overload_is_refused_at_once() -> None:
    gate = Flag()
    async with rig(low=[slow(gate)], high=[slow(gate)], variant={"max_requests": 2}) as it:
        first = [asyncio.create_task(it.open()) for _ in range(4)]
        await until(lambda: it.in_flight == 4)
        assert it.upstreams.saturated("low") and it.upstreams.saturated("high")
        failure = await it.fail()
        assert (failure.status, failure.code, failure.headers) == (503, "overloaded", {"retry-after": "1"})
        assert it.attempts == []
        gate.set()
        assert sorted([(await task).variant for task in first]) == ["high", "high", "low", "low"]
        assert not it.upstreams.saturated("low")


@run
async def test_a_bypass_does_not_overflow_into_another_variant() -> None:
    gate = Flag()
    async with rig(low=[slow(gate)], high=[answer()], variant={"max_requests": 1}) as it:
        first = asyncio.create_task(it.open())
        await until(lambda: it.in_flight == 1)
        assert (await it.fail(allow_fallback=False)).code == "overloaded"
        assert (await it.open()).variant == "high"
        gate.set()
        await first


@run
async def test_sessions_stay_at_one_replica() -> None:
    async with rig(low=[answer(), answer(), answer()]) as it:
        homes: dict[str, set[str]] = {}
        for turn in range(120):
            await it.open(affinity=f"session {turn % 60}")
            homes.setdefault(f"session {turn % 60}", set()).add(it.attempts[0].replica)
        assert all(len(urls) == 1 for urls in homes.values())
        assert len(set.union(*homes.values())) == 3


@run
async def test_hundreds_of_streams_at_once() -> None:
    gate = Flag()
    async with rig(low=[stream(chunk("a"), gate, DONE)], variant={"max_requests": 500}) as it:
        answers = await asyncio.gather(*(it.open(streamed=True) for _ in range(300)))
        assert it.in_flight == 300
        gate.set()
        bodies = await asyncio.gather(*(one.body() for one in answers))
        assert bodies == [chunk("a") + DONE] * 300


# The scripted server itself -------------------------------------------------------------------------------------------


@run
async def test_a_request_seen_by_the_script() -> None:
    def pick(seen: Seen) -> Behaviour:
        return answer("streamed") if seen.stream else error(400)

    async with rig(low=[choose(pick)]) as it:
        assert (await it.open()).status == 400
        got = await it.open(streamed=True)
        assert b"streamed" in await got.body()


@run
async def test_headers_first_body_later() -> None:
    """An answer that is not streamed is read whole before it is relayed: a replica that dies meanwhile costs nothing."""
    gate = Flag()

    async def half(seen: Seen, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "100"})
        await response.prepare(request)
        await response.write(b'{"choices": ')
        await gate.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    async with rig(low=[half, answer("whole")]) as it:
        tasks = [asyncio.create_task(it.open()) for _ in range(2)]
        await until(lambda: any(server.requests for server in it.servers["low"][:1]))
        gate.set()
        assert [said(await (await task).body()) for task in tasks] == ["whole"] * 2
