"""The gateway as the official `openai` client sees it, before upstreams that answer well and before some that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionToolParam

from support import upstream as up
from support.clients import HELLO, Stage, failures, new_key, staged
from support.upstream import Flag, Script

TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {"x": {"type": "number"}}}}}
    for name in ("look", "pay")
]


def tool_call(id_: str, name: str, arguments: str = '{"x":1.0}') -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client or an upstream does is an error in the gateway's own log."""
    yield
    assert not failures(caplog)


@pytest.fixture(autouse=True)
def _prompt_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("gateway"), upstream={"retry_budget": 1.0}) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    """All to high; upstreams that answer, and have seen nothing yet."""
    for upstream in (shared.low, shared.high):
        upstream.script = up.answer()
        upstream.requests.clear()
        upstream.cancelled.clear()
        upstream.arrived.clear()
    return shared


# Chat.


def test_chat(stage: Stage) -> None:
    with stage.openai() as client:
        answer = client.chat.completions.create(model="auto", messages=HELLO)
    assert answer.model == "high"
    assert answer.choices[0].message.content == "hello there"
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 2)
    (seen,) = stage.high.requests
    assert seen.json == {"messages": HELLO, "model": "high"}
    assert not stage.low.requests


@pytest.mark.parametrize("usage", [False, True])
def test_a_chat_stream_has_usage_only_where_it_was_asked_for(stage: Stage, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    with (
        stage.openai() as client,
        client.chat.completions.create(model="auto", messages=HELLO, stream=True, **options) as stream,
    ):
        chunks = list(stream)
    assert stage.high.requests[0].json["stream_options"] == {"include_usage": True}
    assert {chunk.model for chunk in chunks} == {"high"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello there"
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [usage]
    assert bool(chunks[-1].choices) != usage
    if usage:
        assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 4


def test_the_stream_helper_builds_the_whole_answer(stage: Stage) -> None:
    stage.high.script = up.answer("", tool_calls=[tool_call("a", "look"), tool_call("b", "pay", "{}")])
    with stage.openai() as client, client.chat.completions.stream(model="auto", messages=HELLO, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.done" in kinds
    assert message.tool_calls is not None
    assert [(call.id, call.function.name) for call in message.tool_calls] == [("a", "look"), ("b", "pay")]


def test_raw_responses_show_what_was_decided(stage: Stage) -> None:
    with stage.openai() as client:
        raw = client.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO, extra_headers={"x-session-id": "raw"}
        )
        forced = client.chat.completions.with_raw_response.create(
            model="auto", messages=HELLO, extra_headers={"x-bitroute-force": "low"}
        )
        with client.chat.completions.with_streaming_response.create(model="low", messages=HELLO, stream=True) as streamed:
            lines = list(streamed.iter_lines())
    told = {name: value for name, value in raw.headers.items() if name.startswith("x-bitroute")}
    assert float(told.pop("x-bitroute-router-ms")) >= 0 and float(told.pop("x-bitroute-overhead-ms")) > 0
    assert len(told.pop("x-bitroute-episode")) == 32
    assert told == {
        "x-bitroute-variant": "high",
        "x-bitroute-reason": "always",
        "x-bitroute-step": "0",
        "x-bitroute-session-source": "x-session-id",
    }
    assert raw.parse().choices[0].message.content == "hello there"
    assert (forced.headers["x-bitroute-variant"], forced.headers["x-bitroute-reason"]) == ("low", "forced")
    assert (streamed.headers["x-bitroute-variant"], streamed.headers["x-bitroute-reason"]) == ("low", "bypass")
    assert lines[-2:] == ["data: [DONE]", ""]


def test_a_tool_call_and_its_answer_are_one_episode(stage: Stage) -> None:
    stage.high.script = [up.answer("", tool_calls=[tool_call("a", "look")]), up.answer("done")]
    messages: list[Any] = list(HELLO)
    with stage.openai() as client:
        create = client.chat.completions.with_raw_response.create
        first = create(model="auto", messages=messages, tools=TOOLS, tool_choice="auto", extra_headers={"x-session-id": "t"})
        message = first.parse().choices[0].message
        assert message.tool_calls is not None and message.tool_calls[0].id == "a"
        messages += [message, {"role": "tool", "tool_call_id": "a", "content": "a pan"}]
        second = create(model="auto", messages=messages, tools=TOOLS, extra_headers={"x-session-id": "t"})
    assert second.parse().choices[0].message.content == "done"
    assert second.headers["x-bitroute-episode"] == first.headers["x-bitroute-episode"]
    assert (first.headers["x-bitroute-step"], second.headers["x-bitroute-step"]) == ("0", "1")
    body = stage.high.requests[1].json
    assert body["tools"] == TOOLS
    assert body["messages"][1]["tool_calls"] == [tool_call("a", "look")]
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "a", "content": "a pan"}


@pytest.mark.parametrize(("last", "served"), [("look", "high"), ("pay", "high"), ("none", "low")])
def test_parallel_tool_results_have_the_highest_floor(tmp_path: Path, last: str, served: str) -> None:
    calls = {"none": ["look", "none"], "look": ["pay", "look"], "pay": ["look", "pay"]}[last]
    routing = {"router": "always:low", "floors": {"pay": "high"}}
    script = up.answer("", tool_calls=[tool_call(str(i), name) for i, name in enumerate(calls)])
    with staged(tmp_path, low=script, routing=routing) as stage, stage.openai() as client:
        message = client.chat.completions.create(model="auto", messages=HELLO, parallel_tool_calls=True).choices[0].message
        history: list[Any] = [*HELLO, message, *({"role": "tool", "tool_call_id": str(i), "content": "ok"} for i in range(2))]
        answer = client.chat.completions.with_raw_response.create(model="auto", messages=history)
    assert answer.headers["x-bitroute-variant"] == served
    assert answer.headers["x-bitroute-reason"] == ("floor" if served == "high" else "always")
    assert answer.headers["x-bitroute-step"] == "1"
    assert stage.low.requests[0].json["parallel_tool_calls"] is True


def test_structured_output_is_relayed_and_parsed(stage: Stage) -> None:
    class Move(pydantic.BaseModel):
        go: str
        steps: int

    stage.high.script = up.answer('{"go":"north","steps":2}')
    with stage.openai() as client:
        parsed = client.chat.completions.parse(model="auto", messages=HELLO, response_format=Move)
        client.chat.completions.create(model="auto", messages=HELLO, response_format={"type": "json_object"})
    assert parsed.choices[0].message.parsed == Move(go="north", steps=2)
    asked, plain = (seen.json["response_format"] for seen in stage.high.requests)
    assert asked["json_schema"]["schema"]["required"] == ["go", "steps"]
    assert plain == {"type": "json_object"}


def test_logprobs_and_all_that_a_client_may_add_arrive_as_they_were(stage: Stage) -> None:
    given: dict[str, Any] = {
        "logprobs": True,
        "top_logprobs": 2,
        "seed": 7,
        "stop": ["\n", "END"],
        "temperature": 0.0,
        "logit_bias": {"50256": -100},
        "user": "somebody",
        "metadata": {"run": "7"},
    }
    extra = {"guided_choice": ["a", "ü"], "top_k": 1e0, "nested": {"a": [None, True, {"b": 1.5}]}, "cache_salt": ""}
    messages: list[Any] = [
        {"role": "system", "content": "one"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}], "name": "d"},
        {"role": "user", "content": [{"type": "text", "text": "three"}, {"type": "image_url", "image_url": {"url": "data:,"}}]},
    ]
    stage.high.script = up.answer("ok")
    with stage.openai() as client:
        answer = client.chat.completions.create(model="auto", messages=messages, extra_body=extra, **given)
    assert stage.high.requests[0].json == {"messages": messages, "model": "high", **given, **extra}
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    assert [token.logprob for token in answer.choices[0].logprobs.content] == [-0.125]
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


