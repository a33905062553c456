import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.gateway.core.values import Call, Endpoint, GatewayError
from bitroute.gateway.wire.parse import error_body, forward, parse

CHAT = b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}'
ALL = list(Endpoint)


def request(endpoint: Endpoint, **fields: Any) -> Call:
    return parse(endpoint, json.dumps({"model": "auto", **fields}).encode())


def refused(endpoint: Endpoint, body: bytes | dict[str, Any]) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        parse(endpoint, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert raised.value.status == 400 and raised.value.kind == "invalid_request_error"
    return raised.value


def chat(*messages: Any) -> Call:
    return request(Endpoint.CHAT, messages=list(messages))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def only_digest(call: Call) -> bytes:
    (turn,) = call.turns
    return turn.digest


# What is refused


@pytest.mark.parametrize("endpoint", ALL)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"\xef\xbb\xbf" + CHAT,
        CHAT[:-1],
        CHAT + b"x",
        CHAT.replace(b"hi", b"\xff"),
        CHAT.replace(b"hi", b"\xed\xa0\x80"),
        CHAT.replace(b"hi", b"\\ud83d"),
        CHAT[:-1] + b',"x":"\xff"}',
        CHAT[:-1] + b',"x":NaN}',
        CHAT[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        CHAT[:-1] + b',"x":01}',
    ],
)
def test_what_is_no_json_object_is_refused_without_a_parameter(endpoint: Endpoint, body: bytes) -> None:
    assert refused(endpoint, body).param is None


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
    error = refused(Endpoint.CHAT, body)
    assert (error.param, error.code) == (param, code)
    assert re.fullmatch(r"Invalid '[^']+': [^\n]+\.", error.message)


@pytest.mark.parametrize(
    ("endpoint", "name", "bad"),
    [
        (Endpoint.COMPLETIONS, "prompt", [None, [], 5, {}, True, [None], [[1, "a"]], [1.5], [True]]),
        (Endpoint.RESPONSES, "input", [None, [], 5, {}, ["x"], [{"type": 5}]]),
        (Endpoint.MESSAGES, "messages", [None, [], 5, [{"role": "user"}], [user(None)]]),
    ],
)
def test_other_histories_are_refused_too(endpoint: Endpoint, name: str, bad: list[Any]) -> None:
    assert refused(endpoint, {"model": "auto"}).param == name
    for value in bad:
        param = refused(endpoint, {"model": "auto", name: value}).param
        assert param is not None and param.startswith(name), value


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
def test_a_malformed_request_raises_nothing_else(endpoint: Endpoint, body: bytes) -> None:
    try:
        call = parse(endpoint, body)
        json.loads(forward(call, "low"))
    except GatewayError as error:
        assert error.status == 400
        json.loads(error_body(endpoint, error))


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
        for endpoint in ALL:
            try:
                forward(parse(endpoint, body), "low")
                read += 1
            except GatewayError as error:
                assert error.status == 400
    assert read > 0


# What goes upstream


def test_only_the_model_changes_and_values_keep_their_bytes() -> None:
    body = (
        b' {"model" : "auto", "temperature": 1.0, "top_p":1e-1, "seed":123456789012345678901234567890,"messages":'
        b'[ {"role":"user","content":"gr\\u00fc\xc3\x9fe \\/"} ], "vendor":{"b":[1.50, null],"a":{}} ,"stream_options":null}\n'
    )
    sent = forward(parse(Endpoint.CHAT, body), "low")
    assert sent == (
        b'{"model":"low","temperature":1.0,"top_p":1e-1,"seed":123456789012345678901234567890,"messages":'
        b'[ {"role":"user","content":"gr\\u00fc\xc3\x9fe \\/"} ],"vendor":{"b":[1.50, null],"a":{}},"stream_options":null}'
    )


def test_results_within_results_are_read_to_a_depth() -> None:
    def nested(text: str, depth: int) -> Call:
        content: Any = text
        for _ in range(depth):
            content = [{"type": "tool_result", "tool_use_id": "t", "content": content}]
        return request(Endpoint.MESSAGES, messages=[user(content)])

    assert nested("deep", 8).turns[0].text == "deep"
    assert nested("deep", 60).turns[0].text == ""
    assert nested("deep", 60).turns[0].digest != nested("deeper", 60).turns[0].digest


