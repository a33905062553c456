"""The gateway's public port: from a generating request to its relayed answer. It holds the parts together.

What parts know stays there: bodies in `wire`, episodes in `sessions`, decisions in `routing`, replicas in `upstreams`, the few
other endpoints in `resources`. A client that goes away cancels what is under way for it, at any time. No response is changed
once it has begun.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bitroute.gateway.auth.keys import Keys
from bitroute.gateway.core.config import GatewayConfig, VariantConfig
from bitroute.gateway.core.values import Call, GatewayError, Outcome, RoutingDecision, StepContext
from bitroute.gateway.http.connection import (
    CancelOnDisconnect,
    DisconnectedError,
    Exchange,
    decision_headers,
    keep_alive,
    read_body,
    read_headers,
)
from bitroute.gateway.http.resources import Resources, not_allowed
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.routing.policy import Policy
from bitroute.gateway.sessions.identity import identify
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.telemetry.metrics import Metrics
from bitroute.gateway.upstreams.upstreams import Answer, Upstreams
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.dialects.dialect import Dialect
from bitroute.gateway.wire.dialects.registry import DIALECTS, dialect_of_errors
from bitroute.gateway.wire.reader import AnswerReader

if TYPE_CHECKING:
    from bitroute.gateway.telemetry.spans import Telemetry  # its libraries are an extra

_log = logging.getLogger(__name__)

PASSED_ON: Final = frozenset(
    {"accept", "anthropic-beta", "anthropic-version", "openai-beta", "traceparent", "tracestate", "user-agent", "x-request-id"}
)


class Gateway:
    """The ASGI application. Its parts are started and closed by whoever made them."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        policy: Policy,
        sessions: Sessions,
        upstreams: Upstreams,
        recorder: Recorder,
        keys: Keys,
        metrics: Metrics,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.config = config
        self.policy, self.sessions, self.upstreams = policy, sessions, upstreams
        self.recorder, self.keys, self.metrics = recorder, keys, metrics
        self.telemetry = telemetry
        self.in_flight = 0
        self.draining = False
        self._resources = Resources(
            config,
            policy=policy,
            sessions=sessions,
            recorder=recorder,
            keys=keys,
            ready=upstreams.ready,
            draining=lambda: self.draining,
        ).router()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure has the shape of its dialect."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        dialect = DIALECTS.get(path)
        if dialect is not None and method == "POST":
            await self._generate(dialect, scope, receive, send)
            return
        try:
            if dialect is not None:
                raise not_allowed(method, path, "POST")
            await self._resources(scope, receive, send)
        except GatewayError as error:
            body = dialect_of_errors(path).error(error)
            await Response(body, error.status, error.headers, "application/json")(scope, receive, send)
        except DisconnectedError:
            pass

    async def _generate(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        """Route, relay and record one generating request."""
        exchange = Exchange(dialect, read_headers(scope), time.perf_counter(), send)
        self.in_flight += 1
        try:
            await self._answer_or_fail(exchange, scope, receive)
        finally:
            self.in_flight -= 1
            self._account(exchange)

    async def _answer_or_fail(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        """Answer, and turn whatever goes wrong into an error of the right shape."""
        outcome = exchange.outcome
        try:
            await self._answer(exchange, scope, receive)
        except GatewayError as error:
            await self._fail(exchange, error)
        except DisconnectedError:
            outcome.ended = "cancelled"
        except asyncio.CancelledError:
            await self._stop(exchange)
        except Exception:
            _log.exception("a request to %s failed inside the gateway", exchange.dialect.path)
            await self._fail(exchange, GatewayError(500, "The gateway failed; see its log", kind="server_error"))
        finally:
            # Also for a client that went away: its next try must not find this one still unanswered.
            if exchange.context is not None and not exchange.recorded:
                await asyncio.shield(self._end_step(exchange))

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive) -> None:
        client = exchange.client = self.keys.authenticate(exchange.headers)
        if self.in_flight > self.config.server.max_requests or self.draining:
            raise GatewayError(
                503, "The gateway is busy; try again", kind="server_error", code="overloaded", headers={"retry-after": "1"}
            )
        body = await read_body(scope, exchange.headers, receive, self.config.server.max_body)
        exchange.arrived = time.perf_counter()
        call = exchange.call = exchange.dialect.parse(body)
        forced = exchange.headers.get("x-bitroute-force")
        requested = self.policy.resolve(call.model, client.force or forced, client.floor)
        exchange.limits = self.keys.admit(client, forced or call.model)
        exchange.caller = identify(call, exchange.headers, client.scope, self.config.sessions.headers)
        async with CancelOnDisconnect(exchange, receive):
            context = exchange.context = await self.sessions.enter(exchange.caller, call)
            routing = exchange.routing = await self.policy.decide(context, call, requested, self.upstreams.saturated)
            await self.sessions.note_routing(context, routing)
            await self._relay(exchange, call, context, routing)

    async def _relay(self, exchange: Exchange, call: Call, context: StepContext, routing: RoutingDecision) -> None:
        """Send the request upstream and what comes back to the client."""
        outcome = exchange.outcome
        outcome.overhead = time.perf_counter() - exchange.arrived

        def body_for(variant: VariantConfig) -> bytes:
            return exchange.dialect.forward(call, variant.model or variant.name)

        answer = await self.upstreams.open(
            call.endpoint,
            routing.decision.variant,
            body_for,
            affinity=context.episode,
            headers={name: value for name, value in exchange.headers.items() if name in PASSED_ON},
            stream=call.stream,
            attempts=outcome.attempts,
            allow_fallback=routing.budget is not None,
            lowest=routing.floor,
        )
        try:
            outcome.variant, outcome.status = answer.variant, answer.status
            outcome.first_token = time.perf_counter() - exchange.arrived
            shown = call.model if self.config.server.model_name == "client" else answer.variant
            reader = exchange.dialect.reader(call, shown)
            if answer.content_type == "text/event-stream":
                await self._stream(exchange, answer, reader)
            else:
                await self._whole(exchange, answer, reader)
        finally:
            await answer.close()

    async def _whole(self, exchange: Exchange, answer: Answer, reader: AnswerReader) -> None:
        """Relay an answer that comes in one piece; an error without a shape gets ours."""
        body, outcome = await answer.body(), exchange.outcome
        if answer.status >= 400:
            if not exchange.dialect.is_error(body):
                kind = "server_error" if answer.status >= 500 else "invalid_request_error"
                text = body[:500].decode("utf-8", "replace") or "no message"
                body = exchange.dialect.error(GatewayError(answer.status, f"The upstream refused: {text}", kind=kind))
        else:
            body = reader.whole(body)
            _note_answer(outcome, reader)
            outcome.ended = "error" if reader.failed else "complete"
        await self._end_step(exchange)
        content_type = "application/json" if answer.status >= 400 else answer.content_type
        await self._start(
            exchange, answer.status, [("content-type", content_type), ("content-length", str(len(body)))], answer.headers
        )
        await exchange.finish(body)

    async def _stream(self, exchange: Exchange, answer: Answer, reader: AnswerReader) -> None:
        """Relay a stream of events, each as it comes."""
        outcome, splitter = exchange.outcome, sse.Splitter()
        await self._start(
            exchange, answer.status, [("content-type", "text/event-stream"), ("cache-control", "no-cache")], answer.headers
        )
        outcome.ended = "dropped"
        try:
            async with keep_alive(exchange):
                async for chunk in answer.chunks():
                    out = b"".join(reader.event(event) for event in splitter.feed(chunk))
                    if reader.done and not exchange.recorded:
                        _note_answer(outcome, reader)
                        outcome.ended = "error" if reader.failed else "complete"
                        await self._end_step(exchange)
                    if out:
                        await exchange.send_chunk(out)
            whole, tail = reader.malformed, splitter.tail()
            last = reader.event(tail + b"\n\n") if tail else b""
            if last and reader.malformed == whole:  # an event that was cut off must not pass for a broken one
                await exchange.send_chunk(last)
            if not reader.done:
                raise GatewayError(502, "The upstream ended its stream too early", kind="server_error", code="upstream_dropped")
        except GatewayError as error:
            _note_answer(outcome, reader)
            await self._end_with_error_event(exchange, error)
            return
        await exchange.finish()

    async def _end_with_error_event(self, exchange: Exchange, error: GatewayError) -> None:
        """End a stream that has begun: the status is long sent, so the error travels as an event in place of its end."""
        await self._end_step(exchange)
        await exchange.send_chunk(exchange.dialect.error_event(error))
        await exchange.finish()

    async def _start(
        self, exchange: Exchange, status: int, own: list[tuple[str, str]], passed: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send the response's status and headers: its own, what the upstream's response had, what the gateway adds."""
        exchange.headers_sent, exchange.last_sent_at = True, time.perf_counter()
        exchange.outcome.status = status
        ours = [*own, *exchange.limits.items(), *decision_headers(exchange)]
        names = {name for name, _ in ours}
        lines = [*ours, *[line for line in passed if line[0] not in names]]
        headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in lines]
        await exchange.send({"type": "http.response.start", "status": status, "headers": headers})

    async def _fail(self, exchange: Exchange, error: GatewayError) -> None:
        """Answer with an error, where no answer has begun."""
        outcome = exchange.outcome
        outcome.ended = "error"
        if exchange.headers_sent:
            return
        await self._end_step(exchange)
        body = exchange.dialect.error(error)
        own = [("content-type", "application/json"), ("content-length", str(len(body)))]
        await self._start(exchange, error.status, own, list(error.headers.items()))
        await exchange.finish(body)

    async def _stop(self, exchange: Exchange) -> None:
        """End a request because the gateway stops, and has waited long enough."""
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        headers = {"retry-after": "1"}
        error = GatewayError(503, "The gateway is stopping; try again", kind="server_error", code="stopping", headers=headers)
        if exchange.headers_sent and not exchange.finished:
            await self._end_with_error_event(exchange, error)
        else:
            await self._fail(exchange, error)

    async def _end_step(self, exchange: Exchange) -> None:
        """Tell the session how the step ended, once, and before the client can know."""
        if exchange.context is not None and not exchange.recorded:
            exchange.recorded = True
            try:
                await self.sessions.leave(exchange.context, exchange.routing, exchange.outcome)
            except asyncio.CancelledError:
                exchange.recorded = False  # perhaps it does not know: the request's end tells it again
                raise

    def _account(self, exchange: Exchange) -> None:
        """Count and record, whatever the end was."""
        outcome, call, context, routing = exchange.outcome, exchange.call, exchange.context, exchange.routing
        outcome.total = time.perf_counter() - exchange.arrived
        self.metrics.observe(exchange.dialect.path, routing, outcome)
        if self.telemetry is not None:
            self.telemetry.observe(exchange.headers, exchange.dialect.operation, call, context, routing, outcome)
        if call is None or context is None or exchange.caller is None or exchange.client is None:
            return
        cost = self.recorder.step(exchange.caller, call, context, routing, outcome)
        if routing is not None:
            self.policy.observe(context, routing, outcome)
        if outcome.tokens is not None:
            self.keys.charge(exchange.client, outcome.tokens, cost)


def _note_answer(outcome: Outcome, reader: AnswerReader) -> None:
    """What was read of an answer. One that broke off is none: asked again, its step stands where it stood."""
    outcome.tokens = reader.tokens
    if reader.done and reader.failed is None:
        outcome.answer, outcome.signals = reader.answer, reader.signals
