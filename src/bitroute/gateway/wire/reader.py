"""What an upstream answers, read on its way through: the answer as the next history will repeat it, its tokens, its certainty.

It replaces the model's name, and passes every value on as it was spelled unless its dialect says otherwise. What it cannot read
it relays and counts. It knows nothing of connections and writes no log. Where the answer stands in a body or in events is for
the dialects.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from msgspec import Raw, Struct, json

from bitroute.episode import Signals
from bitroute.gateway.core.values import Call, Tokens, Turn
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.certainty import Certainty
from bitroute.gateway.wire.fields import OBJECT, UNREADABLE, given

MOST = 2**31 - 1  # tokens of one answer


class _Timings(Struct):
    """What llama.cpp measured."""

    prompt_n: int
    predicted_n: int
    cache_n: int = 0


class _Error(Struct):
    type: str | None = None
    code: str | int | None = None


_TIMINGS = json.Decoder(_Timings)
_ERROR = json.Decoder(_Error)
_COUNT = json.Decoder(int)
_KIND = re.compile(r"[\w.-]{1,64}")


class AnswerReader(ABC):
    """Reads one answer of `call`. `model` is the name that the client sees in it, None for the one it asked for.

    Feed it the whole body (`whole`) or the stream's events in order (`event`); each returns what the client gets. The
    attributes are right at any time for what was read so far: `done` (the answer came to its end), `failed` (why it did not: an
    error chunk, no JSON), `malformed` (how often JSON could not be read).

    A dialect gives `read_answer`, `read_event`, `read_usage` and, where streams have one in pieces, `answer`. They may raise
    what msgspec raises.
    """

    alternatives: ClassVar[str | None] = None  # the request's field that asks for so many alternatives of each token

    def __init__(self, call: Call, model: str | None) -> None:
        self.done = False
        self.failed: str | None = None
        self.malformed = 0
        self.certainty = Certainty() if _asks_alternatives(call, self.alternatives) else None
        self.turn: Turn | None = None  # of an answer that came whole
        self._model = json.encode(call.model if model is None else model)
        self._usage: Tokens | None = None
        self._timings: Tokens | None = None

    def whole(self, body: bytes) -> bytes:
        """A body that is no stream; the model's name is replaced where there is one."""
        try:
            top = OBJECT.decode(body)
        except UNREADABLE:
            self.malformed += 1
            self.failed = "the answer is no JSON object"
            return body
        if not self.fails(top):
            self.done = True
            self.take(top)
        return json.encode(top) if self.rename(top) else body

    def event(self, raw: bytes) -> bytes:
        """One raw event of a stream, as it is to be sent; b"" where the client is not to get it."""
        data = sse.data(raw)
        if data is None:
            return raw
        if data == b"[DONE]":
            self.done = True
            return raw
        try:
            top = OBJECT.decode(data)
        except UNREADABLE:
            self.malformed += 1
            return raw
        sent = self.read_event(data, top, self.fails(top))
        if sent is data:
            return raw
        return sse.replace(raw, sent) if sent else b""

    @abstractmethod
    def read_answer(self, top: dict[str, Raw]) -> None:
        """Read a whole answer object: set `turn`, feed `certainty`."""

    @abstractmethod
    def read_event(self, data: bytes, top: dict[str, Raw], failed: bool) -> bytes:
        """Read one event, `top` by its fields; `failed` says that it is an error. Set `done` at the answer's last one.

        Returns the data that the client gets: `data` itself where nothing changed, b"" where it gets no such event.
        """

    @abstractmethod
    def read_usage(self, raw: Raw, before: Tokens) -> Tokens:
        """The dialect's `usage` object, `before` what an earlier one said."""

    @property
    def answer(self) -> Turn | None:
        """The answer (its first choice) as it reads in the next request's history; None when nothing usable came."""
        return self.turn

    @property
    def tokens(self) -> Tokens | None:
        """What the upstream says it processed: llama.cpp's own counts where it tells them, else `usage`.

        Counts that cannot be (-1 for unknown) are brought into range: metrics, costs and limits are sums of them.
        """
        counts = self._timings or self._usage
        return counts and Tokens(*(max(0, min(count, MOST)) for count in (counts.prefill, counts.cached, counts.decode)))

    @property
    def signals(self) -> Signals | None:
        """One entry per token when the client asked for two or more alternatives of each and they came; else None."""
        return None if self.certainty is None else self.certainty.signals

    def take(self, top: dict[str, Raw]) -> None:
        """Read a whole answer object and its tokens; count it where that cannot be done."""
        try:
            self.account(top)
            self.read_answer(top)
        except UNREADABLE:
            self.malformed += 1

    def rename(self, fields: dict[str, Raw]) -> bool:
        """Put the shown name where the upstream's stands; says whether that changed anything."""
        if "model" not in fields or bytes(fields["model"]) == self._model:
            return False
        fields["model"] = Raw(self._model)
        return True

    def fails(self, top: dict[str, Raw]) -> bool:
        """Note an error object, by its kind only: messages may quote the request."""
        error = given(top, "error")
        if error is None:
            if bytes(top.get("type", b"")) != b'"error"':
                return False
            error = Raw(json.encode(top))  # /v1/responses spreads its error over the event
        try:
            known = _ERROR.decode(error)
            kind = str(known.code or known.type or "")
        except UNREADABLE:
            kind = ""
        self.failed = f"the upstream sent an error{f' ({kind})' if _KIND.fullmatch(kind) else ''}"
        return True

    def account(self, top: dict[str, Raw]) -> None:
        """Note the tokens that an object tells."""
        if (timings := given(top, "timings")) is not None:
            measured = _TIMINGS.decode(timings)
            self._timings = Tokens(measured.prompt_n, measured.cache_n, measured.predicted_n)
        if (usage := given(top, "usage")) is not None:
            self._usage = self.read_usage(usage, self._usage or Tokens())


def _asks_alternatives(call: Call, name: str | None) -> bool:
    """Whether the client asked for two or more alternatives of every token."""
    raw = call.fields.get(name) if name else None
    try:
        return raw is not None and _COUNT.decode(raw) >= 2
    except UNREADABLE:
        return False
