"""Requests in every dialect: what is refused, what goes upstream, the tools of a step, the shape of errors."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.gateway.core.values import GatewayError
from bitroute.gateway.wire.dialects.dialect import Dialect
from bitroute.gateway.wire.dialects.registry import dialect_of_errors
from support.wire import ALL, CHAT, COMPLETIONS, MESSAGES, RESPONSES, chat, request, user

BODY = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'


def refused(dialect: Dialect, body: bytes | dict[str, Any]) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        dialect.parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert raised.value.status == 400 and raised.value.kind == "invalid_request_error"
    return raised.value


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"\xef\xbb\xbf" + BODY,
        BODY[:-1],
        BODY + b"x",
        BODY.replace(b"hi", b"\xff"),
        BODY.replace(b"hi", b"\xed\xa0\x80"),
        BODY.replace(b"hi", b"\\ud83d"),
        BODY[:-1] + b',"x":"\xff"}',
        BODY[:-1] + b',"x":NaN}',
        BODY[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        BODY[:-1] + b',"x":01}',
    ],
)
def test_what_is_no_json_object_is_refused_without_a_parameter(dialect: Dialect, body: bytes) -> None:
    assert refused(dialect, body).param is None


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": [user("x")]}, "model", "missing_required_parameter"),
        ({"model": None, "messages": [user("x")]}, "model", "invalid_type"),
        ({"model": "", "messages": [user("x")]}, "model", "invalid_value"),
        ({"model": 5, "messages": [user("x")]}, "model", "invalid_type"),
        ({"model": "auto"}, "messages", "missing_required_parameter"),
        ({"model": "auto", "messages": None}, "messages", "invalid_type"),
        ({"model": "auto", "messages": []}, "messages", "empty_array"),
        ({"model": "auto", "messages": "x"}, "messages", "invalid_type"),
        ({"model": "auto", "messages": [5]}, "messages[0]", "invalid_type"),
        ({"model": "auto", "messages": [user("x"), {"content": "x"}]}, "messages[1]", "invalid_type"),
        ({"model": "auto", "messages": [{"role": None}]}, "messages[0].role", "invalid_type"),
        ({"model": "auto", "messages": [user(5)]}, "messages[0].content", "invalid_type"),
        ({"model": "auto", "messages": [user({"a": 1})]}, "messages[0].content", "invalid_type"),
        (
            {"model": "auto", "messages": [{"role": "assistant", "tool_calls": [{"function": 5}]}]},
            "messages[0].tool_calls[0].function",
            "invalid_type",
        ),
        ({"model": "auto", "messages": [user("x")], "stream": "yes"}, "stream", "invalid_type"),
        ({"model": "auto", "messages": [user("x")], "stream": 1}, "stream", "invalid_type"),
        ({"model": "auto", "messages": [user("x")], "stream": True, "stream_options": 5}, "stream_options", "invalid_type"),
        (
            {"model": "auto", "messages": [user("x")], "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
        ),
    ],
)
def test_errors_name_the_parameter(body: dict[str, Any], param: str, code: str) -> None:
    error = refused(CHAT, body)
    assert (error.param, error.code) == (param, code)
    assert re.fullmatch(r"Invalid '[^']+': [^\n]+\.", error.message)


@pytest.mark.parametrize(
    ("dialect", "name", "bad"),
    [
        (COMPLETIONS, "prompt", [None, [], 5, {}, True, [None], [[1, "a"]], [1.5], [True]]),
        (RESPONSES, "input", [None, [], 5, {}, ["x"], [{"type": 5}]]),
        (MESSAGES, "messages", [None, [], 5, [{"role": "user"}], [user(None)]]),
    ],
)
def test_other_histories_are_refused_too(dialect: Dialect, name: str, bad: list[Any]) -> None:
    assert refused(dialect, {"model": "auto"}).param == name
    for value in bad:
        param = refused(dialect, {"model": "auto", name: value}).param
        assert param is not None and param.startswith(name), value


def test_what_stands_before_the_messages_is_named_where_it_is_at_fault() -> None:
    assert refused(RESPONSES, {"model": "auto", "input": "x", "instructions": 5}).param == "instructions"
    assert refused(MESSAGES, {"model": "auto", "messages": [user("x")], "system": {}}).param == "system"


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(ALL),
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(
            ["model", "messages", "prompt", "input", "stream", "stream_options", "system", "instructions", "tool_choice"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from(["user", "tool", "text"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "output"]
                    ),
                    inner,
                )
            ),
            max_leaves=8,
        ),
    ).map(lambda fields: json.dumps({"model": "m", **fields}).encode()),
)
def test_a_malformed_request_raises_nothing_else(dialect: Dialect, body: bytes) -> None:
    try:
        call = dialect.parse(body)
        json.loads(dialect.forward(call, "low"))
    except GatewayError as error:
        assert error.status == 400
        json.loads(dialect.error(error))


@pytest.mark.parametrize(
    "field", ["x", "messages", "input", "prompt", "system", "stream_options", "tool_choice", "tool_result", "arguments"]
)
def test_deep_nesting_is_read_or_refused(field: str) -> None:
    """At some depth the first look at a body still passes and a later one, further up the stack, would not."""
    read = 0
    for depth in [*range(5, 900, 45), *range(900, 1000, 5), 5000]:
        fields: dict[str, Any] = {
            "model": '"m"',
            "messages": '[{"role":"user","content":"x"}]',
            "input": '"x"',
            "prompt": '"x"',
        }
        fields["stream"] = "true"
        nest = "[" * depth + "]" * depth
        if field == "tool_result":
            block = '{"type":"tool_result","tool_use_id":"a","content":['
            fields["messages"] = '[{"role":"user","content":[' + block * depth + "]}" * depth + "]}]"
        elif field == "arguments":
            call = {"id": "1", "function": {"name": "f", "arguments": nest}}
            fields["messages"] = json.dumps([{"role": "assistant", "tool_calls": [call]}])
        else:
            fields[field] = '{"name":' + nest + "}" if field in ("stream_options", "tool_choice") else nest
        body = ("{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}").encode()
        for dialect in ALL:
            try:
                dialect.forward(dialect.parse(body), "low")
                read += 1
            except GatewayError as error:
                assert error.status == 400
    assert read > 0


def test_only_the_model_changes_and_values_keep_their_bytes() -> None:
    body = (
        b' {"model" : "auto", "temperature": 1.0, "top_p":1e-1, "seed":123456789012345678901234567890,"messages":'
        b'[ {"role":"user","content":"gr\\u00fc\xc3\x9fe \\/"} ], "vendor":{"b":[1.50, null],"a":{}} ,"stream_options":null}\n'
    )
    sent = CHAT.forward(CHAT.parse(body), "low")
    assert sent == (
        b'{"model":"low","temperature":1.0,"top_p":1e-1,"seed":123456789012345678901234567890,"messages":'
        b'[ {"role":"user","content":"gr\\u00fc\xc3\x9fe \\/"} ],"vendor":{"b":[1.50, null],"a":{}},"stream_options":null}'
    )


def test_of_a_key_given_twice_the_last_counts() -> None:
    call = CHAT.parse(b'{"model":"a","model":"b",' + BODY[16:])
    assert call.model == "b" and json.loads(CHAT.forward(call, "c"))["model"] == "c"


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("options", "wants", "sent"),
    [
        ("", False, {"include_usage": True}),
        (',"stream_options":null', False, {"include_usage": True}),
        (',"stream_options":{}', False, {"include_usage": True}),
        (',"stream_options":{"include_usage":false,"x":1.0}', False, {"include_usage": True, "x": 1.0}),
        (',"stream_options":{"include_usage":true}', True, {"include_usage": True}),
    ],
)
def test_streams_always_tell_usage(dialect: Dialect, options: str, wants: bool, sent: Any) -> None:
    body = '{"model":"m","stream":true,"messages":[{"role":"user"}],"prompt":"x"' + options + "}"
    call = dialect.parse(body.encode())
    assert call.stream and call.wants_usage is wants
    assert json.loads(dialect.forward(call, "low"))["stream_options"] == sent


@pytest.mark.parametrize("dialect", [RESPONSES, MESSAGES])
def test_streams_of_the_others_tell_it_unasked(dialect: Dialect) -> None:
    call = request(dialect, stream=True, input="x", messages=[user("x")])
    assert call.wants_usage and "stream_options" not in json.loads(dialect.forward(call, "low"))


def test_a_large_body_passes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:" + "A" * 20_000_000}}
    call = chat(user([{"type": "text", "text": "look"}, picture]))
    assert call.turns[0].text == "look" and len(CHAT.forward(call, "low")) > 20_000_000


def test_the_tools_of_a_step() -> None:
    def asks(**tools: str) -> dict[str, Any]:
        calls = [{"id": id_, "function": {"name": name, "arguments": "{}"}} for id_, name in tools.items()]
        return {"role": "assistant", "tool_calls": calls}

    def result(id_: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": id_, "content": "x"}

    first, forced = [user("x"), asks(a="f")], {"type": "function", "function": {"name": "g"}}
    assert chat(user("x")).tools == ()
    assert chat(*first, result("a")).tools == ("f",)
    assert chat(*first, result("a"), user("go on")).tools == ("f",)  # not answered yet
    assert chat(*first, result("a"), asks(b="g", c="h", d="g"), result("c"), result("b"), result("d")).tools == ("h", "g")
    assert chat(*first, result("unknown")).tools == ()
    assert chat(*first, result("a"), {"role": "assistant", "content": "y"}, user("z")).tools == ()
    assert chat(user("x"), {"role": "function", "name": "old", "content": "x"}).tools == ("old",)
    assert request(CHAT, messages=[*first, result("a")], tool_choice=forced).tools == ("f", "g")
    assert request(CHAT, messages=[user("x")], tool_choice=forced).tools == ("g",)
    assert request(CHAT, messages=[user("x")], tool_choice="auto").tools == ()
    assert request(CHAT, messages=[user("x")], function_call={"name": "g"}).tools == ("g",)
    assert request(RESPONSES, input="x", tool_choice={"type": "function", "name": "g"}).tools == ("g",)
    assert request(MESSAGES, messages=[user("x")], tool_choice={"type": "tool", "name": "g"}).tools == ("g",)


def test_the_tools_of_parallel_calls_in_other_dialects() -> None:
    called = [{"type": "function_call", "call_id": i, "name": n, "arguments": "{}"} for i, n in (("a", "f"), ("b", "g"))]
    given = [{"type": "function_call_output", "call_id": i, "output": "x"} for i in "ab"]
    assert request(RESPONSES, input=[*called, *given]).tools == ("f", "g")
    spoken = {"role": "assistant", "content": "y"}
    assert request(RESPONSES, input=[*called, *given, spoken, {"role": "user", "content": "z"}]).tools == ()
    uses = [{"type": "tool_use", "id": i, "name": n, "input": {}} for i, n in (("a", "f"), ("b", "g"))]
    results = [{"type": "tool_result", "tool_use_id": i, "content": "x"} for i in "ab"]
    history = [user("x"), {"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    assert request(MESSAGES, messages=history).tools == ("f", "g")
    assert request(MESSAGES, messages=[*history, user("go on")]).tools == ("f", "g")
    assert request(MESSAGES, messages=[*history, spoken, user("z")]).tools == ()


def test_errors_have_the_shape_of_their_endpoint() -> None:
    error = GatewayError(429, "Slow down \ud83d", kind="rate_limit_error", code="rate_limited", param="model")
    wanted = {"message": "Slow down ?", "type": "rate_limit_error", "param": "model", "code": "rate_limited"}
    for dialect in (dialect_of_errors("/health"), CHAT, COMPLETIONS, RESPONSES):
        assert json.loads(dialect.error(error)) == {"error": wanted}
    assert json.loads(MESSAGES.error(error)) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow down ?"},
    }