def test_many_calls_in_a_row_are_read_once() -> None:
    calls = [{"type": "function_call", "call_id": str(i), "name": f"t{i}", "arguments": "{}"} for i in range(30_000)]
    last = {"type": "function_call_output", "call_id": "29999", "output": "x"}
    found = request(Endpoint.RESPONSES, input=[*calls, last])  # each anew with all before it would take minutes
    assert (len(found.turns), found.tools) == (2, ("t29999",))


def test_of_a_key_given_twice_the_last_counts() -> None:
    call = parse(Endpoint.CHAT, b'{"model":"a","model":"b",' + CHAT[16:])
    assert call.model == "b" and json.loads(forward(call, "c"))["model"] == "c"


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
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
def test_streams_always_tell_usage(endpoint: Endpoint, options: str, wants: bool, sent: Any) -> None:
    body = '{"model":"m","stream":true,"messages":[{"role":"user"}],"prompt":"x"' + options + "}"
    call = parse(endpoint, body.encode())
    assert call.stream and call.wants_usage is wants
    assert json.loads(forward(call, "low"))["stream_options"] == sent


@pytest.mark.parametrize("endpoint", [Endpoint.RESPONSES, Endpoint.MESSAGES])
def test_streams_of_the_others_tell_it_unasked(endpoint: Endpoint) -> None:
    call = request(endpoint, stream=True, input="x", messages=[user("x")])
    assert call.wants_usage and "stream_options" not in json.loads(forward(call, "low"))


def test_a_large_body_passes() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:" + "A" * 20_000_000}}
    call = chat(user([{"type": "text", "text": "look"}, picture]))
    assert call.turns[0].text == "look" and len(forward(call, "low")) > 20_000_000


# How histories read


def test_a_chat_reads_as_turns() -> None:
    call = chat(
        {"role": "developer", "content": "be brief"},
        user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}, {"type": "text", "text": "b"}]),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "go", "arguments": '{"to": "shelf 1", "n": 1.0}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "you see a pan"},
    )
    assert [(turn.role, turn.text) for turn in call.turns] == [
        ("system", "be brief"),
        ("user", "a\nb"),
        ("assistant", 'go {"n":1,"to":"shelf 1"}'),
        ("user", "you see a pan"),
    ]
    assert call.tools == ("go",) and len({turn.digest for turn in call.turns}) == 4
    assert all(len(turn.digest) == 16 for turn in call.turns)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("a"), user([{"type": "text", "text": "a"}])),
        (user("a"), {**user("a"), "name": None, "tool_calls": None}),
        (user("a"), user(["a"])),
        (user([{"type": "text", "text": "a"}]), user([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}])),
        (
            user([{"type": "image", "source": {"x": 1}}]),
            user([{"source": {"x": 1}, "type": "image", "cache_control": {"type": "ephemeral"}}]),
        ),
        ({"role": "system", "content": "a"}, {"role": "developer", "content": "a"}),
        (
            {"role": "assistant", "content": "a"},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "a"}],
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "tool_calls": [],
                "reasoning_content": "hm",
            },
        ),
        ({"role": "assistant", "content": "a\n"}, {"role": "assistant", "content": " a"}),
        (
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        ),
        (
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "1", "index": 0, "function": {"name": "f", "arguments": '{"b":1, "a":2.0}'}}],
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":2,"b":1}'}}],
            },
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": ""}}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {}}}]},
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"x": [1.0]}}}]},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"x":[1]}'}}]},
        ),
    ],
)
def test_two_spellings_have_one_digest(one: Any, other: Any) -> None:
    assert only_digest(chat(one)) == only_digest(chat(other))


def test_different_messages_have_different_digests() -> None:
    def calls(*made: tuple[str, str, str]) -> dict[str, Any]:
        return {
            "role": "assistant",
            "content": "x",
            "tool_calls": [{"id": a, "type": "function", "function": {"name": b, "arguments": c}} for a, b, c in made],
        }

    different = [
        user("x"),
        user("x "),
        user("y"),
        {"role": "system", "content": "x"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "name": "ann", "content": "x"},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
        {"role": "tool", "tool_call_id": "2", "content": "x"},
        user([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "1"}}]),
        user([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "2"}}]),
        calls(("1", "f", "{}")),
        calls(("2", "f", "{}")),
        calls(("1", "g", "{}")),
        calls(("1", "f", '{"a":1}')),
        calls(("1", "f", '{"a":"1"}')),
        calls(("1", "f", "{}"), ("2", "f", "{}")),
        calls(("1", "f", "no json {")),
    ]
    assert len({only_digest(chat(message)) for message in different}) == len(different)


