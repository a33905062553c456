"""JSON objects by their fields, each in the bytes in which it came. It knows no dialect, and refuses in our own words.

What cannot be read is either the client's fault (`read` raises a GatewayError that names the field and never a value) or the
upstream's (`given`, `text` and `member` say None; readers catch `UNREADABLE`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, json

from bitroute.gateway.core.values import GatewayError

T = TypeVar("T")

OBJECT: Final = json.Decoder(dict[str, Raw])
STRING: Final = json.Decoder(str)
UNREADABLE: Final = (ValueError, RecursionError)  # msgspec's errors and Unicode's are ValueErrors
ABSENT: Final = (b"", b"null")
_PLACE = re.compile(r" - at `\$(.*)`$")


def number(text: str) -> int | float:
    """A float of untyped JSON. JavaScript writes 1.0 as 1: whole floats are one number with their integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def read_object(body: bytes) -> dict[str, Raw]:
    """A request's body by its fields. Raises GatewayError (400), whatever `body` is; of a key given twice the last counts."""
    try:
        str(body, "utf-8")  # also where nothing below would look
        return OBJECT.decode(body)
    except msgspec.ValidationError as error:
        raise GatewayError(400, "The request body must be a JSON object.") from error
    except UNREADABLE as error:
        raise GatewayError(400, "The request body is not valid JSON.") from error


def read(fields: Mapping[str, Raw], name: str, decoder: json.Decoder[T]) -> T | None:
    """A request's field, None where it is absent. Raises GatewayError (400) that names it."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE as error:
        raise refused(name, error) from error


def refused(param: str, error: Exception) -> GatewayError:
    """What to say of a parameter that cannot be read; msgspec names types and the place, never a value."""
    if not isinstance(error, msgspec.ValidationError):
        return invalid(param, "cannot be read", "invalid_value")
    text = str(error)
    if place := _PLACE.search(text):
        param, text = param + place[1], text[: place.start()]
    code = "empty_array" if " of length " in text else "invalid_type"
    return invalid(param, text[:1].lower() + text[1:].replace("`", ""), code)


def invalid(param: str, message: str, code: str) -> GatewayError:
    """A refusal (400) of one parameter."""
    return GatewayError(400, f"Invalid '{param}': {message}.", param=param, code=code)


def given(fields: Mapping[str, Raw], name: str) -> Raw | None:
    """The value of a field, None where it is absent or null."""
    raw = fields.get(name)
    return None if raw is None or bytes(raw) in ABSENT else raw


def text(fields: Mapping[str, Raw], name: str) -> str | None:
    """A field, None unless it is a text."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return STRING.decode(raw)
    except UNREADABLE:
        return None


def member(fields: Mapping[str, Raw], name: str, key: str) -> str | None:
    """A member of a field that is an object, None unless it is a text: what else stands there is the upstream's business."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return text(OBJECT.decode(raw), key)
    except UNREADABLE:
        return None
