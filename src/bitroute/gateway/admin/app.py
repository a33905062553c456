"""The admin port: metrics, the kill switch, and a page to look at. It decides nothing and changes nothing but the switch.

What it trusts is the address that it is bound to (this machine alone, unless configured otherwise): there are no passwords
here. `guard` keeps other sites' pages out, and the switch takes nothing but JSON, which no form can send.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final, Protocol, TypeVar

import aiohttp
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bitroute import __version__
from bitroute.cost import CostModel
from bitroute.errors import BitrouteError
from bitroute.gateway.admin.guard import OriginGuardMiddleware
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.records.history import History
from bitroute.gateway.telemetry.metrics import Metrics

N = TypeVar("N", int, float)

MAX_ROWS: Final = 200  # rows of one answer
LARGEST: Final = 2**53  # of a number asked for: as far as a page's own numbers are exact
MAX_BODY: Final = 1024  # bytes of a switch
OTHERS: Final = 2.0  # seconds that another worker has to switch
WINDOWS: Final = {"15m": 900, "1h": 3600, "6h": 21600, "24h": 86400}  # the courses on offer, seconds
KEPT: Final = 10.0  # seconds for which what is dear to compute is shown again ...
MOVED: Final = 1 / 600  # ... and a course for this part of its window: a tenth of a point on the chart
_COUNTS: Final = {  # of the policy's status
    "router_errors": "Decisions that the router failed to make.",
    "late": "Decisions that came too late.",
    "saturated": "Decisions changed because the variant had no room.",
    "reload_errors": "New router files that were refused.",
}
_PAGE: Final = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES: Final = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


class Switchable(Protocol):
    """What is asked of a policy."""

    def status(self) -> Mapping[str, Any]:
        """Its state, plain data."""
        ...

    def switch(self, variant: str | None) -> None:
        """Send everything to one variant; None: decide again."""
        ...


class Watched(Protocol):
    """What is asked of the upstreams."""

    def status(self) -> Sequence[Any]:
        """One value a replica: variant, url, healthy, in_flight, failures."""
        ...


class Recording(Protocol):
    """What is asked of the recorder."""

    cost: CostModel

    @property
    def failures(self) -> int: ...

    @property
    def pending(self) -> int: ...

    @property
    def dropped(self) -> int: ...


class Locked(Protocol):
    """What is asked of the keys."""

    open: bool


class _Switch(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a switch."""

    variant: str | None
    alone: bool = False  # this worker, and not the others, too


