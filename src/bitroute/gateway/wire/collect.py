"""What an upstream answers, read on its way through: the answer as the next history will repeat it, its tokens, its certainty.

It replaces the model's name, takes out usage that the client did not ask for, and passes every other value on as it was
spelled. What it cannot read it relays and counts. It knows nothing of connections and writes no log.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Raw, Struct, json

from bitroute.episode import Signals
from bitroute.gateway.core.values import Call, Endpoint, Tokens, Turn
from bitroute.gateway.wire import sse, turns
from bitroute.gateway.wire.turns import ChatCall, ChatMessage, Function, MessageBuilder, ToolCall

MOST = 2**31 - 1  # tokens of one answer
_INNER = {Endpoint.RESPONSES: "response", Endpoint.MESSAGES: "message"}  # where events hold the answer's own fields
_LAST = {"response.completed", "response.incomplete", "response.failed", "message_stop"}


class _Alternative(Struct):
    logprob: float | None = None


class _Token(Struct):
    """One entry of `logprobs.content`."""

    logprob: float | None = None
    top_logprobs: list[_Alternative] = []


class _Logprobs(Struct):
    """Of chat completions (`content`), or of completions (the two others)."""

    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _Delta(Struct):
    content: str | list[Raw] | None = None
    refusal: str | None = None
    tool_calls: list[ChatCall] | None = None
    function_call: Function | None = None


class _Choice(Struct):
    """A choice of an answer (`message`), of a chunk (`delta`) or of either kind of completion (`text`)."""

    index: int = 0
    delta: _Delta | None = None
    message: ChatMessage | None = None
    text: str | None = None
    logprobs: Raw = Raw()


class _Block(Struct):
    """What `/v1/messages` streams of one content block: its start, then deltas."""

    type: str = ""
    id: str | None = None
    name: str | None = None
    text: str | None = None
    partial_json: str | None = None


class _BlockEvent(Struct):
    index: int = 0
    content_block: _Block | None = None
    delta: _Block | None = None


class _TextPart(Struct):
    logprobs: list[_Token] | None = None


class _OutputItem(Struct):
    content: list[_TextPart] | None = None


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    """Usage in all spellings. Anthropic's `input_tokens` leaves out what was cached, the others' include it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Timings(Struct):
    """What llama.cpp measured."""

    prompt_n: int
    predicted_n: int
    cache_n: int = 0


class _Error(Struct):
    type: str | None = None
    code: str | int | None = None


_FIELDS = json.Decoder(dict[str, Raw])
_PARTS = json.Decoder(list[Raw])
_CHOICES = json.Decoder(list[_Choice] | None)
_LOGPROBS = json.Decoder(_Logprobs)
_BLOCK_EVENT = json.Decoder(_BlockEvent)
_STRING = json.Decoder(str)
_OUTPUT = json.Decoder(list[_OutputItem])
_USAGE = json.Decoder(_Usage)
_TIMINGS = json.Decoder(_Timings)
_ERROR = json.Decoder(_Error)
_COUNT = json.Decoder(int)
_EMPTY, _NOTHING = Raw(b"[]"), Raw(b'""')
_ABSENT = (b"", b"null")
_KIND = re.compile(r"[\w.-]{1,64}")
_UNREADABLE = (ValueError, RecursionError)  # msgspec's errors and Unicode's are ValueErrors


@dataclass(slots=True)
class _Piece:
    """A tool call or content block while it is streamed."""

    id: str = ""
    name: str = ""
    text: list[str] = field(default_factory=list)
    kind: str = ""

    def take(self, id: str | None, function: Function | None) -> None:  # noqa: A002
        """Id and name come once (some servers repeat them), the arguments in pieces."""
        self.id = self.id or id or ""
        if function is not None:
            self.name = self.name or function.name or ""
            said = function.arguments or function.input
            self.text.append(said if isinstance(said, str) else turns.arguments(said) if said else "")

    def call(self) -> ToolCall:
        return ToolCall(self.id, self.name, turns.arguments("".join(self.text)))