def test_a_prompt_is_one_turn_of_the_user() -> None:
    for prompt, text in [("a", "a"), ("", ""), (["a", "b"], "a\nb"), ([[1, 2], [3]], "[1,2]\n[3]"), ([7, 8], "7\n8")]:
        (turn,) = request(Endpoint.COMPLETIONS, prompt=prompt).turns
        assert (turn.role, turn.text) == ("user", text)


def test_responses_items_read_as_turns() -> None:
    call = request(
        Endpoint.RESPONSES,
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
    assert [turn.text for turn in request(Endpoint.RESPONSES, input="hi", instructions="").turns] == ["hi"]
    assert [turn.text for turn in request(Endpoint.RESPONSES, previous_response_id="r1").turns] == [""]
    odd = [{"type": "computer_call_output", "output": {"x": 1}, "call_id": "1"}, {"type": "item_reference", "id": "m1"}]
    assert [turn.role for turn in request(Endpoint.RESPONSES, input=odd).turns] == ["user", "assistant"]


def test_anthropic_messages_read_as_turns() -> None:
    call = request(
        Endpoint.MESSAGES,
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
    assert [turn.text for turn in request(Endpoint.MESSAGES, system="s", messages=[user("x")]).turns] == ["s", "x"]


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
    assert request(Endpoint.CHAT, messages=[*first, result("a")], tool_choice=forced).tools == ("f", "g")
    assert request(Endpoint.CHAT, messages=[user("x")], tool_choice=forced).tools == ("g",)
    assert request(Endpoint.CHAT, messages=[user("x")], tool_choice="auto").tools == ()
    assert request(Endpoint.CHAT, messages=[user("x")], function_call={"name": "g"}).tools == ("g",)
    assert request(Endpoint.RESPONSES, input="x", tool_choice={"type": "function", "name": "g"}).tools == ("g",)
    assert request(Endpoint.MESSAGES, messages=[user("x")], tool_choice={"type": "tool", "name": "g"}).tools == ("g",)


def test_the_tools_of_parallel_calls_in_other_dialects() -> None:
    called = [{"type": "function_call", "call_id": i, "name": n, "arguments": "{}"} for i, n in (("a", "f"), ("b", "g"))]
    given = [{"type": "function_call_output", "call_id": i, "output": "x"} for i in "ab"]
    assert request(Endpoint.RESPONSES, input=[*called, *given]).tools == ("f", "g")
    spoken = {"role": "assistant", "content": "y"}
    assert request(Endpoint.RESPONSES, input=[*called, *given, spoken, {"role": "user", "content": "z"}]).tools == ()
    uses = [{"type": "tool_use", "id": i, "name": n, "input": {}} for i, n in (("a", "f"), ("b", "g"))]
    results = [{"type": "tool_result", "tool_use_id": i, "content": "x"} for i in "ab"]
    history = [user("x"), {"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    assert request(Endpoint.MESSAGES, messages=history).tools == ("f", "g")
    assert request(Endpoint.MESSAGES, messages=[*history, user("go on")]).tools == ("f", "g")
    assert request(Endpoint.MESSAGES, messages=[*history, spoken, user("z")]).tools == ()


# Errors


def test_errors_have_the_shape_of_their_endpoint() -> None:
    error = GatewayError(429, "Slow down \ud83d", kind="rate_limit_error", code="rate_limited", param="model")
    wanted = {"message": "Slow down ?", "type": "rate_limit_error", "param": "model", "code": "rate_limited"}
    for endpoint in (None, Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES):
        assert json.loads(error_body(endpoint, error)) == {"error": wanted}
    assert json.loads(error_body(Endpoint.MESSAGES, error)) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow down ?"},
    }


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
    assert json.loads(error_body(Endpoint.MESSAGES, GatewayError(status, "x")))["error"]["type"] == name
