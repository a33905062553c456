"""One request while it is answered, and the connection to its client: head, body, what is sent, whether it is still there.

It knows HTTP as ASGI shows it. What is in a body, and where the request goes, is for others.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Receive, Scope, Send

from bitroute.gateway.auth.keys import Client
from bitroute.gateway.core.values import Call, Caller, GatewayError, Outcome, RoutingDecision, StepContext
from bitroute.gateway.wire.dialects.dialect import Dialect

MAX_HEADERS: Final = 32 * 1024  # bytes of all names and values together
LINGER: Final = 5.0  # seconds for which the rest of a body that is too long is read
KEEP_ALIVE: Final = 15.0  # seconds of silence, after the first chunk, before a comment keeps the connection open


@dataclass(slots=True)
class Exchange:
    """One request while it is answered: what is known of it so far, for the records whatever happens."""

    dialect: Dialect
    headers: Mapping[str, str]  # names in lower case
    arrived: float
    send: Send
    client: Client | None = None
    call: Call | None = None
    caller: Caller | None = None
    context: StepContext | None = None
    routing: RoutingDecision | None = None
    limits: Mapping[str, str] = field(default_factory=dict)
    outcome: Outcome = field(default_factory=Outcome)
    headers_sent: bool = False  # the response has: from here on it can only be relayed or broken off
    finished: bool = False  # the response is complete
    recorded: bool = False  # the session knows how the step ended
    last_sent_at: float = 0.0  # when the stream's last bytes were sent

    async def send_chunk(self, body: bytes) -> None:
        """Send a part of a stream."""
        self.last_sent_at = time.perf_counter()
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def finish(self, body: bytes = b"") -> None:
        """Send the rest."""
        self.finished = True
        await self.send({"type": "http.response.body", "body": body})


class DisconnectedError(Exception):
    """The client went away before its request was read."""


def read_headers(scope: Scope) -> dict[str, str]:
    """A request's headers, read once: many are asked for. Of one that is repeated the first counts."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return found


async def read_body(scope: Scope, headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """The request's body. Raises GatewayError when it has more than `limit` bytes, or headers more than `MAX_HEADERS`."""
    if sum([len(name) + len(value) for name, value in scope["headers"]]) > MAX_HEADERS:
        raise GatewayError(431, f"The headers are longer than {MAX_HEADERS} bytes", code="headers_too_large")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise GatewayError(415, "Send the body without content-encoding", code="unsupported_encoding")
    length = headers.get("content-length", "0").lstrip("0")  # Python refuses to read thousands of digits
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        if "expect" not in headers:
            await _discard(receive)
        raise _too_large(limit)
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            await _discard(receive)
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(chunks)


async def _discard(receive: Receive) -> None:
    """Read on for a while: a connection that is closed while its client sends takes the answer with it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            message = await receive()
            while message["type"] != "http.disconnect" and message.get("more_body", False):
                message = await receive()


def _too_large(limit: int) -> GatewayError:
    message = f"The body is longer than {limit} bytes"
    return GatewayError(413, message, code="body_too_large", headers={"connection": "close"})


def decision_headers(exchange: Exchange) -> list[tuple[str, str]]:
    """The gateway's own headers: what was decided, why, and what that took."""
    context, routing, outcome = exchange.context, exchange.routing, exchange.outcome
    lines: list[tuple[str, str]] = []
    if context is not None:
        lines += [
            ("x-bitroute-episode", context.episode),
            ("x-bitroute-step", str(context.step)),
            ("x-bitroute-session-source", context.source),
        ]
    if routing is not None:
        lines += [
            ("x-bitroute-variant", outcome.variant or routing.decision.variant),
            ("x-bitroute-reason", routing.decision.reason),
            ("x-bitroute-router-ms", f"{routing.seconds * 1000:.3f}"),
            ("x-bitroute-overhead-ms", f"{outcome.overhead * 1000:.3f}"),
        ]
        if routing.decision.score is not None:
            lines.append(("x-bitroute-score", f"{routing.decision.score:.4g}"))
    return lines


class CancelOnDisconnect:
    """Cancels the body of the `async with` when the client goes away, and swallows that cancellation."""

    __slots__ = ("_disconnected", "_exchange", "_receive", "_task", "_watcher")

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        self._exchange, self._receive, self._disconnected = exchange, receive, False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.create_task(self._watch())

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> bool:
        try:
            if error is None and self._disconnected:
                await asyncio.sleep(0)  # a cancellation that is on its way arrives here, not in what follows
        except asyncio.CancelledError as cancelled:
            error = cancelled
        finally:
            self._watcher.cancel()
        if not (self._disconnected and isinstance(error, asyncio.CancelledError)):
            return False
        # Many clients hang up at the last event, before the upstream has ended its stream: they have the whole answer.
        if not (self._exchange.headers_sent and self._exchange.outcome.ended == "complete"):
            self._exchange.outcome.ended = "cancelled"
        self._task.uncancel()
        return True

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._exchange.finished:
            self._disconnected = True
            self._task.cancel()


@contextlib.asynccontextmanager
async def keep_alive(exchange: Exchange) -> AsyncIterator[None]:
    """Sends a comment whenever the stream was silent for `KEEP_ALIVE` seconds."""

    async def comment() -> None:
        while True:
            rest = exchange.last_sent_at + KEEP_ALIVE - time.perf_counter()
            if rest > 0:
                await asyncio.sleep(rest)
            else:
                await exchange.send_chunk(b": keep-alive\n\n")

    commenter = asyncio.create_task(comment())
    try:
        yield
    finally:
        commenter.cancel()