class Collector:
    """Reads one answer of `call`. `model` is the name that the client sees in it, None for the one it asked for.

    Feed it the whole body (`whole`) or the stream's events in order (`event`); each returns what the client gets. The
    attributes are right at any time for what was read so far: `done` (the answer came to its end), `failed` (why it did not: an
    error chunk, no JSON), `malformed` (how often JSON could not be read). Choices other than the first are relayed, not read.
    """

    def __init__(self, call: Call, model: str | None) -> None:
        self.done = False
        self.failed: str | None = None
        self.malformed = 0
        self._endpoint = call.endpoint
        self._model = json.encode(call.model if model is None else model)
        self._keep_usage = call.wants_usage
        self._measure = _asks_alternatives(call)
        self._turn: Turn | None = None  # of an answer that came whole
        self._started = False  # the stream has a first choice
        self._texts: list[str] = []
        self._pieces: dict[int, _Piece] = {}  # by index
        self._usage: Tokens | None = None
        self._timings: Tokens | None = None
        self._signals: list[tuple[float, float, float]] | None = []  # logprob, entropy, margin; None: not of every token

    def whole(self, body: bytes) -> bytes:
        """A body that is no stream; the model's name is replaced where there is one."""
        try:
            top = _FIELDS.decode(body)
        except _UNREADABLE:
            self.malformed += 1
            self.failed = "the answer is no JSON object"
            return body
        if not self._fails(top):
            self.done = True
            self._read_answer(top)
        return json.encode(top) if self._rename(top) else body

    def event(self, raw: bytes) -> bytes:
        """One raw event of a stream, as it is to be sent; b"" where the client is not to get it."""
        data = sse.data(raw)
        if data is None:
            return raw
        if data == b"[DONE]":
            self.done = True
            return raw
        try:
            top = _FIELDS.decode(data)
        except _UNREADABLE:
            self.malformed += 1
            return raw
        failed = self._fails(top)
        if self._endpoint in _INNER:
            changed = self._read_typed(top, data)
        else:
            bare = self._read_chunk(top) and not failed
            changed = self._rename(top)
            if not self._keep_usage and "usage" in top:
                if bare and _given(top, "usage") is not None:
                    return b""
                del top["usage"]
                changed = True
        return sse.replace(raw, json.encode(top)) if changed else raw

    @property
    def answer(self) -> Turn | None:
        """The answer's first choice as `turns` reads it in the next request's history; None when nothing usable came."""
        if self._turn is not None or not self._started:
            return self._turn
        draft = MessageBuilder()
        if self._endpoint is Endpoint.MESSAGES:
            pieces = [self._pieces[index] for index in sorted(self._pieces)]
            draft.texts = ["".join(piece.text) for piece in pieces if piece.kind == "text"]
            draft.calls = [piece.call() for piece in pieces if piece.kind == "tool_use"]
        else:
            draft.texts = ["".join(self._texts)]
            draft.calls = [self._pieces[index].call() for index in sorted(self._pieces)]
        return draft.turn("assistant")

    @property
    def tokens(self) -> Tokens | None:
        """What the upstream says it processed: llama.cpp's own counts where it tells them, else `usage`.

        Counts that cannot be (-1 for unknown) are brought into range: metrics, costs and limits are sums of them.
        """
        told = self._timings or self._usage
        return told and Tokens(*(max(0, min(count, MOST)) for count in (told.prefill, told.cached, told.decode)))

    @property
    def signals(self) -> Signals | None:
        """One entry per token when the client asked for two or more alternatives of each and they came; else None.

        The entropy is of the listed alternatives with all others lumped into one: a lower bound.
        """
        if not self._measure or not self._signals:
            return None
        logprobs, entropy, margin = zip(*self._signals, strict=True)
        return Signals(logprobs, logprobs, entropy, margin)

    def _rename(self, fields: dict[str, Raw]) -> bool:
        """Put the shown name in the place of the upstream's; says whether that changed anything."""
        if "model" not in fields or bytes(fields["model"]) == self._model:
            return False
        fields["model"] = Raw(self._model)
        return True

    def _fails(self, top: dict[str, Raw]) -> bool:
        """Note an error object, by its kind only: messages may quote the request."""
        error = _given(top, "error")
        if error is None:
            if bytes(top.get("type", b"")) != b'"error"':
                return False
            error = Raw(json.encode(top))  # /v1/responses spreads its error over the event
        try:
            known = _ERROR.decode(error)
            kind = str(known.code or known.type or "")
        except _UNREADABLE:
            kind = ""
        self.failed = f"the upstream sent an error{f' ({kind})' if _KIND.fullmatch(kind) else ''}"
        return True

    def _read_answer(self, top: dict[str, Raw]) -> None:
        """A whole answer object, of any dialect."""
        try:
            self._account(top)
            if self._endpoint is Endpoint.RESPONSES:
                output = top.get("output", _EMPTY)
                said = turns.items(output).turns if _PARTS.decode(output) else ()
                self._turn = next((turn for turn in reversed(said) if turn.role == "assistant"), None)
                if self._measure:
                    for item in _OUTPUT.decode(output):
                        for part in item.content or ():
                            self._weigh(part.logprobs or ())
            elif self._endpoint is Endpoint.MESSAGES:
                draft = MessageBuilder()
                draft.add(_PARTS.decode(top["content"]) if "content" in top else ())
                self._turn = draft.turn("assistant") if "content" in top else None
            else:
                self._read_choices(_CHOICES.decode(top.get("choices", _EMPTY)) or [])
        except _UNREADABLE:
            self.malformed += 1

    def _read_chunk(self, top: dict[str, Raw]) -> bool:
        """A chunk of chat completions or completions; says whether it has no choices."""
        try:
            self._account(top)
            choices = _CHOICES.decode(top.get("choices", _EMPTY)) or []
            self._read_choices(choices)
        except _UNREADABLE:
            self.malformed += 1
            return False
        return not choices

    def _read_choices(self, choices: list[_Choice]) -> None:
        for choice in choices:
            if choice.index != 0:
                continue
            self._started = True
            if choice.message is not None:
                choice.message.role = "assistant"
                self._turn, _ = turns.chat_turn(choice.message)
            if choice.text:
                self._texts.append(choice.text)
            if choice.delta is not None:
                self._read_delta(choice.delta)
            if self._measure and bytes(choice.logprobs) not in _ABSENT:
                self._read_logprobs(_LOGPROBS.decode(choice.logprobs))

    def _read_delta(self, delta: _Delta) -> None:
        if isinstance(said := delta.content or delta.refusal, str):
            self._texts.append(said)
        elif said:  # parts, of servers that stream reasoning as content
            draft = MessageBuilder()
            draft.add(said)
            self._texts += draft.texts
        if delta.function_call is not None:
            self._piece(-1).take(None, delta.function_call)
        for call in delta.tool_calls or ():
            index = call.index
            if index is None:  # some servers leave it out: an id begins the next call
                index = max(self._pieces, default=-1 if call.id else 0) + bool(call.id)
            self._piece(index).take(call.id, call.function or call.custom)

    def _read_typed(self, top: dict[str, Raw], data: bytes) -> bool:
        """An event of /v1/responses or /v1/messages; says whether it was changed."""
        try:
            kind = _STRING.decode(top.get("type", _NOTHING))
            self.done = self.done or kind in _LAST
            if self._endpoint is Endpoint.MESSAGES:
                self._account(top)
                if kind.startswith("content_block_"):
                    self._read_block(_BLOCK_EVENT.decode(data))
            inner = self._inner(top)
            if inner is None:
                return False
            if kind == "message_start":
                self._started = True
                self._account(inner)
            elif kind in _LAST and not self._fails(inner):
                self._read_answer(inner)
            if self._rename(inner):
                top[_INNER[self._endpoint]] = Raw(json.encode(inner))
                return True
        except _UNREADABLE:
            self.malformed += 1
        return False

    def _inner(self, top: dict[str, Raw]) -> dict[str, Raw] | None:
        raw = _given(top, _INNER[self._endpoint])
        return None if raw is None else _FIELDS.decode(raw)

    def _read_block(self, event: _BlockEvent) -> None:
        if event.content_block is not None:
            block = event.content_block
            self._pieces[event.index] = _Piece(block.id or "", block.name or "", [block.text or ""], block.type)
        elif event.delta is not None:
            self._piece(event.index).text.append(event.delta.text or event.delta.partial_json or "")

    def _piece(self, index: int) -> _Piece:
        return self._pieces.setdefault(index, _Piece())

    def _account(self, top: dict[str, Raw]) -> None:
        if (timings := _given(top, "timings")) is not None:
            measured = _TIMINGS.decode(timings)
            self._timings = Tokens(measured.prompt_n, measured.cache_n, measured.predicted_n)
        if (usage := _given(top, "usage")) is not None:
            self._usage = _tokens(_USAGE.decode(usage), self._usage or Tokens(), self._endpoint)

    def _read_logprobs(self, logprobs: _Logprobs) -> None:
        if logprobs.content is not None:
            self._weigh(logprobs.content)
        elif logprobs.token_logprobs is not None:
            listed = logprobs.top_logprobs or []
            for logprob, others in zip(logprobs.token_logprobs, listed, strict=True):
                self._weigh([_Token(logprob, [_Alternative(other) for other in (others or {}).values()])])

    def _weigh(self, tokens: Sequence[_Token]) -> None:
        for token in tokens:
            listed = sorted((other.logprob for other in token.top_logprobs if other.logprob is not None), reverse=True)
            if self._signals is None or token.logprob is None or len(listed) < 2:
                self._signals = None
                return
            shares = [math.exp(min(logprob, 0.0)) for logprob in listed]  # above 0 is rounding, or no probability at all
            rest = 1.0 - sum(shares)
            entropy = -sum(share * logprob for share, logprob in zip(shares, listed, strict=True))
            entropy -= rest * math.log(rest) if rest > 0 else 0.0
            self._signals.append((token.logprob, entropy, shares[0] - shares[1]))


