"""The published description: made of what is read, without a gap between the two."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema_rs import Draft202012Validator

from bitroute.gateway.core.values import GatewayError
from bitroute.gateway.http.openapi import openapi_document
from bitroute.gateway.wire.dialects.dialect import Dialect
from support.wire import ALL, CHAT, COMPLETIONS, MESSAGES, RESPONSES, request, user


def body_of(dialect: Dialect) -> dict[str, Any]:
    """The schema of a request's body, with what it refers to."""
    found = openapi_document(("low", "high"))
    body = found["paths"][dialect.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return {**body, "components": found["components"]}


BODIES: dict[str, list[dict[str, Any]]] = {
    CHAT.path: [
        {"messages": [user("x")]},
        {"messages": [user(None)], "stream": None},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]}]},
        {"messages": [user(["a", {"type": "image", "x": 1}])], "stream": True, "stream_options": {"include_usage": None}},
        {"messages": [user("x")], "stream_options": 5},
        {"messages": []},
        {"messages": [{"content": "x"}]},
        {"messages": [user(5)]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}]},
        {"messages": [user("x")], "stream": "yes"},
        {"messages": [user("x")], "stream": True, "stream_options": 5},
        {"messages": [user("x")], "stream": True, "stream_options": {"include_usage": "yes"}},
        {},
    ],
    COMPLETIONS.path: [
        {"prompt": "x"},
        {"prompt": ["x", 7, [1, 2]]},
        {"prompt": []},
        {"prompt": [[1, "a"]]},
        {"prompt": None},
        {},
    ],
    RESPONSES.path: [
        {"input": "x", "instructions": ["be brief"]},
        {"input": [{"type": "message", "role": 5}, {"x": 1}]},
        {"previous_response_id": "r"},
        {"conversation": {"id": "c"}},
        {"input": []},
        {"input": ["x"]},
        {"input": [{"type": 5}]},
        {"input": "x", "instructions": 5},
        {},
    ],
    MESSAGES.path: [
        {"messages": [user([{"type": "text"}, 5])], "system": None},
        {"messages": [user(None)]},
        {"messages": [user("x")], "system": {}},
        {"messages": "x"},
        {},
    ],
}


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [pytest.param(dialect, fields, id=f"{dialect.path} {fields}") for dialect in ALL for fields in BODIES[dialect.path]],
)
def test_what_is_accepted_is_what_is_described(dialect: Dialect, fields: dict[str, Any]) -> None:
    described = Draft202012Validator(body_of(dialect)).is_valid({"model": "auto", **fields})
    try:
        request(dialect, **fields)
        accepted = True
    except GatewayError:
        accepted = False
    assert described == accepted


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.path)
def test_errors_are_as_described(dialect: Dialect) -> None:
    found = openapi_document(("low", "high"))
    schema = found["paths"][dialect.path]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    error = GatewayError(400, "no", code="invalid_type", param="x")
    Draft202012Validator({**schema, "components": found["components"]}).validate(json.loads(dialect.error(error)))


def test_two_dialects_that_describe_one_name_otherwise_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MESSAGES, "schema", lambda: ({"properties": {}}, {"ChatMessage": {"type": "string"}}))
    with pytest.raises(ValueError, match="/v1/messages: another dialect describes something else as ChatMessage"):
        openapi_document(("other", "ladder"))
