"""Anthropic's messages, whole and in blocks."""

from __future__ import annotations

import json

import pytest

from bitroute.gateway.core.values import GatewayError, Tokens
from bitroute.gateway.wire import sse
from support.wire import MESSAGES, prompted, reader, request, typed, user


def test_anthropic_messages_read_as_turns() -> None:
    call = request(
        MESSAGES,
        system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        messages=[
            user("find it"),
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "ok"},
                    {"type": "tool_use", "id": "t1", "name": "go", "input": {"to": 1.0}},
                ],
            },
            user(
                [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a pan"}]},
                    {"type": "text", "text": "more"},
                ]
            ),
        ],
    )
    assert [(turn.role, turn.text) for turn in call.turns] == [
        ("system", "be brief"),
        ("user", "find it"),
        ("assistant", 'ok\ngo {"to":1}'),
        ("user", "a pan\nmore"),
    ]
    assert call.tools == ("go",)
    assert [turn.text for turn in request(MESSAGES, system="s", messages=[user("x")]).turns] == ["s", "x"]


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropic_names_errors_by_status(status: int, name: str) -> None:
    assert json.loads(MESSAGES.error(GatewayError(status, "x")))["error"]["type"] == name


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
    streamed = reader(prompted(MESSAGES, stream=True), "low")
    sent = [streamed.event(event) for event in events]
    assert sent[1:] == events[1:] and sent[0].startswith(b"event: message_start\ndata: ")
    assert json.loads(sse.data(sent[0]) or b"") == {"type": "message_start", "message": {**start, "model": "low"}}
    whole = reader(prompted(MESSAGES), "low")
    assert (
        json.loads(whole.whole(json.dumps({**start, "content": content, "usage": {**usage, "output_tokens": 12}}).encode()))[
            "model"
        ]
        == "low"
    )
    history = request(MESSAGES, messages=[{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}])
    assert streamed.answer == whole.answer == history.turns[-1]
    assert streamed.tokens == whole.tokens == Tokens(prefill=7, cached=20, decode=12)
    assert streamed.done and whole.done and streamed.malformed == whole.malformed == 0
