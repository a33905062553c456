"""Who calls, in which session: read from a request's headers and body. It knows names, and remembers nothing.

An explicit id names a session. Without one there are hints, which many sessions may share: the prompt cache key (often one
constant per application) and the opening (repeated in group sampling). A hint always includes the opening, so that the agents
of one application meet under one hint only where they begin with the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from bitroute.gateway.core.values import Call, Caller, GatewayError
from bitroute.gateway.wire.fields import member, text

LONGEST: Final = 255  # characters of an id
LAST_STEP: Final = 2**31 - 1  # the largest x-step: a database's integer

# What agent harnesses send by themselves, and who says so.
HARNESSES: Final = (
    "x-claude-code-session-id",  # Claude Code: code.claude.com/docs/en/llm-gateway-protocol
    "session-id",  # Codex: openai/codex, codex-rs/codex-api/src/requests/headers.rs ...
    "session_id",  # ... and its older versions
    "x-session-affinity",  # OpenCode (beside x-session-id): packages/opencode/src/session/llm/request.ts; Pi
    "x-litellm-session-id",  # LiteLLM: docs.litellm.ai/docs/proxy/request_headers; OpenHands' SDK pins it too
    "x-dynamo-session-id",  # NVIDIA Dynamo: docs.nvidia.com/dynamo/dev/agents/identify-agent-sessions
    "helicone-session-id",  # Helicone: docs.helicone.ai/features/sessions
)

# The number of tries before this one, from the clients that Stainless generates (OpenAI, Anthropic), and as others spell it.
RETRIES: Final = ("x-stainless-retry-count", "x-retry-count")


def identify(call: Call, headers: Mapping[str, str], scope: str, extra: Sequence[str]) -> Caller:
    """The caller of `call`. `headers` have lower-case names, `scope` is the API key's id, `extra` further headers of ids.

    Explicit ids, the first found: x-session-id, `extra`, `HARNESSES`, the body's metadata.session_id, and the field
    that only the call's dialect has. Ids are taken as they stand. Raises GatewayError (400) for an id that is empty or longer
    than 255 characters, and for an x-step that is no step number or that comes without an explicit id.
    """
    session, source = _explicit(call, headers, extra)
    step = _step(headers.get("x-step"), explicit=bool(session))
    retry = any(_positive(headers.get(name)) for name in RETRIES)
    if session:
        return Caller(scope, session, source, True, step, retry)
    opening = _opening(call)
    key = text(call.fields, "prompt_cache_key")
    if not key:
        return Caller(scope, "opening:" + opening.hexdigest(), "opening", False, None, retry)
    opening.update(key.encode("utf-8", "surrogatepass"))
    return Caller(scope, "prompt_cache_key:" + opening.hexdigest(), "prompt_cache_key", False, None, retry)


def _explicit(call: Call, headers: Mapping[str, str], extra: Sequence[str]) -> tuple[str, str]:
    """The explicit id and where it stood; empty texts when there is none."""
    for name in ("x-session-id", *(name.lower() for name in extra), *HARNESSES):
        if (value := headers.get(name)) is not None:
            return _valid(_text_of(value), name), name
    value = member(call.fields, "metadata", "session_id")
    if value is not None:
        return _valid(value, "metadata.session_id"), "metadata.session_id"
    if call.session is not None:
        value, name = call.session
        return _valid(value, name), name
    return "", ""


def _valid(value: str, name: str) -> str:
    if not 1 <= len(value) <= LONGEST:
        raise GatewayError(400, f"{name}: a session id has 1 to {LONGEST} characters, this one {len(value)}", param=name)
    return value


def _text_of(header: str) -> str:
    """A header's bytes, which were read as latin-1, in the encoding that clients write: as the same id in a body or a path."""
    try:
        return header.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return header


def _step(value: str | None, *, explicit: bool) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) <= LAST_STEP):
        raise GatewayError(400, f"x-step: want a step number from 0 to {LAST_STEP}", param="x-step")
    if not explicit:
        raise GatewayError(400, "x-step needs a session id: send x-session-id as well", param="x-step")
    return int(value)


def _positive(value: str | None) -> bool:
    return value is not None and value.isascii() and value.isdigit() and value.strip("0") != ""


def _opening(call: Call) -> blake2b:
    """A digest of the first messages, up to and with the first of the user."""
    digest = blake2b(digest_size=16)
    for turn in call.turns:
        digest.update(turn.digest)
        if turn.role == "user":
            break
    return digest