def test_sessions_are_named_by_headers_and_metadata(stage: Stage) -> None:
    with stage.openai(default_headers={"x-session-id": "named"}) as client:
        create = client.chat.completions.with_raw_response.create
        told = [create(model="auto", messages=HELLO, extra_headers={"x-step": str(step)}).headers for step in range(3)]
        assert len({headers["x-bitroute-episode"] for headers in told}) == 1
        assert [headers["x-bitroute-step"] for headers in told] == ["0", "1", "2"]
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="auto", messages=HELLO, extra_headers={"x-step": "minus one"})
        assert caught.value.param == "x-step"
    with stage.openai() as client:
        create = client.chat.completions.with_raw_response.create
        first = create(model="auto", messages=HELLO, metadata={"session_id": "m"})
        history: list[Any] = [*HELLO, {"role": "assistant", "content": "hello there"}, {"role": "user", "content": "go on"}]
        second = create(model="auto", messages=history, metadata={"session_id": "m"})
    assert first.headers["x-bitroute-session-source"] == "metadata.session_id"
    assert second.headers["x-bitroute-episode"] == first.headers["x-bitroute-episode"]
    assert second.headers["x-bitroute-step"] == "1"
    assert stage.high.requests[-1].json["metadata"] == {"session_id": "m"}
    assert "x-session-id" not in stage.high.requests[0].headers


