"""Chat messages with tool calls, and how recorded traffic spells them as text. Knows no template and no model.

A trace holds texts: what the agent was told before a step, and its answer, in which a call of a tool is a line of its own,
`name arguments`, with the arguments as JSON in one canonical spelling (keys in order, no spaces). `conversation` reads the
roles back. What the texts do not tell is lost: a system message is a part of the first user message, the results of parallel
calls are one message, and so is what a user wrote after a result; reasoning and definitions of tools are not there at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

_CALL: Final = re.compile(r"([\w./:-]{1,128}) (\{.*\})")
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is a JSON object in the canonical spelling."""

    name: str
    arguments: str = "{}"

    def values(self) -> dict[str, Any]:
        """The arguments by name."""
        return _OBJECT.decode(self.arguments)


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat. `calls` are an assistant's; tool messages answer the calls of the last assistant, in order."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    calls: tuple[ToolCall, ...] = ()


def read_answer(text: str) -> ChatMessage:
    """The assistant message that a recorded action spells: its last lines are calls as far as they read like calls."""
    lines = text.split("\n")
    calls: list[ToolCall] = []
    while lines and (call := _read_call(lines[-1])) is not None:
        calls.insert(0, call)
        lines.pop()
    return ChatMessage("assistant", "\n".join(lines), tuple(calls))


def conversation(messages: Sequence[str], actions: Sequence[str], *, tools: bool) -> list[ChatMessage]:
    """A recorded episode as chat messages: `messages[t]` was answered with `actions[t]`.

    With `tools`, calls are read from the actions, and what follows a call is the tool's message. Without, all is plain text.
    One message more than actions gives a history that ends where the next answer begins.
    """
    told: list[ChatMessage] = []
    for number, message in enumerate(messages):
        told.append(ChatMessage("tool" if told and told[-1].calls else "user", message))
        if number < len(actions):
            told.append(read_answer(actions[number]) if tools else ChatMessage("assistant", actions[number]))
    return told


def _read_call(line: str) -> ToolCall | None:
    """A line that spells a call. Other spellings of the same JSON are text: only the canonical one was written by us."""
    match = _CALL.fullmatch(line)
    if match is None:
        return None
    try:
        canonical = _ENCODER.encode(_OBJECT.decode(match[2])).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return ToolCall(match[1], match[2]) if canonical == match[2] else None
