import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from bitroute.gateway.core.values import Call, Endpoint, Tokens, Turn
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.collect import Collector
from bitroute.gateway.wire.parse import forward, parse

TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "go", "arguments": '{"to": "shelf 1", "n": 1.0}'}}


def request(endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> Call:
    base = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"}
    return parse(endpoint, json.dumps({**base, **fields}).encode())


def chunk(*choices: Any, **fields: Any) -> bytes:
    return sse.encode(
        json.dumps({"id": "1", "object": "chat.completion.chunk", "model": "up", "choices": choices, **fields}).encode()
    )


def delta(index: int = 0, logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "logprobs": logprobs, "finish_reason": None}


def typed(**fields: Any) -> bytes:
    return sse.encode(json.dumps(fields).encode(), fields["type"])


def seen(collector: Collector, *events: bytes) -> list[Any]:
    """What the client gets, decoded."""
    sent = [collector.event(event) for event in events]
    return [json.loads(data) if (data := sse.data(event)) != b"[DONE]" else "[DONE]" for event in sent if event]


def completion(message: dict[str, Any], **fields: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice], **fields}
    ).encode()


# What is changed, and what is not


def test_a_whole_answer_keeps_its_bytes_but_for_the_model() -> None:
    body = b'{ "x":1.0, "model" : "up","choices":[ {"message":{"role":"assistant","content":"gr\\u00fc\xc3\x9fe"}} ]}'
    collector = Collector(request(), "low")
    assert collector.whole(body) == (
        b'{"x":1.0,"model":"low","choices":[ {"message":{"role":"assistant","content":"gr\\u00fc\xc3\x9fe"}} ]}'
    )
    assert collector.answer is not None and collector.answer.text == "grüße"
    assert collector.done and collector.failed is None and collector.malformed == 0
    assert json.loads(Collector(request(), None).whole(body))["model"] == "auto"
    assert Collector(request(), "up").whole(body) is body


def test_an_event_keeps_its_bytes_but_for_the_model() -> None:
    raw = b'id: 7\ndata: {"x":1.0, "model":"up","choices":[ {"index":0,"delta":{"content":"\\u00fc"}} ]}\n\n'
    assert Collector(request(stream=True), "low").event(raw) == (
        b'id: 7\ndata: {"x":1.0,"model":"low","choices":[ {"index":0,"delta":{"content":"\\u00fc"}} ]}\n\n'
    )
    assert Collector(request(stream=True), "up").event(raw) is raw


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("choices", ["[]", "[ ]", "null"])
def test_usage_reaches_the_client_that_asked(asked: bool, choices: str) -> None:
    collector = Collector(request(stream=True, stream_options={"include_usage": asked}), "low")
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
    last = f'data: {{"model":"up","choices":{choices},"usage":{json.dumps(usage)}}}\n\n'.encode()
    got = seen(
        collector,
        chunk(delta(content="a"), usage=None),
        chunk(delta(content="b"), usage={"prompt_tokens": 7}),
        last,
        b"data: [DONE]\n\n",
    )
    assert ["usage" in event for event in got[:2]] == [asked, asked]
    assert [event["choices"][0]["delta"]["content"] for event in got[:2]] == ["a", "b"]
    assert got[2:] == ([{"model": "low", "choices": json.loads(choices), "usage": usage}] if asked else []) + ["[DONE]"]
    assert collector.tokens == Tokens(prefill=2, cached=5, decode=2)
    assert collector.answer is not None and collector.answer.text == "ab"


def test_a_body_that_is_no_stream_keeps_its_usage() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None}
    collector = Collector(request(), "low")
    assert json.loads(collector.whole(completion({"role": "assistant", "content": "a"}, usage=usage)))["usage"] == usage
    assert collector.tokens == Tokens(prefill=7, decode=2)


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
@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_what_cannot_be_read_is_relayed(endpoint: Endpoint, raw: bytes) -> None:
    collector = Collector(request(endpoint, stream=True), "low")
    assert collector.event(raw) == raw
    assert collector.malformed == (sse.data(raw) is not None)
    assert collector.answer is None and collector.tokens is None and not collector.done


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
    collector = Collector(request(stream=True, stream_options={"include_usage": True}), "low")
    assert sse.data(collector.event(f'data: {{"model":"up",{odd}}}\n\n'.encode())) == f'{{"model":"low",{odd}}}'.encode()
    assert collector.malformed == 1
    whole = Collector(request(), "low")
    assert whole.whole(f'{{"model":"up",{odd.replace("delta", "message")}}}'.encode()).startswith(b'{"model":"low"')
    assert whole.malformed == 1


