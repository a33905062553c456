"""The dialects that the gateway speaks, by their paths. A new one is a file beside this one and a line here."""

from __future__ import annotations

from typing import Final

from bitroute.gateway.wire.dialects.chat_completions import ChatCompletions
from bitroute.gateway.wire.dialects.completions import Completions
from bitroute.gateway.wire.dialects.dialect import Dialect
from bitroute.gateway.wire.dialects.messages import Messages
from bitroute.gateway.wire.dialects.responses import Responses

DIALECTS: Final[dict[str, Dialect]] = {
    dialect.path: dialect
    for dialect in (
        ChatCompletions(),
        Completions(),
        Responses(),
        Messages(),
    )
}


def dialect_of_errors(path: str) -> Dialect:
    """Whose errors a path gets: of the dialect at or above it, of chat completions elsewhere."""
    return next((dialect for dialect in DIALECTS.values() if path.startswith(dialect.path)), DIALECTS[ChatCompletions.path])
