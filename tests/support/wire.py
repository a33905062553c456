"""Requests and answers in the gateway's dialects, as its wire tests spell them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

import httpx
import openai

from bitroute.gateway.core.values import Call, Turn
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.dialects.dialect import Dialect
from bitroute.gateway.wire.dialects.registry import DIALECTS
from bitroute.gateway.wire.reader import AnswerReader

CHAT: Final = DIALECTS["/v1/chat/completions"]
COMPLETIONS: Final = DIALECTS["/v1/completions"]
RESPONSES: Final = DIALECTS["/v1/responses"]
MESSAGES: Final = DIALECTS["/v1/messages"]
ALL: Final = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]

TOOL_CALL: Final = {"id": "c1", "type": "function", "function": {"name": "go", "arguments": '{"to": "shelf 1", "n": 1.0}'}}


def request(dialect: Dialect, **fields: Any) -> Call:
    """A request with these fields."""
    return dialect.parse(json.dumps({"model": "auto", **fields}).encode())


def prompted(dialect: Dialect = CHAT, **fields: Any) -> Call:
    """The same with a short history, in whatever field the dialect has it."""
    history = {"messages": [user("hi")], "input": "hi", "prompt": "hi"}
    return request(dialect, **{**history, **fields})


def reader(call: Call, model: str | None) -> AnswerReader:
    """Of the answer to a request."""
    return DIALECTS[call.endpoint].reader(call, model)


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def only_digest(call: Call) -> bytes:
    """The digest of a request's only message."""
    (turn,) = call.turns
    return turn.digest


def chat(*messages: Any) -> Call:
    """A chat request with these messages."""
    return request(CHAT, messages=list(messages))


def chunk(*choices: Any, **fields: Any) -> bytes:
    """A chunk of a chat completion."""
    return sse.encode(
        json.dumps({"id": "1", "object": "chat.completion.chunk", "model": "up", "choices": choices, **fields}).encode()
    )


def delta(index: int = 0, logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    """What a chunk adds to a choice."""
    return {"index": index, "delta": fields, "logprobs": logprobs, "finish_reason": None}


def typed(**fields: Any) -> bytes:
    """An event that has a type."""
    return sse.encode(json.dumps(fields).encode(), fields["type"])


def seen(reading: AnswerReader, *events: bytes) -> list[Any]:
    """What the client gets, decoded."""
    sent = [reading.event(event) for event in events]
    return [json.loads(data) if (data := sse.data(event)) != b"[DONE]" else "[DONE]" for event in sent if event]


def completion(message: dict[str, Any], **fields: Any) -> bytes:
    """A whole chat completion."""
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice], **fields}
    ).encode()


def token(*shares: float) -> dict[str, Any]:
    """A token and its alternatives, by their probabilities."""
    listed = [{"token": str(index), "logprob": math.log(share), "bytes": None} for index, share in enumerate(shares)]
    return {**listed[0], "top_logprobs": listed}


def last_turn(messages: list[Any]) -> Turn:
    """How the last of these messages reads in a history."""
    return prompted(messages=[{"role": "user", "content": "hi"}, *messages]).turns[-1]


class Upstream(httpx.BaseTransport):
    """The gateway's reading of a request and of the scripted answer to it, behind the official client."""

    def __init__(self, dialect: Dialect, answer: Callable[[], list[bytes]]) -> None:
        self.dialect, self.answer, self.calls, self.readings = dialect, answer, list[Call](), list[AnswerReader]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        call = self.dialect.parse(request.read())
        json.loads(self.dialect.forward(call, "low"))
        answering = reader(call, "low")
        self.calls.append(call)
        self.readings.append(answering)
        if call.stream:
            body = b"".join(answering.event(event) for event in self.answer())
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
        (answer,) = self.answer()
        return httpx.Response(200, headers={"content-type": "application/json"}, content=answering.whole(answer))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=httpx.Client(transport=self), max_retries=0)

    def agrees(self) -> bool:
        """The first answer is the last but one turn of the second request."""
        answer = self.readings[0].answer
        return answer is not None and self.calls[1].turns[-2].digest == answer.digest