def test_errors_in_the_stream_are_relayed_and_noted() -> None:
    error = {"error": {"message": "secret prompt", "type": "server_error", "code": 500}}
    collector = Collector(request(stream=True), "low")
    got = seen(collector, chunk(delta(content="a")), sse.encode(json.dumps(error).encode()), b"data: [DONE]\n\n")
    assert got[1] == error and collector.done
    assert collector.failed == "the upstream sent an error (500)"
    for endpoint, event in [
        (Endpoint.MESSAGES, typed(type="error", error={"type": "overloaded_error", "message": "x"})),
        (Endpoint.RESPONSES, typed(type="error", code="overloaded_error", message="x", param=None)),
        (Endpoint.RESPONSES, typed(type="response.failed", response={"error": {"code": "overloaded_error"}, "output": []})),
    ]:
        collector = Collector(request(endpoint, stream=True), "low")
        assert collector.event(event) == event
        assert collector.failed == "the upstream sent an error (overloaded_error)"


def test_a_whole_answer_that_is_none() -> None:
    for body in (b"<html>", b"[]", b'{"error":{"message":"x"}}', b'{"error":"x"}', b"\xff", b"[" * 5000):
        collector = Collector(request(), "low")
        assert collector.whole(body) == body
        assert collector.failed is not None and not collector.done and collector.answer is None
    collector = Collector(request(), "low")
    assert collector.whole(b'{"choices":null}') == b'{"choices":null}' and collector.answer is None


def test_only_the_first_choice_is_read() -> None:
    collector = Collector(request(stream=True, n=2), "low")
    seen(
        collector,
        chunk(delta(1, content="x")),
        chunk(delta(0, content="a"), delta(1, content="y")),
        chunk(delta(0, content="b")),
    )
    assert collector.answer is not None and collector.answer.text == "ab"
    assert not collector.done


# The answer is what the next history repeats


def last_turn(messages: list[Any]) -> Turn:
    return request(messages=[{"role": "user", "content": "hi"}, *messages]).turns[-1]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "grüße 𝄞\n"},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "assistant", "content": "ok", "tool_calls": [TOOL_CALL, {**TOOL_CALL, "id": "c2"}], "reasoning_content": "hm"},
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": None, "function_call": {"name": "go", "arguments": "{}"}},
    ],
)
def test_streamed_and_whole_answers_and_histories_agree(message: dict[str, Any]) -> None:
    whole = Collector(request(), "low")
    whole.whole(completion(message))
    streamed = Collector(request(stream=True), "low")
    events = [chunk(delta(role="assistant", content=message["content"] and ""))]
    events += [chunk(delta(content=letter)) for letter in message["content"] or ""]
    if message.get("refusal"):
        events += [chunk(delta(refusal=letter)) for letter in message["refusal"]]
    if message.get("function_call"):
        events += [chunk(delta(function_call={"name": "go"})), chunk(delta(function_call={"arguments": "{}"}))]
    for index, call in enumerate(message.get("tool_calls", ())):
        head = {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": call["function"]["name"], "arguments": ""},
        }
        events.append(chunk(delta(tool_calls=[head])))
        for letter in call["function"]["arguments"]:
            events.append(chunk(delta(tool_calls=[{"index": index, "function": {"arguments": letter}}])))
    seen(streamed, *events)
    assert whole.answer == streamed.answer == last_turn([message])


def test_tool_calls_without_index_are_told_apart_by_their_ids() -> None:
    collector = Collector(request(stream=True), "low")
    for call in ("c1", "c2"):
        seen(
            collector,
            chunk(delta(tool_calls=[{"id": call, "function": {"name": "go", "arguments": '{"a'}}])),
            chunk(delta(tool_calls=[{"function": {"arguments": '":1}'}}])),
        )
    calls = [{"id": call, "type": "function", "function": {"name": "go", "arguments": '{"a":1}'}} for call in ("c1", "c2")]
    assert collector.answer == last_turn([{"role": "assistant", "tool_calls": calls}])


def test_content_in_parts_is_read_without_its_reasoning() -> None:
    collector = Collector(request(stream=True), "low")
    seen(
        collector,
        chunk(delta(content=[{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}])),
        chunk(delta(content="b")),
    )
    assert collector.answer is not None and collector.answer.text == "ab"