def _given(fields: dict[str, Raw], key: str) -> Raw | None:
    """The value of a field, None where it is absent or null."""
    raw = fields.get(key)
    return None if raw is None or bytes(raw) in _ABSENT else raw


def _tokens(usage: _Usage, before: Tokens, endpoint: Endpoint) -> Tokens:
    """`usage` in our terms. Anthropic tells it in two events, the later of which may leave out what the earlier said."""
    if endpoint is Endpoint.MESSAGES:
        told = usage.input_tokens is not None
        return Tokens(
            (usage.input_tokens or 0) + (usage.cache_creation_input_tokens or 0) if told else before.prefill,
            before.cached if usage.cache_read_input_tokens is None else usage.cache_read_input_tokens,
            before.decode if usage.output_tokens is None else usage.output_tokens,
        )
    prompt = usage.prompt_tokens or usage.input_tokens or 0
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = min(prompt, (details.cached_tokens if details else None) or 0)
    return Tokens(prompt - cached, cached, usage.completion_tokens or usage.output_tokens or 0)


def _asks_alternatives(call: Call) -> bool:
    """Whether the client asked for two or more alternatives of every token."""
    raw = call.fields.get("logprobs" if call.endpoint is Endpoint.COMPLETIONS else "top_logprobs")
    try:
        return raw is not None and _COUNT.decode(raw) >= 2
    except _UNREADABLE:
        return False
