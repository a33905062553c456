"""Active health checks: it asks each replica regularly whether it still answers, and tells the replica. It routes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp

from bitroute.gateway.upstreams.replicas import Replica


class HealthChecks:
    """One task a replica. `every` is the time between two checks, `timeout` how long one may take; seconds."""

    def __init__(self, session: aiohttp.ClientSession, replicas: Iterable[Replica], every: float, timeout: float) -> None:
        self._session, self._replicas = session, tuple(replicas)
        self._every, self._timeout = every, timeout
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Check all replicas once, then go on in the background."""
        await asyncio.gather(*(self._check(replica) for replica in self._replicas))
        self._tasks = [asyncio.create_task(self._watch(replica)) for replica in self._replicas]

    async def close(self) -> None:
        """Stop checking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._check(replica)

    async def _check(self, replica: Replica) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._get(replica, "/health")
                # Servers without /health, or that guard it, answer 4xx there; the list of models is the next best thing.
                if 400 <= status < 500:
                    status = await self._get(replica, "/v1/models")
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            replica.checked(False)
        else:
            replica.checked(status < 500)

    async def _get(self, replica: Replica, path: str) -> int:
        headers = {"authorization": f"Bearer {replica.key}"} if replica.key else {}
        async with self._session.get(replica.url + path, headers=headers, allow_redirects=False) as response:
            return response.status