class Upstream(httpx.BaseTransport):
    """The gateway's reading of a request and of the scripted answer to it, behind the official client."""

    def __init__(self, endpoint: Endpoint, answer: Callable[[], list[bytes]]) -> None:
        self.endpoint, self.answer, self.calls, self.collectors = endpoint, answer, list[Call](), list[Collector]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = parse(self.endpoint, request.read())
        json.loads(forward(call, "low"))
        collector = Collector(call, "low")
        self.calls.append(call)
        self.collectors.append(collector)
        if call.stream:
            body = b"".join(collector.event(event) for event in self.answer())
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
        (answer,) = self.answer()
        return httpx.Response(200, headers={"content-type": "application/json"}, content=collector.whole(answer))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=httpx.Client(transport=self), max_retries=0)

    def agrees(self) -> bool:
        """The first answer is the last but one turn of the second request."""
        answer = self.collectors[0].answer
        return answer is not None and self.calls[1].turns[-2].digest == answer.digest


MESSAGE = {
    "role": "assistant",
    "content": "ok",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "reasoning_content": "hm",
    "tool_calls": [TOOL_CALL],
}


def test_the_official_client_repeats_the_answer_that_was_collected() -> None:
    upstream = Upstream(Endpoint.CHAT, lambda: [completion(MESSAGE)])
    with upstream.client() as client:
        messages: list[Any] = [{"role": "user", "content": "find it"}]
        message = client.chat.completions.create(model="auto", messages=messages).choices[0].message
        for repeated in (message, message.model_dump(), message.model_dump(exclude_none=True)):
            del upstream.calls[1:], upstream.collectors[1:]
            history = [*messages, repeated, {"role": "tool", "tool_call_id": "c1", "content": "a pan"}]
            client.chat.completions.create(model="auto", messages=history)
            assert upstream.agrees() and upstream.calls[1].tools == ("go",)


def test_the_official_client_repeats_a_streamed_answer() -> None:
    arguments = TOOL_CALL["function"]["arguments"]
    upstream = Upstream(
        Endpoint.CHAT,
        lambda: [
            chunk(delta(role="assistant", content="o"), created=1),
            chunk(delta(content="k", reasoning_content="hm"), created=1),
            chunk(delta(tool_calls=[{**TOOL_CALL, "index": 0, "function": {"name": "go", "arguments": ""}}]), created=1),
            chunk(delta(tool_calls=[{"index": 0, "function": {"arguments": arguments[:9]}}]), created=1),
            chunk(delta(tool_calls=[{"index": 0, "function": {"arguments": arguments[9:]}}]), created=1),
            chunk({"index": 0, "delta": {}, "finish_reason": "tool_calls"}, created=1),
            chunk(created=1, usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}),
            b"data: [DONE]\n\n",
        ],
    )
    with upstream.client() as client:
        state = ChatCompletionStreamState()
        messages: list[Any] = [{"role": "user", "content": "find it"}]
        for event in client.chat.completions.create(model="auto", messages=messages, stream=True):
            assert event.choices and event.model == "low"
            state.handle_chunk(event)
        message = state.get_final_completion().choices[0].message
        history = [*messages, message, {"role": "tool", "tool_call_id": "c1", "content": "a pan"}]
        list(client.chat.completions.create(model="auto", messages=history, stream=True))
    assert upstream.agrees()
    assert upstream.collectors[0].done and upstream.collectors[0].tokens == Tokens(prefill=3, decode=4)


def response(**fields: Any) -> dict[str, Any]:
    text = {"type": "output_text", "text": "ok", "annotations": [], "logprobs": []}
    return {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "model": "up",
        "status": "completed",
        "error": None,
        "output": [
            {"type": "reasoning", "id": "rs1", "summary": []},
            {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [text]},
            {"type": "function_call", "id": "f1", "call_id": "c1", "status": "completed", **TOOL_CALL["function"]},
        ],
        "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2, "total_tokens": 11},
        **fields,
    }


