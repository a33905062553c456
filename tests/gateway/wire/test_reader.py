"""Answers on their way through: what changes, what is noted, what cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bitroute.gateway.core.values import Tokens
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.dialects.dialect import Dialect
from support.wire import ALL, MESSAGES, RESPONSES, chunk, completion, delta, prompted, reader, seen, typed


def test_a_whole_answer_keeps_its_bytes_but_for_the_model() -> None:
    body = b'{ "x":1.0, "model" : "up","choices":[ {"message":{"role":"assistant","content":"gr\\u00fc\xc3\x9fe"}} ]}'
    reading = reader(prompted(), "low")
    assert reading.whole(body) == (
        b'{"x":1.0,"model":"low","choices":[ {"message":{"role":"assistant","content":"gr\\u00fc\xc3\x9fe"}} ]}'
    )
    assert reading.answer is not None and reading.answer.text == "grüße"
    assert reading.done and reading.failed is None and reading.malformed == 0
    assert json.loads(reader(prompted(), None).whole(body))["model"] == "auto"
    assert reader(prompted(), "up").whole(body) is body


def test_an_event_keeps_its_bytes_but_for_the_model() -> None:
    raw = b'id: 7\ndata: {"x":1.0, "model":"up","choices":[ {"index":0,"delta":{"content":"\\u00fc"}} ]}\n\n'
    assert reader(prompted(stream=True), "low").event(raw) == (
        b'id: 7\ndata: {"x":1.0,"model":"low","choices":[ {"index":0,"delta":{"content":"\\u00fc"}} ]}\n\n'
    )
    assert reader(prompted(stream=True), "up").event(raw) is raw


def test_a_body_that_is_no_stream_keeps_its_usage() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None}
    reading = reader(prompted(), "low")
    assert json.loads(reading.whole(completion({"role": "assistant", "content": "a"}, usage=usage)))["usage"] == usage
    assert reading.tokens == Tokens(prefill=7, decode=2)


@pytest.mark.parametrize(
    "raw",
    [
        b": keep-alive\n\n",
        b"\n",
        b"event: ping\n\n",
        b"data: {\n\n",
        b"data: \xff\n\n",
        b"data: []\n\n",
        b"data: 5\n\n",
        b'data: {"model":"up","choices":[{"delta":"\\ud83d"}]}\n\n',
        b"data: " + b"[" * 5000 + b"\n\n",
    ],
)
@pytest.mark.parametrize("dialect", ALL)
def test_what_cannot_be_read_is_relayed(dialect: Dialect, raw: bytes) -> None:
    reading = reader(prompted(dialect, stream=True), "low")
    assert reading.event(raw) == raw
    assert reading.malformed == (sse.data(raw) is not None)
    assert reading.answer is None and reading.tokens is None and not reading.done


@pytest.mark.parametrize(
    "odd",
    [
        '"choices":5',
        '"choices":[5]',
        '"choices":[{"delta":5}]',
        '"choices":[{"index":0,"delta":{"content":5}}]',
        '"usage":5',
        '"timings":{}',
    ],
)
def test_odd_values_are_relayed_and_counted(odd: str) -> None:
    reading = reader(prompted(stream=True, stream_options={"include_usage": True}), "low")
    assert sse.data(reading.event(f'data: {{"model":"up",{odd}}}\n\n'.encode())) == f'{{"model":"low",{odd}}}'.encode()
    assert reading.malformed == 1
    whole = reader(prompted(), "low")
    assert whole.whole(f'{{"model":"up",{odd.replace("delta", "message")}}}'.encode()).startswith(b'{"model":"low"')
    assert whole.malformed == 1


def test_errors_in_the_stream_are_relayed_and_noted() -> None:
    error = {"error": {"message": "secret prompt", "type": "server_error", "code": 500}}
    reading = reader(prompted(stream=True), "low")
    got = seen(reading, chunk(delta(content="a")), sse.encode(json.dumps(error).encode()), b"data: [DONE]\n\n")
    assert got[1] == error and reading.done
    assert reading.failed == "the upstream sent an error (500)"
    for dialect, event in [
        (MESSAGES, typed(type="error", error={"type": "overloaded_error", "message": "x"})),
        (RESPONSES, typed(type="error", code="overloaded_error", message="x", param=None)),
        (RESPONSES, typed(type="response.failed", response={"error": {"code": "overloaded_error"}, "output": []})),
    ]:
        reading = reader(prompted(dialect, stream=True), "low")
        assert reading.event(event) == event
        assert reading.failed == "the upstream sent an error (overloaded_error)"


def test_a_whole_answer_that_is_none() -> None:
    for body in (b"<html>", b"[]", b'{"error":{"message":"x"}}', b'{"error":"x"}', b"\xff", b"[" * 5000):
        reading = reader(prompted(), "low")
        assert reading.whole(body) == body
        assert reading.failed is not None and not reading.done and reading.answer is None
    reading = reader(prompted(), "low")
    assert reading.whole(b'{"choices":null}') == b'{"choices":null}' and reading.answer is None


def test_what_llama_cpp_measured_goes_before_usage() -> None:
    reading = reader(prompted(), "low")
    timings = {"cache_n": 30, "prompt_n": 4, "prompt_ms": 1.5, "predicted_n": 9}
    reading.whole(
        completion({"role": "assistant", "content": "a"}, usage={"prompt_tokens": 34, "completion_tokens": 9}, timings=timings)
    )
    assert reading.tokens == Tokens(prefill=4, cached=30, decode=9)


@pytest.mark.parametrize(
    "told",
    [
        {"usage": {"prompt_tokens": 7, "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": -3}}},
        {"timings": {"prompt_n": 10, "predicted_n": -1, "cache_n": -1}},
    ],
)
def test_counts_that_cannot_be_are_none(told: dict[str, Any]) -> None:
    reading = reader(prompted(), "low")
    reading.whole(completion({"role": "assistant", "content": "hi"}, **told))
    assert reading.tokens == Tokens(10, 0, 0)
