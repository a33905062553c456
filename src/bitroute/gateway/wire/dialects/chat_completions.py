"""Chat completions: `POST /v1/chat/completions`. Messages with tool calls; answers and chunks of choices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct, json

from bitroute.gateway.core.values import Call, Turn
from bitroute.gateway.wire.certainty import Token
from bitroute.gateway.wire.dialects.openai import Choice, ChoicesDialect, ChoicesReader, ChoicesRequest
from bitroute.gateway.wire.history import ROLES, History, MessageBuilder, ToolCall, arguments, known


class Function(Struct):
    """What a message says of a called function."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None  # of a custom tool


class ChatToolCall(Struct):
    """One entry of `tool_calls`; `index` only in streams."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Function | None = None

    def call(self) -> ToolCall:
        """The call, in its canonical spelling."""
        if self.function is None and self.custom is not None:
            return ToolCall(self.id or "", self.custom.name or "", arguments(self.custom.input))
        function = self.function or Function()
        return ToolCall(self.id or "", function.name or "", arguments(function.arguments))


class ChatMessage(Struct):
    """A message, in a request or in an answer. Parts of its content are the upstream's to judge."""

    role: str
    content: str | list[Raw] | None = None
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    function_call: Function | None = None
    refusal: str | None = None

    def turn(self) -> tuple[Turn, list[ToolCall]]:
        """As it reads, and the calls it makes."""
        message = MessageBuilder()
        message.add(self.content or self.refusal)
        calls = message.calls
        role = ROLES.get(self.role, "user")
        if role == "assistant":
            if self.function_call is not None:
                calls.append(ToolCall("", self.function_call.name or "", arguments(self.function_call.arguments)))
            if self.tool_calls:
                calls += map(ChatToolCall.call, self.tool_calls)
        elif self.role == "tool":
            message.marks += ("tool", self.tool_call_id or "")
        elif self.name:
            message.marks.append(self.name)
        return message.turn(role), calls


class ChatCompletionsRequest(ChoicesRequest, kw_only=True):
    """A request for a chat completion. Further fields are passed on as they are."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]


class _Delta(Struct):
    content: str | list[Raw] | None = None
    refusal: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    function_call: Function | None = None


class _Choice(Choice):
    """A choice of an answer (`message`) or of a chunk (`delta`)."""

    delta: _Delta | None = None
    message: ChatMessage | None = None


class _Logprobs(Struct):
    content: list[Token] | None = None


_LOGPROBS = json.Decoder(_Logprobs)


@dataclass(slots=True)
class _StreamedCall:
    """A tool call while it is streamed."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def add(self, id: str | None, function: Function | None) -> None:  # noqa: A002
        """Id and name come once (some servers repeat them), the arguments in pieces."""
        self.id = self.id or id or ""
        if function is not None:
            self.name = self.name or function.name or ""
            piece = function.arguments or function.input
            self.arguments.append(piece if isinstance(piece, str) else arguments(piece) if piece else "")

    def call(self) -> ToolCall:
        """What was streamed so far."""
        return ToolCall(self.id, self.name, arguments("".join(self.arguments)))


class ChatReader(ChoicesReader):
    """Reads one chat completion."""

    choices = json.Decoder(list[_Choice] | None)

    def __init__(self, call: Call, model: str | None) -> None:
        super().__init__(call, model)
        self._texts: list[str] = []
        self._calls: dict[int, _StreamedCall] = {}  # by index

    @property
    def answer(self) -> Turn | None:
        """The first choice as it reads in the next request's history; None when nothing usable came."""
        if self.turn is not None or not self.started:
            return self.turn
        message = MessageBuilder(["".join(self._texts)])
        message.calls = [self._calls[index].call() for index in sorted(self._calls)]
        return message.turn("assistant")

    def read_choice(self, choice: _Choice) -> None:
        """A message, or what a chunk adds to it."""
        if choice.message is not None:
            choice.message.role = "assistant"
            self.turn, _ = choice.message.turn()
        if choice.delta is not None:
            self._read_delta(choice.delta)

    def _read_delta(self, delta: _Delta) -> None:
        if isinstance(content := delta.content or delta.refusal, str):
            self._texts.append(content)
        elif content:  # parts, of servers that stream reasoning as content
            parts = MessageBuilder()
            parts.add(content)
            self._texts += parts.texts
        if delta.function_call is not None:
            self._call(-1).add(None, delta.function_call)
        for call in delta.tool_calls or ():
            index = call.index
            if index is None:  # some servers leave it out: an id begins the next call
                index = max(self._calls, default=-1 if call.id else 0) + bool(call.id)
            self._call(index).add(call.id, call.function or call.custom)

    def _call(self, index: int) -> _StreamedCall:
        return self._calls.setdefault(index, _StreamedCall())

    def read_logprobs(self, raw: Raw) -> None:
        """`content`, a list of tokens."""
        if self.certainty is not None and (tokens := _LOGPROBS.decode(raw).content) is not None:
            self.certainty.add(tokens)


class ChatCompletions(ChoicesDialect):
    """OpenAI's chat completions, and those of every server that speaks like it."""

    path = "/v1/chat/completions"
    request = ChatCompletionsRequest
    reader = ChatReader

    def history(self, fields: Mapping[str, Raw]) -> History:
        """`messages`; the results of tools are those since the model spoke last."""
        messages: list[ChatMessage] = self.read(fields, "messages", required=True)
        turns: list[Turn] = []
        names: dict[str, str] = {}  # of tools, by the ids of their calls
        tools: list[str | None] = []
        for message in messages:
            turn, calls = message.turn()
            turns.append(turn)
            for call in calls:
                names[call.id] = call.name
            if turn.role == "assistant":
                tools = []
            elif message.role == "tool":
                tools.append(names.get(message.tool_call_id or "") or message.name)
            elif message.role == "function":
                tools.append(message.name)
        return History(tuple(turns), known(tools))
