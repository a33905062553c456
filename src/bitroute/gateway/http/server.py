"""Serves the two ports in one event loop, until it is told to stop: then requests in flight get their time. It knows sockets.

What answers is made by `parts`; processes and signals are for `process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Final, Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bitroute.errors import ConfigError
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.http.parts import parts

BACKLOG: Final = 4096
MAX_UNREAD: Final = 512 * 1024  # bytes: one read of a socket is up to 256 KiB, of which the last 32 may be a head
IDLE: Final = 75  # seconds that an idle client connection stays open: longer than usual clients keep theirs
CUT: Final = 1.0  # seconds for the last words to clients that are cut off


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket. Raises ConfigError of the server's `setting` when the address is taken or not ours."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # Python repeats the address there
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another port").of("server", setting) from error


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
