"""Messages: `POST /v1/messages`, Anthropic's API. Messages hold blocks, which streams give in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from msgspec import Meta, Raw, Struct, json

from bitroute.gateway.core.values import Call, GatewayError, Tokens, Turn
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.dialects.dialect import Dialect, Request
from bitroute.gateway.wire.fields import OBJECT, STRING, UNREADABLE, given
from bitroute.gateway.wire.history import ROLES, History, MessageBuilder, ToolCall, arguments, known, opening
from bitroute.gateway.wire.reader import AnswerReader

_NOTHING = Raw(b'""')
_TYPES: Final = {  # of errors, by status
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class BlockMessage(Struct):
    """A message: a text, or blocks that the upstream judges."""

    role: str
    content: str | list[Raw]


class MessagesRequest(Request, kw_only=True):
    """A request for a message. Further fields are passed on as they are."""

    messages: Annotated[list[BlockMessage], Meta(min_length=1)]
    system: str | list[Raw] | None = None


class BlockErrorObject(Struct):
    """Why a request failed."""

    type: str
    message: str


class BlockError(Struct, tag_field="type", tag="error"):
    """The body of an error response."""

    error: BlockErrorObject


class _Usage(Struct):
    """`input_tokens` leaves out what was cached."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Block(Struct):
    """What is streamed of one content block: its start, then deltas."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    partial_json: str | None = None


class _BlockEvent(Struct):
    index: int = 0
    content_block: _Block | None = None
    delta: _Block | None = None


_PARTS = json.Decoder(list[Raw])
_USAGE = json.Decoder(_Usage)
_BLOCK_EVENT = json.Decoder(_BlockEvent)


@dataclass(slots=True)
class _StreamedBlock:
    """A content block while it is streamed."""

    type: str = ""
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)


class MessagesReader(AnswerReader):
    """Reads one message."""

    def __init__(self, call: Call, model: str | None) -> None:
        super().__init__(call, model)
        self._started = False
        self._blocks: dict[int, _StreamedBlock] = {}  # by index

    @property
    def answer(self) -> Turn | None:
        """The message as it reads in the next request's history; None when nothing usable came."""
        if self.turn is not None or not self._started:
            return self.turn
        message = MessageBuilder()
        for _, block in sorted(self._blocks.items()):
            whole = "".join(block.pieces)
            if block.type == "text":
                message.texts.append(whole)
            elif block.type == "tool_use":
                message.calls.append(ToolCall(block.id, block.name, arguments(whole)))
        return message.turn("assistant")

    def read_answer(self, top: dict[str, Raw]) -> None:
        """`content`, a list of blocks."""
        if "content" in top:
            message = MessageBuilder()
            message.add(_PARTS.decode(top["content"]))
            self.turn = message.turn("assistant")

    def read_event(self, data: bytes, top: dict[str, Raw], failed: bool) -> bytes:
        """The first event carries the message and the model's name, the others its blocks and usage."""
        try:
            kind = STRING.decode(top.get("type", _NOTHING))
            self.done = self.done or kind == "message_stop"
            self.account(top)
            if kind.startswith("content_block_"):
                self._read_block(_BLOCK_EVENT.decode(data))
            message = given(top, "message")
            if message is None:
                return data
            fields = OBJECT.decode(message)
            if kind == "message_start":
                self._started = True
                self.account(fields)
            if self.rename(fields):
                top["message"] = Raw(json.encode(fields))
                return json.encode(top)
        except UNREADABLE:
            self.malformed += 1
        return data

    def _read_block(self, event: _BlockEvent) -> None:
        if event.content_block is not None:
            block = event.content_block
            self._blocks[event.index] = _StreamedBlock(block.type, block.id or "", block.name or "", [block.text or ""])
        elif event.delta is not None:
            block_so_far = self._blocks.setdefault(event.index, _StreamedBlock())
            block_so_far.pieces.append(event.delta.text or event.delta.partial_json or "")

    def read_usage(self, raw: Raw, before: Tokens) -> Tokens:
        """Usage comes in two events, the later of which may leave out what the earlier said."""
        usage = _USAGE.decode(raw)
        prefill = before.prefill
        if usage.input_tokens is not None:
            prefill = usage.input_tokens + (usage.cache_creation_input_tokens or 0)
        return Tokens(
            prefill,
            before.cached if usage.cache_read_input_tokens is None else usage.cache_read_input_tokens,
            before.decode if usage.output_tokens is None else usage.output_tokens,
        )


class Messages(Dialect):
    """Anthropic's messages."""

    path = "/v1/messages"
    request = MessagesRequest
    refusal = BlockError
    reader = MessagesReader

    def history(self, fields: Mapping[str, Raw]) -> History:
        """`system` and `messages`; the results of tools are those since the model spoke last."""
        messages: list[BlockMessage] = self.read(fields, "messages", required=True)
        turns = opening(self.read(fields, "system"))
        names: dict[str, str] = {}  # of tools, by the ids of their calls
        tools: list[str | None] = []
        for given_message in messages:
            message = MessageBuilder()
            message.add(given_message.content)
            turns.append(message.turn(ROLES.get(given_message.role, "user")))
            if turns[-1].role == "assistant":
                tools = []
            tools += [names[mark] for mark in message.marks if isinstance(mark, str) and mark in names]
            for call in message.calls:
                names[call.id] = call.name
        return History(tuple(turns), known(tools))

    def error(self, error: GatewayError) -> bytes:
        """Anthropic's error object, whose type follows from the status."""
        fallback = "api_error" if error.status >= 500 else "invalid_request_error"
        message = error.message.encode("utf-8", "replace").decode()
        return json.encode(BlockError(BlockErrorObject(_TYPES.get(error.status, fallback), message)))

    def error_event(self, error: GatewayError) -> bytes:
        """An event named `error`."""
        return sse.encode(self.error(error), "error")