def response_events() -> list[bytes]:
    return [
        typed(type="response.created", sequence_number=0, response=response(output=[], usage=None, status="in_progress")),
        typed(
            type="response.output_text.delta",
            sequence_number=1,
            delta="ok",
            item_id="m1",
            output_index=1,
            content_index=0,
            logprobs=[],
        ),
        typed(type="response.completed", sequence_number=2, response=response()),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_responses(stream: bool) -> None:
    upstream = Upstream(Endpoint.RESPONSES, lambda: response_events() if stream else [json.dumps(response()).encode()])
    with upstream.client() as client:
        given: list[Any] = [{"role": "user", "content": "find it"}]
        if stream:
            events = list(client.responses.create(model="auto", input=given, stream=True))
            answers = [event.response for event in events if hasattr(event, "response")]
            assert [answer.model for answer in answers] == ["low", "low"] and len(events) == 3
            answer = answers[-1]
        else:
            answer = client.responses.create(model="auto", input=given)
            assert answer.model == "low"
        given += [*answer.output, {"type": "function_call_output", "call_id": "c1", "output": "a pan"}]
        if stream:
            list(client.responses.create(model="auto", input=given, stream=True))
        else:
            client.responses.create(model="auto", input=given)
    assert upstream.agrees() and upstream.calls[1].tools == ("go",)
    collector = upstream.collectors[0]
    assert collector.done and collector.malformed == 0 and collector.tokens == Tokens(prefill=5, cached=4, decode=2)
    assert collector.answer is not None and collector.answer.text == 'ok\ngo {"n":1,"to":"shelf 1"}'


def test_anthropic_messages() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "ok"},
        {"type": "tool_use", "id": "t1", "name": "go", "input": {"to": "shelf 1", "n": 1.0}},
    ]
    usage = {"input_tokens": 3, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 4, "output_tokens": 1}
    start = {"type": "message", "role": "assistant", "model": "up", "content": [], "usage": usage}
    arguments = '{"to": "shelf 1", "n": 1.0}'
    events = [
        typed(type="message_start", message=start),
        typed(type="ping"),
        typed(type="content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        typed(type="content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
        typed(type="content_block_stop", index=0),
        typed(type="content_block_start", index=1, content_block={"type": "text", "text": ""}),
        typed(type="content_block_delta", index=1, delta={"type": "text_delta", "text": "o"}),
        typed(type="content_block_delta", index=1, delta={"type": "text_delta", "text": "k"}),
        typed(type="content_block_start", index=2, content_block={"type": "tool_use", "id": "t1", "name": "go", "input": {}}),
        typed(type="content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": arguments[:7]}),
        typed(type="content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": arguments[7:]}),
        typed(type="message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 12}),
        typed(type="message_stop"),
    ]
    streamed = Collector(request(Endpoint.MESSAGES, stream=True), "low")
    sent = [streamed.event(event) for event in events]
    assert sent[1:] == events[1:] and sent[0].startswith(b"event: message_start\ndata: ")
    assert json.loads(sse.data(sent[0]) or b"") == {"type": "message_start", "message": {**start, "model": "low"}}
    whole = Collector(request(Endpoint.MESSAGES), "low")
    assert (
        json.loads(whole.whole(json.dumps({**start, "content": content, "usage": {**usage, "output_tokens": 12}}).encode()))[
            "model"
        ]
        == "low"
    )
    history = request(
        Endpoint.MESSAGES, messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
    )
    assert streamed.answer == whole.answer == history.turns[-1]
    assert streamed.tokens == whole.tokens == Tokens(prefill=7, cached=20, decode=12)
    assert streamed.done and whole.done and streamed.malformed == whole.malformed == 0


def test_completions() -> None:
    streamed = Collector(request(Endpoint.COMPLETIONS, stream=True), "low")
    got = seen(streamed, *[chunk({"index": 0, "text": letter}, usage=None) for letter in "go on"], b"data: [DONE]\n\n")
    whole = Collector(request(Endpoint.COMPLETIONS), "low")
    whole.whole(b'{"model":"up","choices":[{"index":0,"text":"go on"}]}')
    assert streamed.answer == whole.answer and streamed.done
    assert streamed.answer is not None and streamed.answer.text == "go on"
    assert [event["model"] for event in got[:-1]] == ["low"] * 5


# Tokens and certainty


def test_what_llama_cpp_measured_goes_before_usage() -> None:
    collector = Collector(request(), "low")
    timings = {"cache_n": 30, "prompt_n": 4, "prompt_ms": 1.5, "predicted_n": 9}
    collector.whole(
        completion({"role": "assistant", "content": "a"}, usage={"prompt_tokens": 34, "completion_tokens": 9}, timings=timings)
    )
    assert collector.tokens == Tokens(prefill=4, cached=30, decode=9)