# Other endpoints.


def test_completions(stage: Stage) -> None:
    with stage.openai() as client:
        whole = client.completions.create(model="auto", prompt="once upon", max_tokens=5)
        chunks = list(client.completions.create(model="low", prompt="once upon", stream=True))
    assert (whole.model, whole.choices[0].text) == ("high", "once upon")
    assert whole.usage is not None and whole.usage.total_tokens == 4
    assert {chunk.model for chunk in chunks} == {"low"}
    assert "".join(chunk.choices[0].text for chunk in chunks) == "once upon"
    assert all(chunk.usage is None for chunk in chunks)


def test_responses(stage: Stage) -> None:
    with stage.openai() as client:
        raw = client.responses.with_raw_response.create(model="auto", input="tell me", instructions="be brief")
        first = raw.parse()
        second = client.responses.with_raw_response.create(model="auto", input="more", previous_response_id=first.id)
        with client.responses.stream(model="low", input="tell me") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
    assert (first.model, first.output_text) == ("high", "tell me")
    assert first.usage is not None and first.usage.input_tokens == 2
    assert second.headers["x-bitroute-session-source"] == "previous_response_id"
    assert stage.high.requests[0].json == {"input": "tell me", "instructions": "be brief", "model": "high"}
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert (final.model, final.output_text) == ("low", "tell me")


def test_models(stage: Stage) -> None:
    with stage.openai() as client:
        listed = client.models.list()
        names = [model.id for model in listed]
        assert names == ["auto", "low", "high"]
        assert all(client.models.retrieve(name).id == name for name in [*names, "auto-0.25"])
        assert {model.object for model in listed.data} == {"model"}
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found" and "gpt-9" in caught.value.message


