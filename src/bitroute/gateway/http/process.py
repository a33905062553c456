"""The gateway as one process or several: event loops, signals, workers that are started again. It knows no requests.

A first signal drains: no new connections, requests in flight get their time, records are flushed. A second one stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from typing import Final

from bitroute.errors import BitrouteError
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.http.server import address, bind, serve_sockets

_log = logging.getLogger(__name__)

SWITCH: Final = 0.0005  # seconds for which the thread of the records, or of a router, may keep requests waiting

Announce = Callable[[str, str], None]


def serve(config: GatewayConfig, announce: Announce) -> None:
    """Run the gateway until it is told to stop; `announce` gets the public and the admin URL.

    With several workers, worker i listens on the public port and, for its own page and metrics, on admin_port + i. Raises
    ConfigError or DataError when it cannot start.
    """
    server = config.server
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(bind(server.host, server.port, "port"))
        ports = [server.admin_port + i if server.admin_port else 0 for i in range(server.workers)]
        admins = [stack.enter_context(bind(server.admin_host, port, "admin_port")) for port in ports]
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
