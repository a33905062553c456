"""Completions: `POST /v1/completions`. A prompt without messages; answers and chunks of choices that hold text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Raw, Struct, json

from bitroute.gateway.core.values import Call, Turn
from bitroute.gateway.wire.certainty import Alternative, Token
from bitroute.gateway.wire.dialects.openai import Choice, ChoicesDialect, ChoicesReader, ChoicesRequest
from bitroute.gateway.wire.history import History, MessageBuilder, canonical


class CompletionsRequest(ChoicesRequest, kw_only=True):
    """A request for a completion. Further fields are passed on as they are."""

    prompt: str | Annotated[list[str | int | list[int]], Meta(min_length=1)]


class _Choice(Choice):
    text: str | None = None


class _Logprobs(Struct):
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


_LOGPROBS = json.Decoder(_Logprobs)


class CompletionsReader(ChoicesReader):
    """Reads one completion."""

    alternatives = "logprobs"
    choices = json.Decoder(list[_Choice] | None)

    def __init__(self, call: Call, model: str | None) -> None:
        super().__init__(call, model)
        self._texts: list[str] = []

    @property
    def answer(self) -> Turn | None:
        """The first choice's text; None when there is none."""
        return MessageBuilder(["".join(self._texts)]).turn("assistant") if self.started else None

    def read_choice(self, choice: _Choice) -> None:
        """A text, or the next piece of it."""
        if choice.text:
            self._texts.append(choice.text)

    def read_logprobs(self, raw: Raw) -> None:
        """Lists side by side, an entry a token."""
        logprobs = _LOGPROBS.decode(raw)
        if self.certainty is not None and logprobs.token_logprobs is not None:
            for logprob, others in zip(logprobs.token_logprobs, logprobs.top_logprobs or [], strict=True):
                self.certainty.add([Token(logprob, [Alternative(other) for other in (others or {}).values()])])


class Completions(ChoicesDialect):
    """OpenAI's older completions, and those of every server that speaks like it."""

    path = "/v1/completions"
    request = CompletionsRequest
    reader = CompletionsReader
    operation = "text_completion"

    def history(self, fields: Mapping[str, Raw]) -> History:
        """`prompt`: a text, a list of texts, token ids or a list of those, as one message of the user."""
        prompt: str | list[str | int | list[int]] = self.read(fields, "prompt", required=True)
        if isinstance(prompt, list):
            prompt = "\n".join(text if isinstance(text, str) else canonical(text) for text in prompt)
        return History((MessageBuilder([prompt]).turn("user"),))
