"""`/v1/messages` as the official `anthropic` client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from support import upstream as up
from support.clients import Stage, failures, new_key, staged

ASK: dict[str, Any] = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hello there"}]}
USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"x": 1.0}}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not failures(caplog)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("gateway"), routing={"router": "always:high", "floors": {"look": "high"}}) as stage:
        yield stage


@pytest.fixture
def stage(shared: Stage) -> Stage:
    for upstream in (shared.low, shared.high):
        upstream.script = up.answer()
        upstream.requests.clear()
    return shared


def test_a_message(stage: Stage) -> None:
    with stage.anthropic() as client:
        raw = client.messages.with_raw_response.create(
            **ASK, system=[{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
        )
    message = raw.parse()
    assert (message.model, message.stop_reason) == ("high", "end_turn")
    assert [block.text for block in message.content if block.type == "text"] == ["hello there"]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (2, 2)
    assert raw.headers["x-bitroute-variant"] == "high"
    (seen,) = stage.high.requests
    assert seen.json["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert seen.headers["anthropic-version"] and "x-api-key" not in seen.headers


def test_a_stream(stage: Stage) -> None:
    with stage.anthropic() as client, client.messages.stream(**ASK) as stream:
        assert "".join(stream.text_stream) == "hello there"
        message = stream.get_final_message()
    assert (message.model, message.usage.output_tokens) == ("high", 2)


def test_a_tool_and_its_result_are_one_episode(stage: Stage) -> None:
    whole = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [USE], "stop_reason": "tool_use"}
    usage = {"input_tokens": 3, "output_tokens": 1}
    stage.high.script = [up.raw(json.dumps({**whole, "stop_sequence": None, "usage": usage}).encode()), up.answer("done")]
    with stage.anthropic(default_headers={"x-session-id": "tools"}) as client:
        first = client.messages.with_raw_response.create(**ASK)
        content = first.parse().content
        result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "a pan"}]}
        history: Any = [*ASK["messages"], {"role": "assistant", "content": content}, result]
        second = client.messages.with_raw_response.create(**{**ASK, "messages": history})
    assert first.headers["x-bitroute-episode"] == second.headers["x-bitroute-episode"]
    assert (second.headers["x-bitroute-step"], second.headers["x-bitroute-reason"]) == ("1", "floor")
    assert stage.high.requests[1].json["messages"][2] == result


def test_errors_are_the_clients_exceptions(stage: Stage) -> None:
    with stage.anthropic() as client:
        with pytest.raises(anthropic.NotFoundError) as unknown:
            client.messages.create(**{**ASK, "model": "claude-9"})
        with pytest.raises(anthropic.BadRequestError) as malformed:
            client.messages.create(**{**ASK, "messages": []})
        with pytest.raises(anthropic.NotFoundError) as uncounted:
            client.messages.count_tokens(model="auto", messages=ASK["messages"])
        stage.high.script = up.error(529)
        with pytest.raises(anthropic.APIStatusError) as overloaded:
            client.messages.create(**{**ASK, "model": "high"})
    for caught, kind in (
        (unknown, "not_found_error"),
        (malformed, "invalid_request_error"),
        (uncounted, "not_found_error"),
    ):
        body: Any = caught.value.body
        assert body["type"] == "error" and body["error"]["type"] == kind and body["error"]["message"]
    assert overloaded.value.status_code == 529


def test_a_stream_that_breaks_raises_in_the_client(stage: Stage) -> None:
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
    message |= {"stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}
    stage.high.script = up.drop(up.event({"type": "message_start", "message": message}, "message_start"))
    with (
        stage.anthropic() as client,
        pytest.raises(anthropic.APIStatusError, match="broke off"),
        client.messages.stream(**ASK) as stream,
    ):
        list(stream)


def test_keys_come_in_its_own_header(tmp_path: Path) -> None:
    key = new_key(tmp_path, requests=1)
    with staged(tmp_path) as stage:
        with stage.anthropic() as client, pytest.raises(anthropic.AuthenticationError):
            client.messages.create(**ASK)
        with stage.anthropic(api_key=key) as client:
            assert client.messages.create(**ASK).model == "high"
            with pytest.raises(anthropic.RateLimitError) as limited:
                client.messages.create(**ASK)
    assert int(limited.value.response.headers["retry-after"]) >= 1
    assert not any("x-api-key" in seen.headers for seen in stage.high.requests)
