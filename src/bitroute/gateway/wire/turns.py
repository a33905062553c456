"""How a history reads: the messages of four API dialects as `Turn`s, with one digest for all spellings of a message.

It knows what the dialects' messages look like and what makes a message that message: role, text, tool calls, parts that are no
text. Null and empty fields, statuses, reasoning, `cache_control` and the spelling of JSON arguments do not. It knows no HTTP
and keeps nothing. A part that it cannot read counts as opaque bytes: judging it is left to the upstream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, NamedTuple

from msgspec import Meta, Raw, Struct, ValidationError, json

from bitroute.gateway.core.values import Turn

DEEPEST: Final = 8  # tool results within one another that are read; each level reads all those below it again
Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "assistant": "assistant"}  # any other is the user's


class ToolCall(NamedTuple):
    """One call of a tool, `arguments` in canonical JSON (or as it came, where it is none)."""

    id: str
    name: str
    arguments: str


class _Part(Struct):
    """A content part or block, of any dialect."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw()
    tool_use_id: str | None = None
    content: str | list[Raw] | None = None
    is_error: bool | None = None


class Function(Struct):
    """What a chat message says of a called function."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None  # of a custom tool


class ChatCall(Struct):
    """One entry of `tool_calls`; `index` only in streams."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None
    custom: Function | None = None


class ChatMessage(Struct):
    """A message of chat completions, in a request or in an answer."""

    role: str
    content: str | list[Raw] | None = None
    name: str | None = None
    tool_calls: list[ChatCall] | None = None
    tool_call_id: str | None = None
    function_call: Function | None = None
    refusal: str | None = None


class _BlockMessage(Struct):
    """A message of `/v1/messages`."""

    role: str
    content: str | list[Raw]


class _Item(Struct):
    """An input or output item of `/v1/responses`."""

    type: str = "message"
    role: str | None = None
    content: str | list[Raw] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: str | list[Raw] | None = None


class _Kind(Struct):
    type: str = ""


def _number(text: str) -> int | float:
    """JavaScript writes 1.0 as 1: whole floats are one number with their integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_ANY = json.Decoder(float_hook=_number)
_FIELDS = json.Decoder(dict[str, Raw])
_PART = json.Decoder(_Part)
_ITEM = json.Decoder(_Item)
_KIND = json.Decoder(_Kind)
_ITEMS = json.Decoder(str | Annotated[list[Raw], Meta(min_length=1)])
_CHAT = json.Decoder(Annotated[list[ChatMessage], Meta(min_length=1)], float_hook=_number)
_BLOCKS = json.Decoder(Annotated[list[_BlockMessage], Meta(min_length=1)])
_PROMPT = json.Decoder(str | Annotated[list[str | int | list[int]], Meta(min_length=1)])
_CONTENT = json.Decoder(str | list[Raw] | None)
_ENCODER = json.Encoder(order="deterministic")


def arguments(value: str | dict[str, Any] | None) -> str:
    """The canonical spelling of a tool call's arguments; text that is no JSON stays as it is, nothing is `{}`."""
    if not value:
        return "{}"
    try:
        return _ENCODER.encode(_ANY.decode(value) if isinstance(value, str) else value).decode()
    except (ValueError, RecursionError):
        return str(value)


def _opaque(raw: Raw) -> bytes:
    """A digest of a part that is no text; where a cache breakpoint stands does not matter."""
    try:
        fields = _FIELDS.decode(raw)
    except ValidationError:
        return blake2b(raw, digest_size=16).digest()
    return blake2b(
        _ENCODER.encode({key: value for key, value in fields.items() if key != "cache_control"}), digest_size=16
    ).digest()


@dataclass(slots=True)
class MessageBuilder:
    """What one message has said so far.

    `marks` are what else identifies it: ids of tool results, a speaker's name, digests of images. They do not count for the
    model's own messages, nor does white space around those: clients give back text and calls, and some trim the text.
    """

    texts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    marks: list[str | bytes] = field(default_factory=list)

    def add(self, content: str | Sequence[Raw] | None, depth: int = 0) -> None:
        """Add content: a text, or a list of parts of any dialect; `depth` counts the tool results around it."""
        if isinstance(content, str):
            self.texts.append(content)
            return
        for raw in content or ():
            try:
                part = _PART.decode(raw)
            except ValidationError:
                self._odd(raw)
                continue
            match part.type:
                case "text" | "input_text" | "output_text" | "refusal" if (text := part.text or part.refusal) is not None:
                    self.texts.append(text)
                case "thinking" | "redacted_thinking" | "reasoning":
                    pass
                case "tool_use":
                    self.calls.append(ToolCall(part.id or "", part.name or "", arguments(bytes(part.input).decode())))
                case "tool_result" if depth < DEEPEST:
                    self.marks += [part.tool_use_id or "", "error" if part.is_error else ""]
                    self.add(part.content, depth + 1)
                case _:
                    self.marks.append(_opaque(raw))

    def _odd(self, raw: Raw) -> None:
        """A part that is a bare text (some servers take it), or none of ours."""
        if bytes(raw).startswith(b'"'):
            self.texts.append(json.decode(raw, type=str))
        else:
            self.marks.append(_opaque(raw))

    def turn(self, role: Role) -> Turn:
        """The finished message. Its text reads what was said first, then one line `name arguments` a call."""
        text = "\n".join(filter(None, self.texts))
        same = (text.strip(), self.calls) if role == "assistant" else (text, self.marks)
        identity = _ENCODER.encode((role, *same))
        if self.calls:
            text = "\n".join(filter(None, (text, *[f"{call.name} {call.arguments}" for call in self.calls])))
        return Turn(role, text, blake2b(identity, digest_size=16).digest())


