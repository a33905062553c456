"""A whole gateway on free ports, in the test's event loop or in a thread of its own, before upstreams that a test brings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.http.server import address, bind, serve_sockets


@dataclass(frozen=True)
class Running:
    url: str
    admin: str
    config: GatewayConfig


def gateway_config(folder: Path, low: str | list[str], high: str | list[str], **sections: dict[str, Any]) -> GatewayConfig:
    """A ladder low, high before these upstreams, records in `folder`, free ports; `sections` override what they name."""
    urls = [[given] if isinstance(given, str) else given for given in (low, high)]
    data: dict[str, Any] = {
        "server": {"port": 0, "admin_port": 0, "drain": 5.0},
        "variants": [{"name": name, "urls": found} for name, found in zip(("low", "high"), urls, strict=True)],
        "routing": {"router": "always:high"},
        "records": {"url": f"sqlite:///{folder / 'records.db'}", "flush": 0.05},
    }
    for name, section in sections.items():
        data[name] = section if isinstance(section, list) else {**data.get(name, {}), **section}
    return GatewayConfig.of(data, "test")


@contextlib.asynccontextmanager
async def running(config: GatewayConfig) -> AsyncIterator[Running]:
    """The gateway in this event loop; leaving drains it."""
    stop = asyncio.Event()
    with bind("127.0.0.1", 0, "port") as public, bind("127.0.0.1", 0, "admin_port") as admin:
        found = Running(address(public), address(admin), config)
        ready = asyncio.Event()
        serving = asyncio.create_task(serve_sockets(config, public, admin, ready.set, stop))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        try:
            if serving.done():
                await serving
            yield found
        finally:
            waiting.cancel()
            stop.set()
            await serving


@contextlib.contextmanager
def threaded(config: GatewayConfig) -> Iterator[Running]:
    """The gateway in a thread, for blocking clients."""
    started = threading.Event()
    found: list[Running] = []
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        async with running(config) as gateway:
            found.append(gateway)
            stops.append((asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    def work() -> None:
        try:
            asyncio.run(main())
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        yield found[0]
    finally:
        if stops:
            loop, stop = stops[0]
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def chat(text: str = "hello there", model: str = "auto", **more: Any) -> dict[str, Any]:
    """The smallest chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def events(body: bytes) -> list[Any]:
    """The data of a stream's events, JSON read, comments left out."""
    lines = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
