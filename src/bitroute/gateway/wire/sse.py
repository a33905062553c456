"""Server-sent events as bytes: cut out of a stream, read, and written. What they mean is not known here.

Source: the event stream format of the HTML standard, section 9.2 (lines end with LF, CRLF or CR).
"""

from __future__ import annotations

import re

from bitroute.gateway.core.values import GatewayError

MAX_EVENT = 64 * 1024 * 1024  # bytes of one event: a whole answer comes again in the last event of /v1/responses

_LINE_END = re.compile(rb"\r\n?+|\n")
_EVENT_END = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?+|\n)")


class Splitter:
    """Cuts a stream into events. Chunks may end anywhere; what was fed is what events and tail together hold."""

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._held = bytearray()
        self._searched = 0  # bytes of `_held` in which no event ends
        self._returns = False  # the stream has carriage returns

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, each with its blank line. Raises GatewayError (502) for an event over the limit.

        A CR that ends the chunk may be half of a line end: its event waits for the next byte (or `tail`).
        """
        self._returns = self._returns or b"\r" in chunk
        if not self._held and not self._returns and 0 < chunk.find(b"\n\n") == len(chunk) - 2 and chunk[0] != 0x0A:
            return [chunk]  # the common case
        held = self._held
        held += chunk
        events: list[bytes] = []
        start = 0
        while (end := self._end(start)) is not None:
            events.append(bytes(held[start:end]))
            start = self._searched = end
        del held[:start]
        self._searched = max(0, len(held) - 3)  # an end has up to 4 bytes
        if len(held) > self._limit:
            raise GatewayError(502, "The upstream sent an event that is too large", kind="server_error", code="bad_upstream")
        return events

    def _end(self, start: int) -> int | None:
        """Where the event at `start` ends; an event may be a blank line alone."""
        held = self._held
        if not self._returns:
            if held.startswith(b"\n", start):
                return start + 1
            found = held.find(b"\n\n", self._searched)
            return None if found < 0 else found + 2
        match = _LINE_END.match(held, start) or _EVENT_END.search(held, self._searched)
        return None if match is None or (match.end() == len(held) and held[-1] == 0x0D) else match.end()

    def tail(self) -> bytes:
        """What the stream left when it ended: b"", an event without its blank line, or the last event of a stream of CRs."""
        held = bytes(self._held)
        self._held.clear()
        self._searched = 0
        return held


def data(event: bytes) -> bytes | None:
    """The data of a raw event, its lines joined by LF; None when it has none (a comment, a blank line)."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [_value(line) for line in _LINE_END.split(event) if _is_data(line)]
    return b"\n".join(lines) if lines else None


def encode(data: bytes, event: str | None = None) -> bytes:
    """A raw event of type `event` that carries `data`."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    if b"\n" in data or b"\r" in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    return head + b"data: " + data + b"\n\n"


def replace(event: bytes, data: bytes) -> bytes:
    """The raw event with other data. Its further lines (type, id, comments) stay, in their order, before the data."""
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2:
        return encode(data)
    return b"".join(line + b"\n" for line in _LINE_END.split(event) if line and not _is_data(line)) + encode(data)


def _is_data(line: bytes) -> bool:
    return line == b"data" or line.startswith(b"data:")


def _value(line: bytes) -> bytes:
    return line[5:].removeprefix(b" ")