@dataclass(frozen=True, slots=True)
class History:
    """The turns of a request, and the tools whose results came since the model spoke last, in their order."""

    turns: tuple[Turn, ...]
    tools: tuple[str, ...] = ()


def chat_call(call: ChatCall) -> ToolCall:
    """The call of a tool as `tool_calls` spells it."""
    if call.function is None and call.custom is not None:
        return ToolCall(call.id or "", call.custom.name or "", arguments(call.custom.input))
    function = call.function or Function()
    return ToolCall(call.id or "", function.name or "", arguments(function.arguments))


def chat_turn(message: ChatMessage) -> tuple[Turn, list[ToolCall]]:
    """One chat message, and the calls it makes."""
    draft = MessageBuilder()
    draft.add(message.content or message.refusal)
    calls = draft.calls
    role = ROLES.get(message.role, "user")
    if role == "assistant":
        if message.function_call is not None:
            calls.append(ToolCall("", message.function_call.name or "", arguments(message.function_call.arguments)))
        if message.tool_calls:
            calls += map(chat_call, message.tool_calls)
    elif message.role == "tool":
        draft.marks += ("tool", message.tool_call_id or "")
    elif message.name:
        draft.marks.append(message.name)
    return draft.turn(role), calls


def chat(raw: Raw) -> History:
    """`messages` of chat completions. Raises msgspec's errors where it is no list of messages."""
    turns: list[Turn] = []
    names: dict[str, str] = {}
    tools: list[str | None] = []
    for message in _CHAT.decode(raw):
        turn, calls = chat_turn(message)
        turns.append(turn)
        for call in calls:
            names[call.id] = call.name
        if turn.role == "assistant":
            tools = []
        elif message.role == "tool":
            tools.append(names.get(message.tool_call_id or "") or message.name)
        elif message.role == "function":
            tools.append(message.name)
    return History(tuple(turns), _named(tools))


def completion(raw: Raw) -> History:
    """`prompt`: a text, a list of texts, token ids or a list of those, as one message of the user."""
    prompt = _PROMPT.decode(raw)
    if isinstance(prompt, list):
        prompt = "\n".join(text if isinstance(text, str) else _ENCODER.encode(text).decode() for text in prompt)
    return History((MessageBuilder([prompt]).turn("user"),))


def blocks(raw: Raw, system: Raw | None) -> History:
    """`messages` and `system` of `/v1/messages`. Raises msgspec's errors where they are not."""
    turns = _opening(system)
    names: dict[str, str] = {}
    tools: list[str | None] = []
    for message in _BLOCKS.decode(raw):
        draft = MessageBuilder()
        draft.add(message.content)
        turns.append(draft.turn(ROLES.get(message.role, "user")))
        if turns[-1].role == "assistant":
            tools = []
        tools += [names[mark] for mark in draft.marks if isinstance(mark, str) and mark in names]
        for call in draft.calls:
            names[call.id] = call.name
    return History(tuple(turns), _named(tools))


def _named(tools: list[str | None]) -> tuple[str, ...]:
    """Those that are known by name, each once."""
    return tuple(dict.fromkeys(filter(None, tools)))


def _opening(raw: Raw | None) -> list[Turn]:
    """What stands outside the list of messages, before them."""
    draft = MessageBuilder()
    if raw is not None:
        draft.add(_CONTENT.decode(raw))
    return [draft.turn("system")] if any(draft.texts) or draft.marks else []


def items(raw: Raw, instructions: Raw | None = None) -> History:
    """`input` and `instructions` of `/v1/responses`; `output` of its answers reads the same.

    What the model said and called between two messages of the other side is one turn.
    """
    turns = _opening(instructions)
    given = _ITEMS.decode(raw)
    if isinstance(given, str):
        return History((*turns, MessageBuilder([given]).turn("user")))
    names: dict[str, str] = {}
    tools: list[str | None] = []
    answer: MessageBuilder | None = None
    for item in given:
        known = len(answer.calls) if answer is not None else 0
        said, role, called = _item(item, answer or MessageBuilder())
        if role == "assistant":
            answer, tools = said, []
            for call in said.calls[known:]:
                names[call.id] = call.name
            continue
        if called:
            tools.append(names.get(called))
        if answer is not None:
            turns.append(answer.turn("assistant"))
            answer = None
        turns.append(said.turn(role))
    if answer is not None:
        turns.append(answer.turn("assistant"))
    return History(tuple(turns), _named(tools))


def _item(raw: Raw, answer: MessageBuilder) -> tuple[MessageBuilder, Role, str | None]:
    """One item: the draft it belongs to (`answer`, to which it was added, when the model's), its role, the call it answers."""
    try:
        item = _ITEM.decode(raw)
    except ValidationError:
        item = None
    draft = MessageBuilder()
    if item is not None and item.type == "message" and item.role:
        role = ROLES.get(item.role, "user")
        draft = answer if role == "assistant" else draft
        draft.add(item.content)
        return draft, role, None
    if item is not None and item.type in ("function_call", "custom_tool_call"):
        answer.calls.append(ToolCall(item.call_id or "", item.name or "", arguments(item.arguments or item.input)))
        return answer, "assistant", None
    if item is not None and item.type in ("function_call_output", "custom_tool_call_output"):
        draft.add(item.output)
        draft.marks += ["tool", item.call_id or ""]
        return draft, "user", item.call_id
    if _KIND.decode(raw).type.endswith(("_output", "_response")):  # no object, or its type no text: the request is refused
        draft.marks.append(_opaque(raw))
        return draft, "user", None
    return answer, "assistant", None  # reasoning, references, calls of the server's own tools
