"""Chat completions, with the official client in front."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from bitroute.gateway.core.values import Tokens
from support.wire import CHAT, TOOL_CALL, Upstream, chat, chunk, completion, delta, last_turn, prompted, reader, seen, user


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


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("choices", ["[]", "[ ]", "null"])
def test_usage_reaches_the_client_that_asked(asked: bool, choices: str) -> None:
    reading = reader(prompted(stream=True, stream_options={"include_usage": asked}), "low")
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 5}}
    last = f'data: {{"model":"up","choices":{choices},"usage":{json.dumps(usage)}}}\n\n'.encode()
    got = seen(
        reading,
        chunk(delta(content="a"), usage=None),
        chunk(delta(content="b"), usage={"prompt_tokens": 7}),
        last,
        b"data: [DONE]\n\n",
    )
    assert ["usage" in event for event in got[:2]] == [asked, asked]
    assert [event["choices"][0]["delta"]["content"] for event in got[:2]] == ["a", "b"]
    assert got[2:] == ([{"model": "low", "choices": json.loads(choices), "usage": usage}] if asked else []) + ["[DONE]"]
    assert reading.tokens == Tokens(prefill=2, cached=5, decode=2)
    assert reading.answer is not None and reading.answer.text == "ab"


def test_only_the_first_choice_is_read() -> None:
    reading = reader(prompted(stream=True, n=2), "low")
    seen(
        reading,
        chunk(delta(1, content="x")),
        chunk(delta(0, content="a"), delta(1, content="y")),
        chunk(delta(0, content="b")),
    )
    assert reading.answer is not None and reading.answer.text == "ab"
    assert not reading.done


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
    whole = reader(prompted(), "low")
    whole.whole(completion(message))
    streamed = reader(prompted(stream=True), "low")
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
    reading = reader(prompted(stream=True), "low")
    for call in ("c1", "c2"):
        seen(
            reading,
            chunk(delta(tool_calls=[{"id": call, "function": {"name": "go", "arguments": '{"a'}}])),
            chunk(delta(tool_calls=[{"function": {"arguments": '":1}'}}])),
        )
    calls = [{"id": call, "type": "function", "function": {"name": "go", "arguments": '{"a":1}'}} for call in ("c1", "c2")]
    assert reading.answer == last_turn([{"role": "assistant", "tool_calls": calls}])


def test_content_in_parts_is_read_without_its_reasoning() -> None:
    reading = reader(prompted(stream=True), "low")
    seen(
        reading,
        chunk(delta(content=[{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}])),
        chunk(delta(content="b")),
    )
    assert reading.answer is not None and reading.answer.text == "ab"


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
    upstream = Upstream(CHAT, lambda: [completion(MESSAGE)])
    with upstream.client() as client:
        messages: list[Any] = [{"role": "user", "content": "find it"}]
        message = client.chat.completions.create(model="auto", messages=messages).choices[0].message
        for repeated in (message, message.model_dump(), message.model_dump(exclude_none=True)):
            del upstream.calls[1:], upstream.readings[1:]
            history = [*messages, repeated, {"role": "tool", "tool_call_id": "c1", "content": "a pan"}]
            client.chat.completions.create(model="auto", messages=history)
            assert upstream.agrees() and upstream.calls[1].tools == ("go",)


def test_the_official_client_repeats_a_streamed_answer() -> None:
    arguments = TOOL_CALL["function"]["arguments"]
    upstream = Upstream(
        CHAT,
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
    assert upstream.readings[0].done and upstream.readings[0].tokens == Tokens(prefill=3, decode=4)