# Errors.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_error_is_the_clients_exception(
    stage: Stage, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    stage.high.script = up.error(status, "upstream says no", code="why", retry_after="7")
    with stage.openai() as client, pytest.raises(kind) as caught:
        client.chat.completions.create(model="high", messages=HELLO, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.code == "why" and "upstream says no" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.response.headers["x-bitroute-variant"] == "high"


def test_errors_of_ours_are_the_clients_exceptions(stage: Stage) -> None:
    bad: Any = "neither a list nor messages"
    with stage.openai() as client:
        with pytest.raises(openai.BadRequestError) as malformed:
            client.chat.completions.create(model="auto", messages=bad)
        with pytest.raises(openai.NotFoundError) as unknown:
            client.chat.completions.create(model="gpt-9", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as forced:
            client.chat.completions.create(model="auto", messages=HELLO, extra_headers={"x-bitroute-force": "medium"})
        with pytest.raises(openai.NotFoundError) as path:
            client.embeddings.create(model="auto", input="x")
    assert (malformed.value.param, malformed.value.type) == ("messages", "invalid_request_error")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert forced.value.param == "x-bitroute-force"
    assert path.value.code == "unknown_url"
    assert not stage.high.requests


def test_keys_limit_and_name_their_owner(tmp_path: Path) -> None:
    weak, slow = new_key(tmp_path, models=("auto*",), floor="high"), new_key(tmp_path, requests=1)
    with staged(tmp_path, routing={"router": "always:low"}) as stage:
        with stage.openai() as client, pytest.raises(openai.AuthenticationError) as unknown:
            client.chat.completions.create(model="auto", messages=HELLO)
        assert unknown.value.code == "invalid_api_key"
        with stage.openai(api_key=weak) as client:
            answer = client.chat.completions.with_raw_response.create(model="auto", messages=HELLO)
            with pytest.raises(openai.PermissionDeniedError) as refused:
                client.chat.completions.create(model="low", messages=HELLO)
        assert (answer.headers["x-bitroute-variant"], answer.headers["x-bitroute-reason"]) == ("high", "floor")
        assert refused.value.code == "model_not_allowed"
        with stage.openai(api_key=slow) as client:
            answer = client.chat.completions.with_raw_response.create(model="auto", messages=HELLO)
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            with pytest.raises(openai.RateLimitError) as limited:
                client.chat.completions.create(model="auto", messages=HELLO)
        assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
        assert limited.value.code == "rate_limit_exceeded"
        seen = [*stage.low.requests, *stage.high.requests]
        assert len(seen) == 2
        assert not any("authorization" in request.headers or b"br_" in request.body for request in seen)


# Retries.


def test_a_client_that_tries_again_gets_the_same_decision(tmp_path: Path) -> None:
    gate = Flag()

    def first_hangs(seen: up.Seen) -> up.Behaviour:
        text = seen.json["messages"][0]["content"]
        earlier = [s for s in upstreams() if s.json["messages"][0]["content"] == text]
        return up.slow(gate) if len(earlier) == 1 else up.answer()

    def upstreams() -> list[up.Seen]:
        return [*stage.low.requests, *stage.high.requests]

    script = up.choose(first_hangs)
    with staged(tmp_path, low=script, high=script, routing={"router": "random:0.5"}) as stage:
        variants = []
        with stage.openai(max_retries=9, timeout=0.5) as client:
            for number in range(6):
                raw = client.chat.completions.with_raw_response.create(
                    model="auto",
                    messages=[{"role": "user", "content": str(number)}],
                    extra_headers={"x-session-id": str(number)},
                )
                assert (raw.headers["x-bitroute-step"], raw.parse().choices[0].message.content) == ("0", str(number))
                tries = [seen.json for seen in upstreams() if seen.json["messages"][0]["content"] == str(number)]
                assert raw.retries_taken >= 1 and len(tries) >= 2
                assert all(body == tries[0] for body in tries)  # the model too: one decision
                variants.append(tries[0]["model"])
        gate.set()
    assert set(variants) == {"low", "high"}
    rows = stage.recorded()
    assert len({row["episode"] for row in rows}) == 6 and {row["step"] for row in rows} == {0}
    assert [row["retry"] for row in rows].count(False) == 6
    assert sum(row["ended"] == "complete" for row in rows) == 6


def test_a_refusal_that_says_when_is_tried_again(stage: Stage) -> None:
    stage.high.script = [up.error(429, retry_after_ms="1"), up.error(500, retry_after_ms="1"), up.answer()]
    with stage.openai(max_retries=2) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="high", messages=HELLO, extra_headers={"x-session-id": "again"}
        )
    assert raw.retries_taken == 2 and len(stage.high.requests) == 3
    assert (raw.headers["x-bitroute-step"], raw.headers["x-bitroute-variant"]) == ("0", "high")


def test_no_client_tries_again_what_the_gateway_has_tried_everywhere(tmp_path: Path) -> None:
    script = up.error(500)
    with (
        staged(tmp_path, low=script, high=script, upstream={"retry_budget": 1.0}) as stage,
        stage.openai(max_retries=5) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="auto", messages=HELLO)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert (len(stage.high.requests), len(stage.low.requests)) == (1, 1)


# Upstreams that misbehave.


def told(stage: Stage, script: Script, **options: Any) -> list[Any]:
    stage.high.script = script
    with (
        stage.openai() as client,
        client.chat.completions.create(model="high", messages=HELLO, stream=True, **options) as stream,
    ):
        return list(stream)


def content(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices or ())


def test_a_character_cut_in_two_arrives_whole(stage: Stage) -> None:
    assert content(told(stage, up.split_utf8("größer 🙂"))) == "größer 🙂"


def test_choices_that_are_null_are_relayed(stage: Stage) -> None:
    assert [chunk.choices for chunk in told(stage, up.null_choices(), stream_options={"include_usage": True})] == [None]
    with stage.openai() as client:
        assert client.chat.completions.create(model="high", messages=HELLO).choices is None


@pytest.mark.parametrize("asked", [False, True])
def test_usage_on_content_chunks_costs_no_content(stage: Stage, asked: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = told(stage, up.usage_on_content(), **options)
    assert content(chunks) == "one two"
    assert [chunk.usage is not None for chunk in chunks] == [asked] * 3


def test_events_that_cannot_be_read_are_the_clients_to_judge(stage: Stage) -> None:
    stage.high.script = up.malformed()
    said = ""
    with stage.openai() as client, client.chat.completions.create(model="high", messages=HELLO, stream=True) as stream:
        with pytest.raises(json.JSONDecodeError):
            for chunk in stream:
                said += chunk.choices[0].delta.content or ""
        assert said == "good "
        assert client.chat.completions.create(model="low", messages=HELLO).model == "low"


@pytest.mark.parametrize(
    "script",
    [
        up.drop(up.chunk("half")),
        up.stream(up.chunk("half")),
        up.stream(up.chunk("half"), up.event({"error": {"message": "broke down", "type": "server_error", "code": 500}})),
    ],
    ids=["dropped", "ended early", "an error event"],
)
def test_a_stream_that_breaks_raises_in_the_client(tmp_path: Path, script: Script) -> None:
    with (
        staged(tmp_path, high=script) as stage,
        stage.openai(max_retries=3) as client,
        client.chat.completions.create(model="auto", messages=HELLO, stream=True) as stream,
    ):
        assert next(iter(stream)).choices[0].delta.content == "half"
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.message
    assert (len(stage.high.requests), len(stage.low.requests)) == (1, 0)


@pytest.mark.parametrize(
    "script",
    [up.drop(), up.error(500), up.error(503), up.raw(b"<html>", "text/html", 502), up.stream()],
    ids=["dropped", "500", "503", "a proxy's page", "nothing"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_fails_before_its_first_byte_is_answered_by_the_other_variant(
    tmp_path: Path, script: Script, stream: bool
) -> None:
    with staged(tmp_path, high=script, upstream={"retry_budget": 1.0}) as stage, stage.openai() as client:
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=HELLO, stream=stream)
        raw.http_response.read()
    assert raw.headers["x-bitroute-variant"] == "low" and b'"low"' in raw.http_response.content


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_is_too_slow_for_the_client_is_let_go(stage: Stage, stream: bool) -> None:
    never = Flag()
    stage.high.script = up.slow(never)
    with stage.openai(timeout=1.0) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="auto", messages=HELLO, stream=stream)
    stage.high.cancelled.block()
    assert len(stage.high.requests) == 1 and not stage.low.requests


def test_an_upstream_that_is_too_slow_for_the_gateway(tmp_path: Path) -> None:
    with staged(tmp_path, high=up.slow(Flag()), upstream={"first_token": 1.0}) as stage, stage.openai() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="high", messages=HELLO, stream=True)
        assert (caught.value.status_code, caught.value.code) == (504, "upstream_timeout")
        answer = client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        assert {chunk.model for chunk in answer} == {"low"}
    assert stage.high.cancelled.is_set()


def test_a_client_that_stops_reading_stops_the_upstream(stage: Stage) -> None:
    stage.high.script = up.stream(up.chunk("one"), Flag())
    with stage.openai() as client, client.chat.completions.create(model="high", messages=HELLO, stream=True) as stream:
        assert next(iter(stream)).choices[0].delta.content == "one"
    stage.high.cancelled.block()


@pytest.mark.slow
def test_twenty_megabytes_both_ways(stage: Stage) -> None:
    text = "ü" * (10 * 1024 * 1024)
    stage.high.script = [up.answer("ok"), up.big()]
    with stage.openai() as client:
        answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": text}])
        assert answer.choices[0].message.content == "ok"
        answer = client.chat.completions.create(model="auto", messages=HELLO)
        assert answer.choices[0].message.content == "x" * (20 * 1024 * 1024)
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="auto", messages=[{"role": "user", "content": text + text}])
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
    assert stage.high.requests[0].json == {"messages": [{"role": "user", "content": text}], "model": "high"}
    assert len(stage.high.requests) == 2


