"""Requests and errors as bytes, in the dialects of the four generating endpoints.

It reads what the gateway must know of a body and leaves every other byte of it alone: values travel as they were spelled. What
a message says is for `turns`; whether parameters make sense is for the upstream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct, json

from bitroute.gateway.core.values import Call, Endpoint, GatewayError
from bitroute.gateway.wire import turns

T = TypeVar("T")

_HISTORY = {
    Endpoint.CHAT: "messages",
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.RESPONSES: "input",
    Endpoint.MESSAGES: "messages",
}
_STORED = ("previous_response_id", "conversation", "prompt")  # of /v1/responses: the history may lie at the server
_OPENAI_USAGE = (Endpoint.CHAT, Endpoint.COMPLETIONS)  # whose streams tell usage only when asked
_ANTHROPIC_TYPES = {
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


class _Named(Struct):
    name: str | None = None


class _Forced(Struct):
    """A `tool_choice` (or `function_call`) that names a tool, in any dialect."""

    name: str | None = None
    function: _Named | None = None
    custom: _Named | None = None


_FIELDS = json.Decoder(dict[str, Raw])
_STRING = json.Decoder(str)
_FLAG = json.Decoder(bool | None)
_OPTIONS = json.Decoder(dict[str, Raw] | None)
_FORCED = json.Decoder(_Forced)
_TRUE = Raw(b"true")
_PATH = re.compile(r" - at `\$(.*)`$")


def parse(endpoint: Endpoint, body: bytes) -> Call:
    """Read a request. Raises GatewayError (400), whatever `body` is, naming the parameter at fault but never its value."""
    try:
        str(body, "utf-8")  # also where nothing below would look
        fields = _FIELDS.decode(body)
    except msgspec.ValidationError as error:
        raise GatewayError(400, "The request body must be a JSON object.") from error
    except (ValueError, RecursionError) as error:
        raise GatewayError(400, "The request body is not valid JSON.") from error
    model = _read(fields, "model", _STRING)
    if not model:
        raise _invalid(
            "model", "must be the name of a model", "missing_required_parameter" if model is None else "invalid_value"
        )
    stream = bool(_read(fields, "stream", _FLAG))
    wants_usage = True
    if stream and endpoint in _OPENAI_USAGE:
        options = _read(fields, "stream_options", _OPTIONS) or {}
        wants_usage = bool(_read(options, "include_usage", _FLAG, "stream_options.include_usage"))
    history = _history(endpoint, fields)
    forced = _forced(fields)
    return Call(
        endpoint=endpoint,
        model=model,
        stream=stream,
        fields=fields,
        turns=history.turns,
        tools=history.tools if forced is None or forced in history.tools else (*history.tools, forced),
        wants_usage=wants_usage,
        digest=blake2b(body, digest_size=16).digest(),
    )


def forward(call: Call, model: str) -> bytes:
    """The body for the upstream: `model` replaced, usage asked for in streams that would not tell, all else as it came."""
    fields: dict[str, Any] = {**call.fields, "model": model}
    if call.stream and not call.wants_usage:
        options = _read(call.fields, "stream_options", _OPTIONS) or {}
        fields["stream_options"] = {**options, "include_usage": _TRUE}
    return json.encode(fields)


def error_body(endpoint: Endpoint | None, error: GatewayError) -> bytes:
    """The body of an error response: Anthropic's shape on /v1/messages, OpenAI's everywhere else."""
    message = error.message.encode("utf-8", "replace").decode()
    if endpoint is Endpoint.MESSAGES:
        fallback = "api_error" if error.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(error.status, fallback)
        return json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return json.encode({"error": {"message": message, "type": error.kind, "param": error.param, "code": error.code}})


def _history(endpoint: Endpoint, fields: dict[str, Raw]) -> turns.History:
    name = _HISTORY[endpoint]
    raw = fields.get(name)
    if raw is None:
        if endpoint is Endpoint.RESPONSES and any(key in fields for key in _STORED):
            raw = Raw(b'""')
        else:
            raise _invalid(name, "is required", "missing_required_parameter")
    try:
        match endpoint:
            case Endpoint.CHAT:
                return turns.chat(raw)
            case Endpoint.COMPLETIONS:
                return turns.completion(raw)
            case Endpoint.RESPONSES:
                return turns.items(raw, fields.get("instructions"))
            case Endpoint.MESSAGES:
                return turns.blocks(raw, fields.get("system"))
    except msgspec.ValidationError as error:
        raise _typed(name, error) from error
    except (ValueError, RecursionError) as error:
        raise _invalid(name, "cannot be read", "invalid_value") from error


def _forced(fields: dict[str, Raw]) -> str | None:
    """The tool that the request makes the model call."""
    for key in ("tool_choice", "function_call"):
        if (raw := fields.get(key)) is not None:
            try:
                choice = _FORCED.decode(raw)
            except (ValueError, RecursionError):  # a word such as "auto", or what only the upstream knows
                continue
            named = choice.function or choice.custom
            if name := choice.name or (named and named.name):
                return name
    return None


def _read(fields: Mapping[str, Raw], key: str, decoder: json.Decoder[T], param: str | None = None) -> T | None:
    raw = fields.get(key)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _typed(param or key, error) from error
    except (ValueError, RecursionError) as error:
        raise _invalid(param or key, "cannot be read", "invalid_value") from error


def _typed(param: str, error: msgspec.ValidationError) -> GatewayError:
    """msgspec names types and the place, never a value."""
    text = str(error)
    if place := _PATH.search(text):
        param, text = param + place[1], text[: place.start()]
    code = "empty_array" if " of length " in text else "invalid_type"
    return _invalid(param, text[:1].lower() + text[1:].replace("`", ""), code)


def _invalid(param: str, message: str, code: str) -> GatewayError:
    return GatewayError(400, f"Invalid '{param}': {message}.", param=param, code=code)
