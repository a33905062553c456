"""Responses, with the official client in front."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bitroute.gateway.core.values import Tokens
from support.wire import RESPONSES, TOOL_CALL, Upstream, chat, request, typed, user


def test_responses_items_read_as_turns() -> None:
    call = request(
        RESPONSES,
        instructions="be brief",
        input=[
            user([{"type": "input_text", "text": "find it"}]),
            {"type": "reasoning", "id": "r1", "summary": []},
            {
                "type": "message",
                "id": "m1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "ok"}],
            },
            {"type": "function_call", "id": "f1", "call_id": "c1", "name": "go", "arguments": '{"to": 1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "a pan"},
        ],
    )
    assert [(turn.role, turn.text) for turn in call.turns] == [
        ("system", "be brief"),
        ("user", "find it"),
        ("assistant", 'ok\ngo {"to":1}'),
        ("user", "a pan"),
    ]
    assert call.tools == ("go",)
    as_chat = chat(
        user("find it"),
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [{"id": "c1", "function": {"name": "go", "arguments": '{"to":1}'}}],
        },
    )
    assert [turn.digest for turn in call.turns[1:3]] == [turn.digest for turn in as_chat.turns]


def test_responses_take_a_text_or_what_the_server_keeps() -> None:
    assert [turn.text for turn in request(RESPONSES, input="hi", instructions="").turns] == ["hi"]
    assert [turn.text for turn in request(RESPONSES, previous_response_id="r1").turns] == [""]
    odd = [{"type": "computer_call_output", "output": {"x": 1}, "call_id": "1"}, {"type": "item_reference", "id": "m1"}]
    assert [turn.role for turn in request(RESPONSES, input=odd).turns] == ["user", "assistant"]


def test_many_calls_in_a_row_are_read_once() -> None:
    calls = [{"type": "function_call", "call_id": str(i), "name": f"t{i}", "arguments": "{}"} for i in range(30_000)]
    last = {"type": "function_call_output", "call_id": "29999", "output": "x"}
    found = request(RESPONSES, input=[*calls, last])  # each anew with all before it would take minutes
    assert (len(found.turns), found.tools) == (2, ("t29999",))


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
    upstream = Upstream(RESPONSES, lambda: response_events() if stream else [json.dumps(response()).encode()])
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
    reading = upstream.readings[0]
    assert reading.done and reading.malformed == 0 and reading.tokens == Tokens(prefill=5, cached=4, decode=2)
    assert reading.answer is not None and reading.answer.text == 'ok\ngo {"n":1,"to":"shelf 1"}'
