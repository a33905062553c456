"""What OpenAI's dialects share: the shape of errors, how usage is counted, and (two of them) answers made of choices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import Raw, Struct, json

from bitroute.gateway.core.values import Call, GatewayError, Tokens
from bitroute.gateway.wire.dialects.dialect import Dialect, Request
from bitroute.gateway.wire.fields import ABSENT, OBJECT, UNREADABLE, given
from bitroute.gateway.wire.reader import AnswerReader


class ErrorObject(Struct):
    """Why a request failed."""

    message: str
    type: str
    param: str | None = None
    code: str | int | None = None


class Error(Struct):
    """The body of an error response."""

    error: ErrorObject


class _Details(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    """Usage in both spellings; what was cached is part of the input."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


_USAGE = json.Decoder(_Usage)


class OpenAIDialect(Dialect):
    """A dialect with OpenAI's errors."""

    refusal = Error

    def error(self, error: GatewayError) -> bytes:
        """OpenAI's error object."""
        message = error.message.encode("utf-8", "replace").decode()
        return json.encode(Error(ErrorObject(message, error.kind, error.param, error.code)))


class OpenAIReader(AnswerReader):
    """A reader of OpenAI's usage."""

    alternatives = "top_logprobs"

    def read_usage(self, raw: Raw, before: Tokens) -> Tokens:
        """Each usage object tells all."""
        usage = _USAGE.decode(raw)
        prompt = usage.prompt_tokens or usage.input_tokens or 0
        details = usage.prompt_tokens_details or usage.input_tokens_details
        cached = min(prompt, (details.cached_tokens if details else None) or 0)
        return Tokens(prompt - cached, cached, usage.completion_tokens or usage.output_tokens or 0)


class StreamOptions(Struct):
    """What a stream is to tell besides the answer."""

    include_usage: bool | None = None


class ChoicesRequest(Request, kw_only=True):
    """What is read of a request whose answer has choices; `stream_options` of a stream alone."""

    stream_options: StreamOptions | None = None


class ChoicesDialect(OpenAIDialect):
    """A dialect whose streams tell usage only when asked. The gateway asks, and takes out what the client did not ask for."""

    def tells_usage(self, fields: Mapping[str, Raw]) -> bool:
        """As `stream_options` say."""
        options: StreamOptions | None = self.read(fields, "stream_options")
        return options is not None and bool(options.include_usage)

    def forward(self, call: Call, model: str) -> bytes:
        """The model's name and, in a stream, `include_usage` are replaced."""
        if call.wants_usage:
            return super().forward(call, model)
        options = given(call.fields, "stream_options")
        asking = {**({} if options is None else OBJECT.decode(options)), "include_usage": True}
        return json.encode({**call.fields, "model": model, "stream_options": asking})

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """`stream_options` are looked at only where they count."""
        body, components = super().schema()
        options = {"stream_options": body["properties"].pop("stream_options")}
        body |= {"if": {"required": ["stream"], "properties": {"stream": {"const": True}}}, "then": {"properties": options}}
        return body, components


class Choice(Struct):
    """What every choice has, in an answer or in a chunk."""

    index: int = 0
    logprobs: Raw = Raw()


class ChoicesReader(OpenAIReader):
    """Reads answers and chunks made of choices. Choices other than the first are relayed, not read."""

    choices: ClassVar[json.Decoder[Any]]  # of list[Choice] | None, with what the dialect adds to a choice

    def __init__(self, call: Call, model: str | None) -> None:
        super().__init__(call, model)
        self.started = False  # there is a first choice
        self._keep_usage = call.wants_usage

    @abstractmethod
    def read_choice(self, choice: Any) -> None:
        """Read the first choice of an answer or of a chunk."""

    @abstractmethod
    def read_logprobs(self, raw: Raw) -> None:
        """Feed `certainty` with a choice's `logprobs`."""

    def read_answer(self, top: dict[str, Raw]) -> None:
        """Read the choices of a whole answer."""
        self._read_choices(top)

    def read_event(self, data: bytes, top: dict[str, Raw], failed: bool) -> bytes:
        """Read a chunk; usage that the client did not ask for does not reach it, nor a chunk that has nothing else."""
        bare = self._read_chunk(top) and not failed
        changed = self.rename(top)
        if not self._keep_usage and "usage" in top:
            if bare and given(top, "usage") is not None:
                return b""
            del top["usage"]
            changed = True
        return json.encode(top) if changed else data

    def _read_chunk(self, top: dict[str, Raw]) -> bool:
        """Read a chunk; says whether it has no choices."""
        try:
            self.account(top)
            return not self._read_choices(top)
        except UNREADABLE:
            self.malformed += 1
            return False

    def _read_choices(self, top: dict[str, Raw]) -> bool:
        """Read the first choice; says whether there are any."""
        raw = top.get("choices")
        choices = None if raw is None else self.choices.decode(raw)
        for choice in choices or ():
            if choice.index == 0:
                self.started = True
                self.read_choice(choice)
                if self.certainty is not None and bytes(choice.logprobs) not in ABSENT:
                    self.read_logprobs(choice.logprobs)
        return bool(choices)
