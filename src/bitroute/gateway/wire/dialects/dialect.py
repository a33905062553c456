"""A dialect: one wire API, as its requests, answers and errors are spelled. What every dialect shares of that.

It reads what the gateway must know of a body and leaves every other byte of it alone: values travel as they were spelled.
Whether parameters make sense is for the upstream. It knows no HTTP but the path at which a dialect is served.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, ClassVar, Final

from msgspec import Raw, Struct, json, structs

from bitroute.gateway.core.values import Call, GatewayError
from bitroute.gateway.wire import sse
from bitroute.gateway.wire.fields import OBJECT, UNREADABLE, invalid, number, read, read_object
from bitroute.gateway.wire.history import History
from bitroute.gateway.wire.reader import AnswerReader

REFERENCES: Final = "#/components/schemas/{name}"  # where the published description keeps named schemas


class Request(Struct, kw_only=True):
    """What is read of every request. A dialect adds its own fields: their types are what is accepted and what is published."""

    model: str
    stream: bool | None = None


class _Named(Struct):
    name: str | None = None


class _Forced(Struct):
    """A `tool_choice` (or `function_call`) that names a tool, in any dialect."""

    name: str | None = None
    function: _Named | None = None
    custom: _Named | None = None


_FORCED = json.Decoder(_Forced)


def inline(kind: type[Struct]) -> dict[str, Any]:
    """The JSON schema of a struct that refers to no other: of what is read from `Raw` after the request was."""
    schema: dict[str, Any] = json.schema_components([kind])[1][kind.__name__]
    return schema


class Dialect(ABC):
    """One wire API. A subclass names its path and structs, and says how its history, answers and errors read."""

    path: ClassVar[str]  # below the server's root, here and at upstreams; the `endpoint` of records
    request: ClassVar[type[Request]]
    refusal: ClassVar[type[Struct]]  # the body of an error
    reader: ClassVar[type[AnswerReader]]  # of one answer: made of the call and of the model's name that the client sees
    operation: ClassVar[str] = "chat"  # as OpenTelemetry's conventions call it

    def __init__(self) -> None:
        self._decoders = {
            field.encode_name: json.Decoder(field.type, float_hook=number) for field in structs.fields(self.request)
        }

    @abstractmethod
    def history(self, fields: Mapping[str, Raw]) -> History:
        """The messages of a request. Raises GatewayError (400) that names the parameter at fault."""

    @abstractmethod
    def error(self, error: GatewayError) -> bytes:
        """The body of an error response."""

    def error_event(self, error: GatewayError) -> bytes:
        """The event that ends a stream which has begun."""
        return sse.encode(self.error(error))

    def is_error(self, body: bytes) -> bool:
        """Whether an upstream's refusal already has this dialect's shape."""
        try:
            return "error" in OBJECT.decode(body)
        except UNREADABLE:
            return False

    def parse(self, body: bytes) -> Call:
        """Read a request. Raises GatewayError (400), whatever `body` is, naming the parameter at fault but never its value."""
        fields = read_object(body)
        model = self.read(fields, "model")
        if not model:
            code = "missing_required_parameter" if model is None else "invalid_value"
            raise invalid("model", "must be the name of a model", code)
        stream = bool(self.read(fields, "stream"))
        wants_usage = not stream or self.tells_usage(fields)
        history = self.history(fields)
        forced = _forced(fields)
        return Call(
            endpoint=self.path,
            model=model,
            stream=stream,
            fields=fields,
            turns=history.turns,
            tools=history.tools if forced is None or forced in history.tools else (*history.tools, forced),
            wants_usage=wants_usage,
            digest=blake2b(body, digest_size=16).digest(),
            session=self.session(fields),
        )

    def forward(self, call: Call, model: str) -> bytes:
        """The body for the upstream: `model` replaced, all else as it came."""
        return json.encode({**call.fields, "model": model})

    def tells_usage(self, fields: Mapping[str, Raw]) -> bool:
        """Whether the client's stream tells usage by itself. Where not, `forward` asks for it and the reader takes it out."""
        return True

    def session(self, fields: Mapping[str, Raw]) -> tuple[str, str] | None:
        """The id of a session in a field that only this dialect has, and that field's name."""
        return None

    def schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The JSON schema of a request's body, and those that it refers to, by their names (`REFERENCES`)."""
        _, components = json.schema_components([self.request], ref_template=REFERENCES)
        return components.pop(self.request.__name__), components

    def read(self, fields: Mapping[str, Raw], name: str, *, required: bool = False) -> Any:
        """A field of `request` as that types it, None where it is absent. Raises GatewayError (400) that names it."""
        if required and name not in fields:
            raise invalid(name, "is required", "missing_required_parameter")
        return read(fields, name, self._decoders[name])


def _forced(fields: Mapping[str, Raw]) -> str | None:
    """The tool that the request makes the model call."""
    for key in ("tool_choice", "function_call"):
        if (raw := fields.get(key)) is not None:
            try:
                choice = _FORCED.decode(raw)
            except UNREADABLE:  # a word such as "auto", or what only the upstream knows
                continue
            named = choice.function or choice.custom
            if name := choice.name or (named and named.name):
                return name
    return None
