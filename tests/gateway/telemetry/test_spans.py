"""Spans of a request: names, times, parents, and nothing of its text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support import upstream as up
from support.gateway import chat, gateway_config, running
from support.upstream import ScriptedUpstream

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_request_becomes_a_span_below_the_clients_with_its_decision_and_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr("bitroute.gateway.telemetry.spans.otlp", lambda endpoint: exporter)

    async def main() -> None:
        async with ScriptedUpstream() as low, ScriptedUpstream([up.error(503), up.answer("two words")]) as high:
            config = gateway_config(
                tmp_path, low.url, [high.url, high.url], telemetry={"endpoint": "http://127.0.0.1:1/v1/traces"}
            )
            async with running(config) as gateway, aiohttp.ClientSession() as client:
                headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
                async with client.post(
                    gateway.url + "/v1/chat/completions", json=chat("secret words"), headers=headers
                ) as response:
                    assert response.status == 200

    asyncio.run(main())
    spans = {span.name: span for span in exporter.get_finished_spans()}
    request, route = spans["chat auto"], spans["route"]
    tries = [span for span in exporter.get_finished_spans() if span.name.startswith("try ")]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert [span.attributes["http.response.status_code"] for span in tries] == [503, 200]
    assert request.attributes["gen_ai.response.model"] == tries[-1].attributes["bitroute.variant"]
    assert request.attributes["gen_ai.usage.output_tokens"] == 2
    assert route.attributes["bitroute.reason"] == "always"
    assert all(span.parent.span_id == request.context.span_id for span in (route, *tries))
    assert request.start_time <= route.end_time <= tries[0].start_time <= tries[-1].end_time <= request.end_time
    assert not any("secret" in str(value) for span in spans.values() for value in span.attributes.values())
