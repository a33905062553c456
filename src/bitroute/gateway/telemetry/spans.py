"""OpenTelemetry spans, made of a request once it has ended. It knows measurements and names, never what was said.

A request is a server span below the client's own (`traceparent`), with a child for the decision and one for each try upstream.
Names follow OpenTelemetry's conventions for generative AI; what they do not know is below `bitroute.`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bitroute import __version__
from bitroute.gateway.core.values import Call, Outcome, RoutingDecision, StepContext


def otlp(endpoint: str) -> SpanExporter:
    """An exporter to an OTLP/HTTP collector, e.g. http://127.0.0.1:4318/v1/traces."""
    return OTLPSpanExporter(endpoint)


class Telemetry:
    """Turns ended requests into spans, which a thread of the exporter sends in batches."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": "bitroute", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("bitroute.gateway", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()

    def observe(
        self,
        headers: Mapping[str, str],
        operation: str,
        call: Call | None,
        context: StepContext | None,
        routing: RoutingDecision | None,
        outcome: Outcome,
    ) -> None:
        """One request at its end; its duration is `outcome.total`, `operation` what its dialect calls it."""
        end = time.time_ns()
        start = end - _nanoseconds(outcome.total)
        span = self._tracer.start_span(
            f"{operation} {call.model}" if call and context else operation,  # without a step the name may be anything
            context=self._propagator.extract({"traceparent": headers.get("traceparent", "")}),
            kind=SpanKind.SERVER,
            start_time=start,
            attributes={
                "gen_ai.operation.name": operation,
                "http.response.status_code": outcome.status,
                "bitroute.ended": outcome.ended,
            },
        )
        if call is not None and context is not None:
            span.set_attribute("gen_ai.request.model", call.model)
            span.set_attributes({"bitroute.episode": context.episode, "bitroute.step": context.step})
        if outcome.tokens is not None:
            tokens = outcome.tokens
            span.set_attributes(
                {"gen_ai.usage.input_tokens": tokens.prefill + tokens.cached, "gen_ai.usage.output_tokens": tokens.decode}
            )
        if outcome.variant is not None:
            span.set_attribute("gen_ai.response.model", outcome.variant)
        if routing is not None:
            self._children(span, routing, outcome, start + _nanoseconds(outcome.overhead))
        if outcome.ended in ("error", "dropped"):
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    def _children(self, parent: Span, routing: RoutingDecision, outcome: Outcome, at: int) -> None:
        """The decision, which ends when the request goes upstream, and the tries, one after the other."""
        context = set_span_in_context(parent)
        decision = routing.decision
        route = self._tracer.start_span("route", context, start_time=at - _nanoseconds(routing.seconds))
        route.set_attributes(
            {"bitroute.variant": decision.variant, "bitroute.reason": decision.reason, "bitroute.policy": routing.policy}
        )
        for name, value in (("score", decision.score), ("threshold", routing.threshold), ("budget", routing.budget)):
            if value is not None:
                route.set_attribute(f"bitroute.{name}", value)
        route.end(at)
        for attempt in outcome.attempts:
            span = self._tracer.start_span(f"try {attempt.variant}", context, SpanKind.CLIENT, start_time=at)
            span.set_attributes({"bitroute.variant": attempt.variant, "server.address": attempt.replica})
            if attempt.status is not None:
                span.set_attribute("http.response.status_code", attempt.status)
            if attempt.error is not None:
                span.set_attribute("error.type", attempt.error)
                span.set_status(Status(StatusCode.ERROR))
            at += _nanoseconds(attempt.seconds)
            span.end(at)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
