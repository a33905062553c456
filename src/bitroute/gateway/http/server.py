"""Runs the gateway: binds its two ports, starts the parts in order, and stops them in the other after SIGTERM or Ctrl-C.

A first signal drains: no new connections, requests in flight get their time, records are flushed. A second one stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Final, Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bitroute.cost import CostModel, Rates
from bitroute.errors import BitrouteError, ConfigError
from bitroute.gateway.admin.app import admin_app
from bitroute.gateway.auth.keys import Keys
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.http.app import Gateway
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.routing.policy import Policy
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.sessions.store import MemoryStore, SessionStore
from bitroute.gateway.telemetry.metrics import Metrics
from bitroute.gateway.upstreams.upstreams import Upstreams

if TYPE_CHECKING:
    from bitroute.gateway.telemetry.spans import Telemetry

_log = logging.getLogger(__name__)

BACKLOG: Final = 4096
MAX_UNREAD: Final = 512 * 1024  # bytes: one read of a socket is up to 256 KiB, of which the last 32 may be a head
IDLE: Final = 75  # seconds that an idle client connection stays open: longer than usual clients keep theirs
SWITCH: Final = 0.0005  # seconds for which the thread of the records, or of a router, may keep requests waiting
CUT: Final = 1.0  # seconds for the last words to clients that are cut off

Announce = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Apps:
    """The two applications and what the server must tell them."""

    gateway: Gateway
    admin: ASGIApp


def cost_model(config: GatewayConfig) -> CostModel:
    """The variants' rates; where none are given, the count of calls: the top variant 1, the lowest 0.

    Raises ConfigError when only some variants have rates: their costs could not be added.
    """
    given = {variant.name: variant.rates for variant in config.variants if variant.rates is not None}
    if not given:
        if len(config.ladder) == 1:
            return CostModel(unit="calls", variants={config.ladder[0]: Rates(call=1.0)})
        return CostModel.steps(config.ladder)
    if missing := [name for name in config.ladder if name not in given]:
        raise ConfigError(f"variants: {', '.join(missing)} without rates; give rates for all variants or for none")
    return CostModel(unit="configured", variants=given)


@contextlib.asynccontextmanager
async def parts(config: GatewayConfig) -> AsyncIterator[Apps]:
    """Everything behind the ports, started; closed, flushed and written on leaving. Raises ConfigError or DataError."""
    cost = cost_model(config)
    async with contextlib.AsyncExitStack() as stack:
        # What may be configured wrongly comes before the database, which would be made.
        policy = Policy(config)
        await policy.start()
        stack.push_async_callback(policy.close)
        upstreams = Upstreams(config)
        store = _store(config, stack)
        telemetry = _telemetry(config, stack)
        recorder = Recorder(config.records, cost, config.ladder)
        await asyncio.to_thread(recorder.start)
        stack.push_async_callback(asyncio.to_thread, recorder.close)
        keys = Keys(config.records.url, config.records.require_keys)
        await asyncio.to_thread(keys.start)
        stack.push_async_callback(asyncio.to_thread, keys.close)
        refuse_open_door(config, keys)
        await upstreams.start()
        for replica in upstreams.status():
            if not replica.healthy:
                _log.warning(
                    "%s: %s does not answer; it is asked again every %g s", replica.variant, replica.url, config.upstream.health
                )
        stack.push_async_callback(upstreams.close)
        sessions = Sessions(store, recorder.restore, high=config.ladder[-1])
        metrics = Metrics(config.ladder, cost)
        gateway = Gateway(
            config,
            policy=policy,
            sessions=sessions,
            upstreams=upstreams,
            recorder=recorder,
            keys=keys,
            metrics=metrics,
            telemetry=telemetry,
        )
        metrics.watch("in_flight", "Requests that are being answered.", lambda: gateway.in_flight)
        if isinstance(store, MemoryStore):
            metrics.watch("sessions", "Sessions that are remembered.", lambda: len(store))
        yield Apps(gateway, admin_app(policy, upstreams, recorder, metrics, keys, config))


def _store(config: GatewayConfig, stack: contextlib.AsyncExitStack) -> SessionStore:
    if config.sessions.url is None:
        return MemoryStore(config.sessions.max, config.sessions.ttl)
    try:
        from bitroute.gateway.sessions.redis_store import RedisStore  # noqa: PLC0415  (redis is an extra)
    except ModuleNotFoundError as error:
        raise ConfigError("sessions.url needs the extra: pip install 'bitroute[redis]'") from error
    store = RedisStore(config.sessions.url, config.sessions.ttl)
    stack.push_async_callback(store.close)
    return store


def _telemetry(config: GatewayConfig, stack: contextlib.AsyncExitStack) -> Telemetry | None:
    if config.telemetry.endpoint is None:
        return None
    try:
        from bitroute.gateway.telemetry.spans import Telemetry, otlp  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise ConfigError("telemetry.endpoint needs the extra: pip install 'bitroute[telemetry]'") from error
    telemetry = Telemetry(otlp(config.telemetry.endpoint))
    stack.push_async_callback(asyncio.to_thread, telemetry.close)
    return telemetry


def refuse_open_door(config: GatewayConfig, keys: Keys) -> None:
    """Raise ConfigError when others than this machine could use the gateway without a key; warn of an open admin port."""
    if not local(config.server.host) and keys.open:
        raise ConfigError(
            f"server.host {config.server.host}: others could use the gateway without a key; add one first (bitroute keys add)"
        )
    if not local(config.server.admin_host):
        _log.warning(
            "server.admin_host %s: whoever reaches that port reads the records and has the kill switch, without a password",
            config.server.admin_host,
        )


def local(host: str) -> bool:
    """Whether `host` is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket. Raises ConfigError naming `flag` when the address is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python repeats the address there
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another {flag}") from error


