"""Health checks before scripted servers: which answers count, which path is asked, and replicas that die and come back."""

import asyncio

import pytest

from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.upstreams.replicas import STRIKES
from bitroute.gateway.upstreams.upstreams import Upstreams
from support.rig import rig, run, said
from support.upstream import Flag, ScriptedUpstream, answer, error, slow, until


@pytest.mark.parametrize(
    ("healthy", "has_health", "good"), [(True, True, True), (False, True, False), (True, False, True), (False, False, False)]
)
def test_health_or_else_the_list_of_models(healthy: bool, has_health: bool, good: bool) -> None:
    async def test() -> None:
        async with ScriptedUpstream() as server:
            server.healthy, server.has_health = healthy, has_health
            upstreams = Upstreams(GatewayConfig.of({"variants": [{"name": "low", "urls": [server.url]}]}, "test"))
            await upstreams.start()  # the first round is over when it returns
            try:
                assert upstreams.ready() is good
                assert [status.healthy for status in upstreams.status()] == [good]
                assert server.requests == []
            finally:
                await upstreams.close()

    asyncio.run(test())


def test_a_replica_is_checked_again_and_again() -> None:
    async def test() -> None:
        async with ScriptedUpstream() as server:
            variants = [{"name": "low", "urls": [server.url]}]
            upstreams = Upstreams(GatewayConfig.of({"variants": variants, "upstream": {"health": 0.02}}, "test"))
            await upstreams.start()
            for state in (False, True, False):
                server.healthy = state
                await until(lambda state=state: upstreams.ready() is state)
            await upstreams.close()
            done = server.checks
            await asyncio.sleep(0)
            assert server.checks == done

    asyncio.run(test())


@run
async def test_a_killed_replica_is_left_alone_and_a_check_brings_it_back() -> None:
    async with rig(low=[answer("0"), answer("1")], upstream={"health": 0.05}) as it:
        dead, alive = it.servers["low"]
        await dead.kill()
        for _ in range(10):
            got = await it.open()
            assert (got.status, said(await got.body())) == (200, "1")
        assert [status.healthy for status in it.upstreams.status()] == [False, True]
        assert sum(status.failures for status in it.upstreams.status()) <= 2
        await dead.start()
        await until(lambda: all(status.healthy for status in it.upstreams.status()))
        before = len(alive.requests)
        for _ in range(10):
            await it.open()
        assert len(dead.requests) == 5
        assert len(alive.requests) - before == 5


@run
async def test_requests_under_way_at_a_killed_replica_are_answered_elsewhere() -> None:
    async with rig(low=[slow(Flag()), answer("alive")]) as it:
        dead = it.servers["low"][0]
        tasks = []
        while len(tasks) < 8:
            tasks.append(asyncio.create_task(it.open()))
        await until(lambda: len(dead.requests) == 4)
        await dead.kill()
        assert [said(await (await task).body()) for task in tasks] == ["alive"] * 8


@run
async def test_all_dead_is_an_error_and_the_first_to_return_is_used_at_once() -> None:
    async with rig(low=[answer()], high=[answer()]) as it:
        low, high = it.servers["low"][0], it.servers["high"][0]
        await low.kill()
        await high.kill()
        for _ in range(3):
            failure = await it.fail()
            assert (failure.status, failure.kind) == (502, "server_error")
        assert not it.upstreams.ready()
        await high.start()  # no check has seen it yet
        assert (await it.open()).variant == "high"
        assert it.upstreams.ready()


@run
async def test_a_server_in_trouble_gets_no_more_requests() -> None:
    async with rig(low=[error(503)], high=[answer()]) as it:
        for _ in range(STRIKES + 2):
            assert (await it.open()).variant == "high"
        assert len(it.servers["low"][0].requests) == STRIKES
    async with rig(low=[error(500)], high=[answer()]) as it:  # this may lie in the requests
        for _ in range(STRIKES + 2):
            assert (await it.open()).variant == "high"
        assert len(it.servers["low"][0].requests) == STRIKES + 2


@run
async def test_upstreams_that_are_not_there_yet() -> None:
    late = ScriptedUpstream(answer())
    await late.start()
    await late.kill()  # the port is known, nobody listens
    config = GatewayConfig.of({"variants": [{"name": "low", "urls": [late.url]}], "upstream": {"health": 0.05}}, "test")
    upstreams = Upstreams(config)
    await upstreams.start()
    assert not upstreams.ready() and not upstreams.saturated("low")
    async with late:
        await until(upstreams.ready)
    await upstreams.close()
