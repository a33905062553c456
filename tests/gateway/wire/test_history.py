"""What makes two messages one, and what tells them apart."""

from __future__ import annotations

from typing import Any

import pytest

from bitroute.gateway.core.values import Call
from support.wire import MESSAGES, chat, only_digest, request, user


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


def test_results_within_results_are_read_to_a_depth() -> None:
    def nested(text: str, depth: int) -> Call:
        content: Any = text
        for _ in range(depth):
            content = [{"type": "tool_result", "tool_use_id": "t", "content": content}]
        return request(MESSAGES, messages=[user(content)])

    assert nested("deep", 8).turns[0].text == "deep"
    assert nested("deep", 60).turns[0].text == ""
    assert nested("deep", 60).turns[0].digest != nested("deeper", 60).turns[0].digest
