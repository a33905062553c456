"""How messages read: as `Turn`s, with one digest for all spellings of a message. Dialects say what their messages hold.

What makes a message that message: role, text, tool calls, parts that are no text. Null and empty fields, statuses, reasoning,
`cache_control` and the spelling of JSON arguments do not. It knows no HTTP and keeps nothing. A part that it cannot read counts
as opaque bytes: judging it is left to the upstream.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal, NamedTuple

from msgspec import Raw, Struct, ValidationError, json

from bitroute.gateway.core.values import Turn
from bitroute.gateway.wire.fields import OBJECT, STRING, number

DEEPEST: Final = 8  # tool results within one another that are read; each level reads all those below it again
MessageRole = Literal["system", "user", "assistant"]
ROLES: dict[str, MessageRole] = {"system": "system", "developer": "system", "assistant": "assistant"}  # any other is the user's

_ANY = json.Decoder(float_hook=number)
_ENCODER = json.Encoder(order="deterministic")


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


_PART = json.Decoder(_Part)


def canonical(value: object) -> str:
    """JSON in one spelling: no spaces, keys in order."""
    return _ENCODER.encode(value).decode()


def arguments(value: str | dict[str, Any] | None) -> str:
    """The canonical spelling of a tool call's arguments; text that is no JSON stays as it is, nothing is `{}`."""
    if not value:
        return "{}"
    try:
        return _ENCODER.encode(_ANY.decode(value) if isinstance(value, str) else value).decode()
    except (ValueError, RecursionError):
        return str(value)


def opaque(raw: Raw) -> bytes:
    """A digest of a part that is no text; where a cache breakpoint stands does not matter."""
    try:
        fields = OBJECT.decode(raw)
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
                self._add_other(raw)
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
                    self.marks.append(opaque(raw))

    def _add_other(self, raw: Raw) -> None:
        """A part that is a bare text (some servers take it), or none of ours."""
        if bytes(raw).startswith(b'"'):
            self.texts.append(STRING.decode(raw))
        else:
            self.marks.append(opaque(raw))

    def turn(self, role: MessageRole) -> Turn:
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


def opening(content: str | list[Raw] | None) -> list[Turn]:
    """What stands outside the list of messages, before them, as one message of the system; none where it is empty."""
    message = MessageBuilder()
    message.add(content)
    return [message.turn("system")] if any(message.texts) or message.marks else []


def known(names: Iterable[str | None]) -> tuple[str, ...]:
    """The tools that are known by name, each once."""
    return tuple(dict.fromkeys(filter(None, names)))