def token(*shares: float) -> dict[str, Any]:
    listed = [{"token": str(index), "logprob": math.log(share), "bytes": None} for index, share in enumerate(shares)]
    return {**listed[0], "top_logprobs": listed}


@pytest.mark.parametrize(
    "told",
    [
        {"usage": {"prompt_tokens": 7, "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": -3}}},
        {"timings": {"prompt_n": 10, "predicted_n": -1, "cache_n": -1}},
    ],
)
def test_counts_that_cannot_be_are_none(told: dict[str, Any]) -> None:
    collector = Collector(request(), "low")
    collector.whole(completion({"role": "assistant", "content": "hi"}, **told))
    assert collector.tokens == Tokens(10, 0, 0)


def test_log_probabilities_above_zero_are_no_ones_overflow() -> None:
    token = {
        "token": "a",
        "logprob": 800.0,
        "top_logprobs": [{"token": "a", "logprob": 800.0}, {"token": "b", "logprob": -1.0}],
    }
    collector = Collector(request(stream=True, logprobs=True, top_logprobs=2), "low")
    collector.event(chunk(delta(content="a", logprobs={"content": [token]})))
    assert collector.signals is not None and collector.signals.margin == (1 - math.exp(-1),)


def test_signals_of_a_stream() -> None:
    collector = Collector(request(stream=True, logprobs=True, top_logprobs=2), "low")
    assert collector.signals is None
    for shares in [(0.5, 0.25), (0.9, 0.1)]:
        seen(collector, chunk(delta(content="a", logprobs={"content": [token(*shares)]})))
    seen(collector, chunk(delta()))
    signals = collector.signals
    assert signals is not None and signals.constrained == signals.logprobs == pytest.approx((math.log(0.5), math.log(0.9)))
    assert signals.margin == pytest.approx((0.25, 0.8))
    assert signals.entropy == pytest.approx((1.5 * math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)))


def test_signals_of_whole_answers() -> None:
    logprobs = {"content": [token(0.5, 0.25)]}
    answer = {"model": "up", "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}, "logprobs": logprobs}]}
    chat = Collector(request(logprobs=True, top_logprobs=2), "low")
    chat.whole(json.dumps(answer).encode())
    old = {"tokens": ["a"], "token_logprobs": [math.log(0.5)], "top_logprobs": [{"a": math.log(0.5), "b": math.log(0.25)}]}
    text = Collector(request(Endpoint.COMPLETIONS, logprobs=2), "low")
    text.whole(json.dumps({"model": "up", "choices": [{"index": 0, "text": "a", "logprobs": old}]}).encode())
    output = [
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "a", "logprobs": logprobs["content"]}],
        }
    ]
    responses = Collector(request(Endpoint.RESPONSES, top_logprobs=2), "low")
    responses.whole(json.dumps({"model": "up", "output": output}).encode())
    for collector in (chat, text, responses):
        assert collector.malformed == 0 and collector.signals is not None
        assert collector.signals.margin == pytest.approx((0.25,))
        assert collector.signals.entropy == pytest.approx((1.5 * math.log(2),))


@pytest.mark.parametrize("asked", [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 1}, {"top_logprobs": "2"}])
def test_no_signals_unless_alternatives_were_asked_for(asked: dict[str, Any]) -> None:
    collector = Collector(request(stream=True, **asked), "low")
    seen(collector, chunk(delta(content="a", logprobs={"content": [token(0.5, 0.25)]})))
    assert collector.signals is None


def test_no_signals_where_a_token_lacks_alternatives() -> None:
    collector = Collector(request(stream=True, logprobs=True, top_logprobs=2), "low")
    for shares in [(0.5, 0.25), (1.0,), (0.5, 0.25)]:
        seen(collector, chunk(delta(content="a", logprobs={"content": [token(*shares)]})))
    assert collector.signals is None
    extreme = {"token": "a", "logprob": -3.4e38, "top_logprobs": [{"logprob": 0.0}, {"logprob": -3.4e38}]}
    collector = Collector(request(stream=True, logprobs=True, top_logprobs=2), "low")
    seen(collector, chunk(delta(content="a", logprobs={"content": [extreme]})))
    assert collector.signals is not None and collector.signals.entropy == (0.0,) and collector.signals.margin == (1.0,)
