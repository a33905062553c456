"""Recorded texts read back as chat messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitroute.agents.messages import ChatMessage, ToolCall, conversation, read_answer
from bitroute.gateway.wire.history import MessageBuilder, arguments
from bitroute.gateway.wire.history import ToolCall as GatewayCall

CALL = ToolCall("get_weather", '{"city":"Paris"}')


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("", "", ()),
        ("It is sunny.", "It is sunny.", ()),
        ('get_weather {"city":"Paris"}', "", (CALL,)),
        ('Let me see.\nTwo lines.\nget_weather {"city":"Paris"}', "Let me see.\nTwo lines.", (CALL,)),
        ('get_weather {"city":"Paris"}\nget_time {}', "", (CALL, ToolCall("get_time"))),
        (
            'mcp.files/read:v2 {"path":"a\\nb","x":[1,2.5,null]}',
            "",
            (ToolCall("mcp.files/read:v2", '{"path":"a\\nb","x":[1,2.5,null]}'),),
        ),
        # What no gateway would have written for a call stays text.
        ('get_weather {"city": "Paris"}', 'get_weather {"city": "Paris"}', ()),
        ('get_weather {"b":1,"a":2}', 'get_weather {"b":1,"a":2}', ()),
        ("shell ls -l", "shell ls -l", ()),
        ("sum [1,2]", "sum [1,2]", ()),
        ('the answer {"a":1}', 'the answer {"a":1}', ()),
        ('x {"a":"\\ud800"}', 'x {"a":"\\ud800"}', ()),
        ('get_weather {"city":"Paris"}\nthat is it', 'get_weather {"city":"Paris"}\nthat is it', ()),
        ("x " + '{"a":' * 3000 + "1" + "}" * 3000, "x " + '{"a":' * 3000 + "1" + "}" * 3000, ()),
    ],
)
def test_an_answer_is_text_and_then_calls(text: str, content: str, calls: tuple[ToolCall, ...]) -> None:
    assert read_answer(text) == ChatMessage("assistant", content, calls)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
calls = st.lists(
    st.tuples(st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True), st.dictionaries(st.text(), json_values, max_size=3))
)


@given(st.text(), calls)
def test_what_the_gateway_records_of_an_answer_is_read_back(text: str, made: list[tuple[str, dict[str, Any]]]) -> None:
    written = MessageBuilder([text], [GatewayCall("1", name, arguments(json.dumps(values))) for name, values in made])
    found = read_answer(written.turn("assistant").text)
    if read_answer(text).calls:  # a text that looks like calls is read as such
        return
    assert found.content == text
    assert [call.name for call in found.calls] == [name for name, _ in made]
    assert [call.values() for call in found.calls] == [values for _, values in made]


def test_what_follows_a_call_is_the_tools() -> None:
    told, did = ["Weather?", "21 degrees", "Thanks!"], ['get_weather {"city":"Paris"}', "It is 21 degrees."]
    expected = [
        ChatMessage("user", "Weather?"),
        ChatMessage("assistant", "", (CALL,)),
        ChatMessage("tool", "21 degrees"),
        ChatMessage("assistant", "It is 21 degrees."),
        ChatMessage("user", "Thanks!"),
    ]
    assert conversation(told, did, tools=True) == expected
    plain = conversation(told, did, tools=False)
    assert [(m.role, m.content) for m in plain] == [
        ("user", told[0]),
        ("assistant", did[0]),
        ("user", told[1]),
        ("assistant", did[1]),
        ("user", told[2]),
    ]
    assert not any(m.calls for m in plain)
