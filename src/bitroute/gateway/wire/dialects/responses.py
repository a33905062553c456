"""Responses: `POST /v1/responses`. Input and output are items; events carry the response so far, the last one all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Raw, Struct, ValidationError, json

from bitroute.gateway.core.values import GatewayError, Turn
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.certainty import Token
from bitroute.gateway.wire.dialects.dialect import Request, inline
from bitroute.gateway.wire.dialects.openai import OpenAIDialect, OpenAIReader
from bitroute.gateway.wire.fields import OBJECT, STRING, UNREADABLE, given, member, refused, text
from bitroute.gateway.wire.history import (
    ROLES,
    History,
    MessageBuilder,
    MessageRole,
    ToolCall,
    arguments,
    known,
    opaque,
    opening,
)

STORED: Final = ("previous_response_id", "conversation", "prompt")  # where the history may lie at the server
_LAST = {"response.completed", "response.incomplete", "response.failed"}
_EMPTY, _NOTHING = Raw(b"[]"), Raw(b'""')


class Item(Struct):
    """What an item must be: items of kinds that are unknown here are the upstream's to judge."""

    type: str = "message"


class _Item(Item):
    """An item of input or output that is read."""

    role: str | None = None
    content: str | list[Raw] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Raw] | None = None


class ResponsesRequest(Request, kw_only=True):
    """A request for a response. Further fields are passed on as they are."""

    input: str | Annotated[list[Annotated[Raw, Meta(extra_json_schema=inline(Item))]], Meta(min_length=1)] = ""
    instructions: str | list[Raw] | None = None


class _TextPart(Struct):
    logprobs: list[Token] | None = None


class _OutputItem(Struct):
    content: list[_TextPart] | None = None


_ITEM = json.Decoder(_Item)
_ITEM_TYPE = json.Decoder(Item)
_PARTS = json.Decoder(list[Raw])
_OUTPUT = json.Decoder(list[_OutputItem])


class ResponsesReader(OpenAIReader):
    """Reads one response."""

    def read_answer(self, top: dict[str, Raw]) -> None:
        """`output` reads as items of an input do."""
        output = top.get("output", _EMPTY)
        turns = read_items(_PARTS.decode(output)).turns
        self.turn = next((turn for turn in reversed(turns) if turn.role == "assistant"), None)
        if self.certainty is not None:
            for item in _OUTPUT.decode(output):
                for part in item.content or ():
                    self.certainty.add(part.logprobs or ())

    def read_event(self, data: bytes, top: dict[str, Raw], failed: bool) -> bytes:
        """Events that carry the response show the model's name; the last one is read."""
        try:
            kind = STRING.decode(top.get("type", _NOTHING))
            self.done = self.done or kind in _LAST
            response = given(top, "response")
            if response is None:
                return data
            fields = OBJECT.decode(response)
            if kind in _LAST and not self.fails(fields):
                self.take(fields)
            if self.rename(fields):
                top["response"] = Raw(json.encode(fields))
                return json.encode(top)
        except UNREADABLE:
            self.malformed += 1
        return data


class Responses(OpenAIDialect):
    """OpenAI's responses."""

    path = "/v1/responses"
    request = ResponsesRequest
    reader = ResponsesReader

    def history(self, fields: Mapping[str, Raw]) -> History:
        """`instructions` and `input`; an empty message of the user where all lies at the server."""
        stored = any(name in fields for name in STORED)
        given_input = self.read(fields, "input", required=not stored)
        instructions = opening(self.read(fields, "instructions"))
        if not isinstance(given_input, list):
            return History((*instructions, MessageBuilder([given_input or ""]).turn("user")))
        try:
            return read_items(given_input, instructions)
        except UNREADABLE as error:
            raise refused("input", error) from error

    def error_event(self, error: GatewayError) -> bytes:
        """An event named `error`."""
        return sse.encode(self.error(error), "error")

    def session(self, fields: Mapping[str, Raw]) -> tuple[str, str] | None:
        """`conversation`, else `previous_response_id`."""
        conversation = text(fields, "conversation") or member(fields, "conversation", "id")
        if conversation is not None:
            return conversation, "conversation"
        previous = text(fields, "previous_response_id")
        return None if previous is None else (previous, "previous_response_id")

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """`input` may be absent where the history lies at the server."""
        body, components = super().schema()
        body["anyOf"] = [{"required": [name]} for name in ("input", *STORED)]
        return body, components


def read_items(items: list[Raw], turns: list[Turn] | None = None) -> History:
    """Items of input or output, after `turns`. What the model said and called between two others' messages is one turn.

    Raises msgspec's errors for an item that is no object, or whose type is no text.
    """
    turns = turns or []
    names: dict[str, str] = {}  # of tools, by the ids of their calls
    tools: list[str | None] = []
    answer: MessageBuilder | None = None
    for item in items:
        calls = len(answer.calls) if answer is not None else 0
        message, role, answered = _read_item(item, answer or MessageBuilder())
        if role == "assistant":
            answer, tools = message, []
            for call in message.calls[calls:]:
                names[call.id] = call.name
            continue
        if answered:
            tools.append(names.get(answered))
        if answer is not None:
            turns.append(answer.turn("assistant"))
            answer = None
        turns.append(message.turn(role))
    if answer is not None:
        turns.append(answer.turn("assistant"))
    return History(tuple(turns), known(tools))


def _read_item(raw: Raw, answer: MessageBuilder) -> tuple[MessageBuilder, MessageRole, str | None]:
    """One item: its message (`answer`, to which it was added, when it is the model's), the role, the call that it answers."""
    try:
        item = _ITEM.decode(raw)
    except ValidationError:
        item = None
    message = MessageBuilder()
    if item is not None and item.type == "message" and item.role:
        role = ROLES.get(item.role, "user")
        message = answer if role == "assistant" else message
        message.add(item.content)
        return message, role, None
    if item is not None and item.type in ("function_call", "custom_tool_call"):
        answer.calls.append(ToolCall(item.call_id or "", item.name or "", arguments(item.arguments or item.input)))
        return answer, "assistant", None
    if item is not None and item.type in ("function_call_output", "custom_tool_call_output"):
        message.add(item.output)
        message.marks += ["tool", item.call_id or ""]
        return message, "user", item.call_id
    if _ITEM_TYPE.decode(raw).type.endswith(("_output", "_response")):
        message.marks.append(opaque(raw))
        return message, "user", None
    return answer, "assistant", None  # reasoning, references, calls of the server's own tools