def address(sock: socket.socket) -> str:
    """The URL at which `sock` listens."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """A server that leaves signals to us: two of them run in one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Hangs up on heads and trailers without an end, which are kept whole before anybody asks for a key."""

    _unread = 0  # bytes since the parser last passed something on

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_UNREAD:
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()


def _server(app: ASGIApp, drain: float, lifespan: Literal["on", "off"]) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks for the client's address
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=max(1, round(drain)),
        )
    )


async def serve_sockets(
    config: GatewayConfig, public: socket.socket, admin: socket.socket, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """Serve until `stop` is set, then drain; a cancellation stops at once. `ready` is called when requests are answered."""
    async with parts(config) as apps:
        front, back = _server(apps.gateway, config.server.drain, "off"), _server(apps.admin, 1.0, "on")

        async def drain() -> None:
            await stop.wait()
            apps.gateway.draining = front.should_exit = True

        draining = asyncio.create_task(drain())
        behind = asyncio.create_task(back.serve([admin]))
        before = asyncio.create_task(front.serve([public]))
        ready()
        try:
            await before
        finally:
            draining.cancel()
            front.should_exit = front.force_exit = back.should_exit = True
            await asyncio.wait((before, behind))
            # What is cut off gets its error, and its row while there is a recorder.
            if cut := [task for task in front.server_state.tasks if not task.done()]:
                for task in cut:
                    if not task.cancelling():
                        task.cancel()
                await asyncio.wait(cut, timeout=CUT)


def serve(config: GatewayConfig, announce: Announce) -> None:
    """Run the gateway until it is told to stop; `announce` gets the public and the admin URL.

    With several workers, worker i listens on the public port and, for its own page and metrics, on admin_port + i. Raises
    ConfigError or DataError when it cannot start.
    """
    server = config.server
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(bind(server.host, server.port, "server.port"))
        ports = [server.admin_port + i if server.admin_port else 0 for i in range(server.workers)]
        admins = [stack.enter_context(bind(server.admin_host, port, "server.admin_port")) for port in ports]
        urls = address(public), ", ".join(address(admin) for admin in admins)
        if server.workers == 1:
            _run(config, public, admins[0], lambda: announce(*urls))
        else:
            _supervise(config, public, admins, lambda: announce(*urls))


def _run(
    config: GatewayConfig,
    public: socket.socket,
    admin: socket.socket,
    ready: Callable[[], None],
    parent: BaseProcess | None = None,
) -> None:
    """One process of the gateway, on uvloop where there is one; a first signal drains, a second one stops.

    With a `parent` Ctrl-C is that one's matter; its death drains, too.
    """
    try:
        import uvloop  # noqa: PLC0415  (not on every platform)

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ModuleNotFoundError:
        factory = None

    def begin() -> None:
        # Every request would wait for a collection that looks through all that was loaded.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH)
        ready()

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        serving = asyncio.ensure_future(serve_sockets(config, public, admin, begin, stop))
        for number in (signal.SIGTERM,) if parent else (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: serving.cancel() if stop.is_set() else stop.set())
        if parent is not None:
            sentinel = parent.sentinel

            def orphaned() -> None:
                loop.remove_reader(sentinel)
                stop.set()

            loop.add_reader(sentinel, orphaned)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def _worker(config: GatewayConfig, public: socket.socket, admin: socket.socket, errors: SimpleQueue[BitrouteError]) -> None:
    """A worker process; module level, so that a fresh interpreter finds it."""
    log_to_stderr()
    try:
        _run(config, public, admin, lambda: None, multiprocessing.parent_process())
    except BitrouteError as error:
        errors.put(error)


def _supervise(config: GatewayConfig, public: socket.socket, admins: list[socket.socket], ready: Callable[[], None]) -> None:
    """Keep one process per admin socket alive: a worker that dies is started again, a signal is passed on.

    Raises the BitrouteError of a worker that cannot start.
    """
    context = multiprocessing.get_context("spawn")
    errors: SimpleQueue[BitrouteError] = context.SimpleQueue()
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def start(index: int) -> BaseProcess:
        worker = context.Process(target=_worker, args=(config, public, admins[index], errors), name=f"gateway-{index}")
        # Ctrl-C goes to the whole group; what is ignored here stays so in the worker.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        worker.start()
        signal.signal(signal.SIGINT, before)
        return worker

    workers = {index: start(index) for index in range(len(admins))}
    ready()
    stopping = False
    while workers:
        ended = wait([woken, *(worker.sentinel for worker in workers.values())])
        for index, worker in list(workers.items()):
            if worker.sentinel in ended:
                worker.join()
                del workers[index]
                if not stopping and errors.empty():
                    _log.warning("worker %d has ended (%s) and is started again", index, worker.exitcode)
                    workers[index] = start(index)
        signals = len(woken.recv(64)) if woken in ended else 0
        if not stopping and (signals or not errors.empty()):
            stopping, signals = True, max(1, signals)
            for sock in (public, *admins):
                sock.close()  # the workers close theirs when they drain: from then on connections are refused
        for worker in list(workers.values()) * signals:
            worker.terminate()
    if not errors.empty():
        raise errors.get()


def log_to_stderr() -> None:
    """Warnings of all and what bitroute has to say, a line each."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("bitroute").setLevel(logging.INFO)
