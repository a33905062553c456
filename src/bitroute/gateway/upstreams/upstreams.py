"""The gateway's way to its upstreams: tries, deadlines, fallbacks, and the answer as it comes in. It reads no bodies.

A request is retried as long as nothing of an answer is known: on another replica of its variant, then on the other variants,
within one deadline and a retry budget. From the first byte on it can only be relayed or broken off.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import aiohttp
from yarl import URL

from bitroute.gateway.core.config import GatewayConfig, VariantConfig
from bitroute.gateway.core.values import Attempt, GatewayError
from bitroute.gateway.upstreams.connector import Connector
from bitroute.gateway.upstreams.health import HealthChecks
from bitroute.gateway.upstreams.replicas import Pool, Replica, ReplicaStatus, RetryBudget

MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes of a body that is kept whole
READ_BUFFER: Final = 8 * 1024  # bytes; the socket is paused at twice that, so a slow client costs little memory
_LARGE: Final = 1024 * 1024  # bytes; aiohttp writes a body above that piece by piece only from a file object
_RETRIED: Final = frozenset({429, 500, 502, 503, 504})
_TROUBLED: Final = frozenset({502, 503, 504})  # of the server itself; 429 and 500 may lie in the one request
_HOP: Final = frozenset({"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})
_KEYS: Final = frozenset({"api-key", "authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key"})
_BODY: Final = frozenset({"content-encoding", "content-length", "content-type"})
_SERVER: Final = frozenset({"alt-svc", "date", "location", "openai-organization", "openai-project", "server", "via"})
_NOT_SENT: Final = _HOP | _KEYS | _BODY | {"accept-encoding", "expect", "host"}
_NOT_RELAYED: Final = _HOP | _KEYS | _BODY | _SERVER | {"proxy-authenticate", "www-authenticate", "x-powered-by", "x-served-by"}
_log = logging.getLogger(__name__)


class DroppedError(GatewayError):
    """The upstream broke off, or the deadline passed, after its answer had begun."""


class Answer:
    """An upstream's response that has begun. Whoever got it calls `close`, whatever happened.

    `headers` are those that may go to the client: names in lower case, without content-type. `content_type` is the media type
    without parameters.
    """

    __slots__ = (
        "_complete",
        "_first",
        "_late",
        "_lease",
        "_response",
        "_timer",
        "content_type",
        "headers",
        "status",
        "variant",
    )

    def __init__(self, response: aiohttp.ClientResponse, first: bytes, lease: _Lease, deadline: float | None) -> None:
        """`first` is what was read of the body: all of it when `deadline` (the loop's time) is None."""
        key = lease.replica.key
        self.status, self.content_type = response.status, response.content_type
        self.headers, self.variant = _relayed(response, key), lease.replica.variant.name
        self._response, self._lease, self._late = response, lease, False
        self._timer: asyncio.TimerHandle | None = None
        if key and self.status >= 400:
            first = first.replace(key.encode(), b"***")  # some servers repeat the key that they refuse
        self._first, self._complete = first, deadline is None
        if deadline is None:
            lease.release()
        else:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    async def body(self) -> bytes:
        """The whole body, decompressed. Raises DroppedError as `chunks` does, and when it is longer than `MAX_ANSWER`."""
        if self._complete:
            return self._first
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER:
                raise DroppedError(502, f"The upstream's answer is longer than {MAX_ANSWER} bytes", kind="server_error")
        return b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, once. Raises DroppedError (502, or 504 after the deadline) when it does not come to its end."""
        first, self._first = self._first, b""
        if first:
            yield first
        content = self._response.content
        try:
            while chunk := await content.readany():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            self._lease.replica.failed(gone=False)
            if self._late:
                raise DroppedError(
                    504, "The upstream did not finish in time", kind="timeout", code="upstream_timeout"
                ) from error
            raise DroppedError(
                502, "The upstream broke off its answer", kind="server_error", code="upstream_dropped"
            ) from error
        self._release()

    async def close(self) -> None:
        """Give the replica free. What has not come yet is cancelled: the connection is closed, so that the server stops."""
        self._release()

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._response.close()  # keeps a connection whose response has ended
        self._lease.release()

    def _expire(self) -> None:
        self._late = True
        self._response.content.set_exception(TimeoutError())
        self._release()


class _Lease:
    """A request that counts as in flight at a replica, until released."""

    __slots__ = ("_held", "replica")

    def __init__(self, replica: Replica) -> None:
        self.replica, self._held = replica, True
        replica.in_flight += 1

    def release(self) -> None:
        if self._held:
            self._held = False
            self.replica.in_flight -= 1


class _FailedError(Exception):
    """One try failed. `answer` is the upstream's own response, if one came; `again`: the same replica may be asked."""

    def __init__(self, reason: str, answer: Answer | None = None, *, again: bool = False, late: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.answer, self.again, self.late = reason, answer, again, late


class Upstreams:
    """All replicas of all variants. Raises ConfigError when a key is named but not set."""

    _session: aiohttp.ClientSession
    _checks: HealthChecks

    def __init__(self, config: GatewayConfig) -> None:
        self._times = config.upstream
        self._ladder = config.ladder
        self._pools = {variant.name: Pool(variant) for variant in config.variants}
        self._budget = RetryBudget(config.upstream.retry_budget)
        self._urls: dict[tuple[str, str], URL] = {}

    async def start(self) -> None:
        """Open the connection pool and check every replica once; call it in the event loop that will serve."""
        self._session = aiohttp.ClientSession(
            connector=Connector(self._times.connect),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BUFFER,
            skip_auto_headers=("accept", "user-agent"),
        )
        replicas = [replica for pool in self._pools.values() for replica in pool.replicas]
        self._checks = HealthChecks(self._session, replicas, self._times.health, self._times.connect)
        await self._checks.start()

    async def close(self) -> None:
        """Stop the checks and close every connection."""
        await self._checks.close()
        await self._session.close()

    def saturated(self, variant: str) -> bool:
        """Whether no replica of the variant takes a further request now."""
        return self._pools[variant].saturated

    def ready(self) -> bool:
        """Whether any replica of any variant answers."""
        return any(pool.alive for pool in self._pools.values())

    def status(self) -> list[ReplicaStatus]:
        """Every replica, in the order of the configuration."""
        return [replica.status for pool in self._pools.values() for replica in pool.replicas]

    async def open(
        self,
        path: str,
        variant: str,
        body_for: Callable[[VariantConfig], bytes],
        *,
        affinity: str,
        headers: Mapping[str, str],
        stream: bool,
        attempts: list[Attempt],
        allow_fallback: bool = True,
        lowest: str | None = None,
    ) -> Answer:
        """POST `body_for(variant)` to `path` at a replica. Returns with the body's first part, or without `stream` all of it.

        No fallback goes below `lowest`.

        `headers` are the client's that may be passed on; keys among them are not. Each try is appended to `attempts`. When
        all tries failed, the last error response of an upstream is the answer. Raises GatewayError: 502 or 504 when there
        is none, 503 (overloaded, with retry-after) when no replica takes a request.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._times.total
        self._budget.request(loop.time())
        failure: _FailedError | None = None
        relayed: Answer | None = None
        spent = False
        tried: dict[Replica, bool] = {}  # with whether it may be asked again
        for replica in self._route(variant, affinity, tried, allow_fallback, lowest):
            started = loop.time()
            spent = bool(tried)
            if tried and (started >= deadline or not self._budget.retry(started)):
                break
            body = body_for(replica.variant)
            answer: Answer | None = None
            error: str | None = "cancelled"
            try:
                answer = await self._try(replica, path, body, headers, stream, deadline)
                error = None
                return answer
            except _FailedError as failed:
                failure, error, answer = failed, failed.reason, failed.answer
                if answer is not None and answer.status >= 400:  # a redirection is of no use to a client
                    relayed = answer
                tried[replica] = failed.again
                _log.info("a try at %s (%s) failed: %s", replica.url, replica.variant.name, failed.reason)
            finally:
                status = None if answer is None else answer.status
                attempts.append(Attempt(replica.variant.name, replica.url, status, loop.time() - started, error))
        if failure is None:
            raise GatewayError(
                503, "All upstreams are busy; try again", kind="server_error", code="overloaded", headers={"retry-after": "1"}
            )
        return _last_word(failure, relayed, spent)

    def _route(
        self, variant: str, affinity: str, tried: Mapping[Replica, bool], fallback: bool, lowest: str | None
    ) -> Iterator[Replica]:
        """The replicas to try, in order; `tried` grows meanwhile. Those that seem down are asked when all do."""
        at = self._ladder.index(variant)
        bottom = 0 if lowest is None else self._ladder.index(lowest)
        others = [*self._ladder[at + 1 :], *reversed(self._ladder[bottom:at])] if fallback else []
        first, *rest = pools = [self._pools[name] for name in (variant, *others)]
        desperate = not any(pool.alive for pool in pools)
        if replica := first.pick(affinity, tried, desperate=desperate):
            yield replica
            # A connection is often dropped because it idled too long: a replica without a peer gets its second try.
            refused = [replica for replica, again in tried.items() if not again]
            if replica := first.pick(affinity, tried, desperate=desperate) or first.pick(
                affinity, refused, desperate=desperate
            ):
                yield replica
        for pool in rest:
            if replica := pool.pick(affinity, tried, desperate=desperate):
                yield replica

    async def _try(
        self, replica: Replica, path: str, body: bytes, headers: Mapping[str, str], stream: bool, deadline: float
    ) -> Answer:
        """One request to one replica. Raises _FailedError when another may be asked instead."""
        outgoing = {name: value for name, value in headers.items() if name.lower() not in _NOT_SENT}
        outgoing["accept-encoding"] = "identity"
        outgoing["content-type"] = "application/json"
        if replica.key is not None:
            outgoing["authorization"] = f"Bearer {replica.key}"
        loop = asyncio.get_running_loop()
        response: aiohttp.ClientResponse | None = None
        answer: Answer | None = None
        lease = _Lease(replica)
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + self._times.first_token) if stream else deadline):
                response = await self._session.post(
                    self._url(replica, path),
                    data=body if len(body) < _LARGE else io.BytesIO(body),
                    headers=outgoing,
                    allow_redirects=False,
                )
                good = 200 <= response.status < 300
                parts = stream and good
                first = await (response.content.readany() if parts else _whole(response))
            if good and not first:  # a generation is never empty: the server gave up before it began
                raise aiohttp.ServerDisconnectedError
            answer = Answer(response, first, lease, deadline if parts else None)
        except (aiohttp.ClientError, OSError) as error:
            raise _judged(replica, error) from error
        finally:
            if answer is None:
                lease.release()
                if response is not None:
                    response.close()
        if answer.status in _RETRIED or (answer.status < 400 and not good):
            if answer.status in _TROUBLED:
                replica.failed(gone=False)
            raise _FailedError(f"answered {answer.status}", answer)
        replica.succeeded()
        return answer

    def _url(self, replica: Replica, path: str) -> URL:
        url = self._urls.get((replica.url, path))
        if url is None:
            url = self._urls[replica.url, path] = URL(replica.url + path)
        return url


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises _FailedError when it is longer than `MAX_ANSWER`."""
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise _FailedError(f"answered with more than {MAX_ANSWER} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _judged(replica: Replica, error: Exception) -> _FailedError:
    """What a failed try means for the replica and for the next try."""
    name = type(error).__name__
    gone = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    replica.failed(gone)
    if gone:
        return _FailedError(f"cannot connect ({name})")
    if isinstance(error, TimeoutError):
        return _FailedError("no answer in time", late=True)
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return _FailedError(f"connection dropped ({name})", again=True)
    return _FailedError(f"no valid HTTP answer ({name})")


def _last_word(failure: _FailedError, answer: Answer | None, spent: bool) -> Answer:
    """The end of a request that nobody answered; `spent` says that our own retries are, and that the client's are no use."""
    headers = {"x-should-retry": "false"} if spent else {}
    if answer is not None:
        answer.headers = [*(header for header in answer.headers if header[0] not in headers), *headers.items()]
        return answer
    if failure.late:
        raise GatewayError(504, "No upstream answered in time", kind="timeout", code="upstream_timeout", headers=headers)
    raise GatewayError(502, "No upstream answered", kind="server_error", code="upstream_failed", headers=headers)


def _relayed(response: aiohttp.ClientResponse, key: str | None) -> list[tuple[str, str]]:
    """The response's headers that may go to a client, names in lower case."""
    named = ((name.lower(), value) for name, value in response.headers.items())
    return [(name, value) for name, value in named if _told(name) and not (key and key in value)]


def _told(name: str) -> bool:
    """Whether a client may see the header; which pages may read an answer is for its own server to say."""
    return name not in _NOT_RELAYED and not name.startswith(("access-control-", "x-bitroute-"))