class RefusalError(Exception):
    """The admin port does not do that: a status and a line for people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Admin:
    """The endpoints. Reads of the database run in one thread of their own, one after the other."""

    def __init__(
        self,
        policy: Switchable,
        upstreams: Watched,
        recorder: Recording,
        metrics: Metrics,
        keys: Locked,
        config: GatewayConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.policy, self.upstreams, self.recorder, self.metrics, self.keys = policy, upstreams, recorder, metrics, keys
        self.config, self.clock = config, clock
        self.history = History(config.records.url, config.ladder, recorder.cost)
        self._reader = ThreadPoolExecutor(1, "page")
        self._kept: dict[str, tuple[float, object]] = {}

    def routes(self) -> list[Route]:
        """Paths and what answers them."""
        page = files("bitroute.gateway") / "page"
        return [
            *(Route(path, _file((page / name).read_bytes(), name.rpartition(".")[2])) for path, name in _PAGE.items()),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/status.json", self._status),
            Route("/steps.json", self._steps),
            Route("/course.json", self._course),
            Route("/policies.json", self._policies),
            Route("/episodes.json", self._episodes),
            Route("/episode.json", self._episode),
            Route("/switch", self._switch, methods=["POST"]),
        ]

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(cancel_futures=True)
        self.history.close()

    async def _health(self, _: Request) -> Response:
        return _json({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        body, content_type = self.metrics.render()
        return Response(body, media_type=None, headers={"content-type": content_type})

    async def _status(self, _: Request) -> Response:
        return _json(self._now())

    async def _steps(self, request: Request) -> Response:
        after, limit = _number(request, "after", int), _limit(request)
        return _json({"steps": await self._read(lambda: self.history.steps(after, limit))})

    async def _course(self, request: Request) -> Response:
        window = request.query_params.get("window", "1h")
        if window not in WINDOWS:
            raise RefusalError(400, f"window: want one of {', '.join(WINDOWS)}")

        def read() -> object:
            return self.history.course(WINDOWS[window], self.clock())

        return _json(await self._read(read, f"course {window}", WINDOWS[window] * MOVED))

    async def _policies(self, _: Request) -> Response:
        return _json({"policies": await self._read(self.history.policies, "policies", KEPT)})

    async def _episodes(self, request: Request) -> Response:
        before, limit = _number(request, "before", float), _limit(request)
        return _json({"episodes": await self._read(lambda: self.history.episodes(before, limit))})

    async def _episode(self, request: Request) -> Response:
        scope, id_ = request.query_params.get("scope", ""), request.query_params.get("id", "")
        found = await self._read(lambda: self.history.episode(scope, id_))
        if found is None:
            raise RefusalError(404, "There is no such episode")
        return _json(found)

    async def _switch(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusalError(415, "Send the switch as application/json")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise RefusalError(413, "The switch is too long")
        try:
            switch = msgspec.json.decode(body, type=_Switch)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RefusalError(400, 'Want {"variant": NAME} or {"variant": null}') from error
        wanted = switch.variant
        if wanted is not None and wanted not in self.config.ladder:
            raise RefusalError(400, f"There is no variant {wanted!r}; there are {', '.join(self.config.ladder)}")
        self.policy.switch(wanted)
        if not switch.alone:
            await self._tell_others(wanted)
        return _json(self._now())

    async def _tell_others(self, wanted: str | None) -> None:
        """Switch the other workers, too: each has an admin port of its own. Raises RefusalError naming those that did not."""
        server = self.config.server
        if server.workers == 1 or server.admin_port == 0:
            return
        host = f"[{server.admin_host}]" if ":" in server.admin_host else server.admin_host
        urls = [f"http://{host}:{server.admin_port + i}/switch" for i in range(server.workers)]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=OTHERS), raise_for_status=True) as session:
            results = await asyncio.gather(
                *(session.post(url, json={"variant": wanted, "alone": True}) for url in urls), return_exceptions=True
            )
        if failed := [url for url, result in zip(urls, results, strict=True) if isinstance(result, BaseException)]:
            raise RefusalError(502, f"These workers did not switch, all others did: {', '.join(failed)}")

    def _now(self) -> dict[str, object]:
        recorder = self.recorder
        return {
            "version": __version__,
            "now": self.clock(),
            "ladder": self.config.ladder,
            "unit": recorder.cost.unit,
            "policy": self.policy.status(),
            "replicas": self.upstreams.status(),
            "records": {"pending": recorder.pending, "dropped": recorder.dropped, "failures": recorder.failures},
            "content": self.config.records.store_content,
            "keys": not self.keys.open,
        }

    async def _read(self, read: Callable[[], object], name: str | None = None, seconds: float = 0.0) -> object:
        """What `read` finds; with a name for some `seconds` the same again, so that many pages cost what one does."""

        def work() -> object:
            at, value = self._kept.get(name or "", (-1e9, None))
            if name is not None and time.monotonic() - at < seconds:
                return value
            value = read()
            if name is not None:
                self._kept[name] = (time.monotonic(), value)
            return value

        return await asyncio.get_running_loop().run_in_executor(self._reader, work)


def admin_app(
    policy: Switchable, upstreams: Watched, recorder: Recording, metrics: Metrics, keys: Locked, config: GatewayConfig
) -> Starlette:
    """The application of the admin port; `metrics` gets the parts' gauges. The records are opened when first looked at."""
    _watch(metrics, policy, upstreams, recorder)
    admin = Admin(policy, upstreams, recorder, metrics, keys, config)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            admin.close()

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        return _json({"error": error.message}, error.status)

    async def unreadable(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 503)

    return Starlette(
        routes=admin.routes(),
        middleware=[Middleware(OriginGuardMiddleware, hosts=frozenset({"localhost", config.server.admin_host.lower()}))],
        exception_handlers={RefusalError: refuse, BitrouteError: unreadable},
        lifespan=lifespan,
    )


def _watch(metrics: Metrics, policy: Switchable, upstreams: Watched, recorder: Recording) -> None:
    """Gauges of the parts, read at each scrape."""

    def counted(name: str) -> Callable[[], float]:
        return lambda: float(policy.status()[name])

    def by_arm(name: str) -> Callable[[], list[tuple[tuple[str], float]]]:
        return lambda: [((arm["name"],), arm[name]) for arm in policy.status()["arms"] if arm[name] is not None]

    def by_replica(name: str) -> Callable[[], list[tuple[tuple[str, str], float]]]:
        return lambda: [((replica.variant, replica.url), float(getattr(replica, name))) for replica in upstreams.status()]

    metrics.watch("records_pending", "Rows that wait for the database.", lambda: recorder.pending)
    metrics.watch("records_dropped", "Rows that are lost.", lambda: recorder.dropped)
    metrics.watch("records_failures", "Transactions that the database refused.", lambda: recorder.failures)
    metrics.watch("kill_switch", "1 while everything goes to one variant.", lambda: policy.status()["switch"] is not None)
    for name, help_ in _COUNTS.items():
        metrics.watch(name, help_, counted(name))
    metrics.watch_all("realised_share", "Realised share at high precision.", ("arm",), by_arm("realised"))
    metrics.watch_all("budget_share", "Budget K.", ("arm",), by_arm("budget"))
    of = ("variant", "replica")
    metrics.watch_all("replica_healthy", "1 where the replica answers.", of, by_replica("healthy"))
    metrics.watch_all("replica_in_flight", "Requests in flight at a replica.", of, by_replica("in_flight"))


def _file(body: bytes, suffix: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(body, media_type=None, headers={"content-type": _TYPES[suffix]})

    return answer


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _number(request: Request, name: str, kind: Callable[[str], N]) -> N | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        number = kind(text)
    except ValueError as error:
        raise RefusalError(400, f"{name}: want a number") from error
    if not abs(number) <= LARGEST:  # as nothing is that is not a number
        raise RefusalError(400, f"{name}: want a number of a moderate size")
    return number


def _limit(request: Request) -> int:
    return min(MAX_ROWS, max(1, _number(request, "limit", int) or 50))
