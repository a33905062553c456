"""Upstreams with scripted servers behind them, for tests that ask them directly."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from bitroute.gateway.core.config import GatewayConfig, VariantConfig
from bitroute.gateway.core.values import Attempt, GatewayError
from bitroute.gateway.upstreams.upstreams import Answer, Upstreams
from support.upstream import Script, ScriptedUpstream

CHAT = "/v1/chat/completions"


def body(variant: VariantConfig, streamed: bool = False) -> bytes:
    request = {
        "model": variant.model or variant.name,
        "stream": streamed,
        "messages": [{"role": "user", "content": "two words"}],
    }
    return json.dumps(request).encode()


@dataclass
class Rig:
    """Started upstreams, and the servers behind them by variant."""

    upstreams: Upstreams
    servers: dict[str, list[ScriptedUpstream]]
    attempts: list[Attempt] = field(default_factory=list)

    async def open(self, variant: str = "low", *, streamed: bool = False, affinity: str = "", **options: Any) -> Answer:
        self.attempts = []
        return await self.upstreams.open(
            CHAT,
            variant,
            lambda config: body(config, streamed),
            affinity=affinity,
            headers=options.pop("headers", {}),
            stream=streamed,
            attempts=self.attempts,
            **options,
        )

    async def fail(self, variant: str = "low", **options: Any) -> GatewayError:
        with pytest.raises(GatewayError) as caught:
            await self.open(variant, **options)
        return caught.value

    @property
    def tries(self) -> list[tuple[str, int | None, str | None]]:
        """What was tried: variant, status, the first word of the error."""
        return [(a.variant, a.status, a.error and a.error.split()[0]) for a in self.attempts]

    @property
    def in_flight(self) -> int:
        return sum(status.in_flight for status in self.upstreams.status())


@contextlib.asynccontextmanager
async def rig(
    *, variant: dict[str, Any] | None = None, upstream: dict[str, Any] | None = None, **scripts: list[Script]
) -> AsyncIterator[Rig]:
    """One server a script; the keywords are the ladder, cheapest first. All is given back at the end, or the test fails."""
    async with contextlib.AsyncExitStack() as stack:
        servers = {
            name: [await stack.enter_async_context(ScriptedUpstream(script)) for script in scripts[name]] for name in scripts
        }
        ladder = [{"name": name, "urls": [one.url for one in servers[name]], **(variant or {})} for name in scripts]
        upstreams = Upstreams(GatewayConfig.of({"variants": ladder, "upstream": {"health": 1000, **(upstream or {})}}, "test"))
        await upstreams.start()
        stack.push_async_callback(upstreams.close)
        made = Rig(upstreams, servers)
        yield made
        assert made.in_flight == 0


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine."""

    def plain() -> None:
        asyncio.run(test())

    plain.__name__, plain.__doc__ = test.__name__, test.__doc__
    return plain


def said(whole: bytes) -> str:
    content = json.loads(whole)["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content