# The asynchronous client.


def asynchronous(stage: Stage, test: Callable[[openai.AsyncOpenAI], Any], **options: Any) -> None:
    async def main() -> None:
        async with stage.async_openai(**options) as client:
            await test(client)

    asyncio.run(main())


def test_chat_streams_and_raw_responses_of_the_asynchronous_client(stage: Stage) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        answer = await client.chat.completions.create(model="auto", messages=HELLO)
        assert (answer.model, answer.choices[0].message.content) == ("high", "hello there")
        stream = await client.chat.completions.create(
            model="auto", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert content(chunks) == "hello there" and chunks[-1].usage is not None
        raw = await client.chat.completions.with_raw_response.create(model="low", messages=HELLO)
        assert (raw.headers["x-bitroute-variant"], raw.parse().model) == ("low", "low")
        assert [model.id async for model in client.models.list()] == ["auto", "low", "high"]

    asynchronous(stage, test)


def test_many_at_once_each_get_their_own(stage: Stage) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        async def ask(text: str) -> tuple[str, str]:
            raw = await client.chat.completions.with_raw_response.create(
                model="auto", messages=[{"role": "user", "content": text}]
            )
            return raw.parse().choices[0].message.content or "", raw.headers["x-bitroute-episode"]

        texts = [f"question {number}" for number in range(40)]
        answers = await asyncio.gather(*map(ask, texts))
        assert [text for text, _ in answers] == texts
        assert len({episode for _, episode in answers}) == 40

    asynchronous(stage, test)


def test_errors_timeouts_and_retries_of_the_asynchronous_client(stage: Stage) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-9", messages=HELLO)
        stage.high.script = [up.error(429, retry_after_ms="1"), up.answer()]
        raw = await client.chat.completions.with_raw_response.create(model="high", messages=HELLO)
        assert raw.retries_taken == 1
        stage.high.script = up.stream(up.chunk("half"), up.event({"error": {"message": "broke", "type": "server_error"}}))
        stream = await client.chat.completions.create(model="high", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="broke"):
            _ = [chunk async for chunk in stream]
        stage.high.script = up.slow(Flag())
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=1.0, max_retries=0).chat.completions.create(model="auto", messages=HELLO)
        await stage.high.cancelled.wait()

    asynchronous(stage, test, max_retries=1)


def test_a_cancelled_task_cancels_the_upstream(stage: Stage) -> None:
    async def test(client: openai.AsyncOpenAI) -> None:
        stage.high.script = up.stream(up.chunk("one"), Flag())
        first = asyncio.Event()

        async def ask() -> None:
            async for _ in await client.chat.completions.create(model="auto", messages=HELLO, stream=True):
                first.set()

        asking = asyncio.create_task(ask())
        await first.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await stage.high.cancelled.wait()

    asynchronous(stage, test)
