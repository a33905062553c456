"""How connections to upstreams are opened: pooled by aiohttp, a bounded number at a time. It knows hosts, not replicas.

Thousands of requests may arrive at once. Opening a connection for each in one go would overflow the upstream's accept queue,
and keep the event loop busy for so long that connections that are ready count as timed out.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

OPENING: Final = 64  # connections to one host that are being opened at a time
IDLE: Final = 4.0  # seconds an idle connection is kept: less than the 5 after which uvicorn (vLLM) closes it from its side
_DEAD: Final = 3  # failures in a row after which those that wait for their turn fail, too


class Connector(aiohttp.TCPConnector):
    """A pool without a limit. `timeout` (seconds) is for name, connection and TLS together, without the wait for a turn."""

    def __init__(self, timeout: float) -> None:
        super().__init__(limit=0, keepalive_timeout=IDLE)
        self._timeout = timeout
        self._gates: dict[tuple[str, int | None], _Gate] = {}

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        """Open one. Raises ConnectionTimeoutError when that takes too long, or did for those before in the queue."""
        gate = self._gates.setdefault((req.host, req.port), _Gate())
        waits = gate.turns.locked()
        async with gate.turns:
            if waits and gate.failures >= _DEAD:
                raise aiohttp.ConnectionTimeoutError
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await super()._create_connection(req, traces, timeout)
            except TimeoutError as error:
                gate.failures += 1
                raise aiohttp.ConnectionTimeoutError from error
            gate.failures = 0
            return connection


class _Gate:
    """The queue before one host, and how often in a row a connection to it could not be opened in time."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(OPENING)
        self.failures = 0
