"""Opening connections: a bounded number at a time, each with its own deadline, and no queue before a host that is dead."""

import asyncio
import socket
from collections.abc import Iterator

import aiohttp
import pytest

from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.core.values import Attempt, GatewayError
from bitroute.gateway.upstreams.connector import OPENING
from bitroute.gateway.upstreams.upstreams import Upstreams
from support.rig import CHAT, body, rig, run, said
from support.upstream import ScriptedUpstream, answer


@pytest.fixture
def deaf() -> Iterator[str]:
    """The URL of a host that does not answer: a listening socket whose queue is full, which Linux lets hang."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        held = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
            held.append(client)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for client in held:
            client.close()


def test_a_host_that_does_not_answer_costs_one_connect_timeout(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = 0
    original = aiohttp.TCPConnector._create_connection

    async def counted(self: aiohttp.TCPConnector, req: aiohttp.ClientRequest, *rest: object) -> object:
        nonlocal opened
        opened += f":{req.port}" in deaf
        return await original(self, req, *rest)  # type: ignore[arg-type]

    async def test() -> None:
        nonlocal opened
        async with ScriptedUpstream(answer("high")) as high:
            variants = [{"name": "low", "urls": [deaf]}, {"name": "high", "urls": [high.url]}]
            times = {"connect": 1.0, "retry_budget": 1.0}
            upstreams = Upstreams(GatewayConfig.of({"variants": variants, "upstream": times}, "test"))
            await upstreams.start()
            assert [status.healthy for status in upstreams.status()] == [False, True]
            # As if it had died just now, and 100 requests had not heard of it.
            upstreams._pools["low"].replicas[0].checked(True)
            opened = 0
            attempts: list[list[Attempt]] = [[] for _ in range(100)]

            async def ask(at: int) -> str:
                got = await upstreams.open(CHAT, "low", body, affinity="", headers={}, stream=False, attempts=attempts[at])
                return said(await got.body())

            assert await asyncio.gather(*(ask(at) for at in range(100))) == ["high"] * 100
            assert OPENING <= opened < OPENING + 3  # those behind them in the queue did not wait for a timeout of their own
            errors = {tried[0].error for tried in attempts}
            assert errors == {"cannot connect (ConnectionTimeoutError)"}
            assert not upstreams.status()[0].healthy
            await upstreams.close()

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", counted)
    asyncio.run(test())


def test_alone_it_is_a_bad_gateway(deaf: str) -> None:
    async def test() -> None:
        config = {"variants": [{"name": "low", "urls": [deaf]}], "upstream": {"connect": 0.1}}
        upstreams = Upstreams(GatewayConfig.of(config, "test"))
        await upstreams.start()
        with pytest.raises(GatewayError) as caught:
            await upstreams.open(CHAT, "low", body, affinity="", headers={}, stream=True, attempts=[])
        assert caught.value.status == 502
        await upstreams.close()

    asyncio.run(test())


@run
async def test_more_at_once_than_may_be_opened_at_once() -> None:
    async with rig(low=[answer()], variant={"max_requests": 1000}) as it:
        answers = await asyncio.gather(*(it.open() for _ in range(3 * OPENING)))
        assert {one.status for one in answers} == {200}
        assert {status.failures for status in it.upstreams.status()} == {0}
