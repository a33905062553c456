"""Requests as the gateway's sessions see them, made from short texts, and a client that plays against `Sessions`."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from hashlib import blake2b
from typing import Any, Literal, TypeVar

import msgspec

from bitroute.episode import Decision, Signals
from bitroute.gateway.core.values import Call, Caller, Outcome, RoutingDecision, StepContext, Turn
from bitroute.gateway.wire.dialects.registry import DIALECTS

T = TypeVar("T")
ROLES: dict[str, Literal["system", "user", "assistant"]] = {"s": "system", "u": "user", "a": "assistant"}


def turn(text: str) -> Turn:
    """`u:hello` is the user's message hello; `s:` and `a:` the system's and the assistant's."""
    role, _, content = text.partition(":")
    return Turn(ROLES[role], content, blake2b(text.encode(), digest_size=16).digest())


def call(*texts: str, body: str = "", endpoint: str = "/v1/chat/completions", **fields: Any) -> Call:
    """A request with this history; equal arguments give equal bodies, `body` tells equal histories apart."""
    digest = blake2b(repr((texts, body, sorted(fields.items()))).encode(), digest_size=16).digest()
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    session = DIALECTS[endpoint].session(raw)
    return Call(endpoint, "auto", False, raw, tuple(map(turn, texts)), (), True, digest, session)


def caller(
    session: str = "s", *, scope: str = "", explicit: bool = True, step: int | None = None, retry: bool = False
) -> Caller:
    """Somebody in a session."""
    return Caller(scope, session, "x-session-id" if explicit else "opening", explicit, step, retry)


def routing(variant: str = "low", score: float = 0.25) -> RoutingDecision:
    """A decision for a variant."""
    return RoutingDecision(Decision(variant, score, "router", 0.5), variant, "signals@1", threshold=0.5, budget=0.3)


def outcome(answer: str | None, variant: str | None = None, signals: Signals | None = None) -> Outcome:
    """What came back; None: nothing usable."""
    if answer is None:
        return Outcome(502)
    return Outcome(200, turn("a:" + answer), signals=signals, ended="complete", variant=variant)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end a coroutine that never waits for anything: no event loop, so thousands of them take no time."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


def standing(context: StepContext) -> tuple[str, int, tuple[str, ...]]:
    """What tests compare most: episode, step, variants of the past."""
    return context.episode, context.step, context.view.variants


def history(pairs: Sequence[str]) -> list[str]:
    """`u a u a` texts to role-marked ones, the first by the user."""
    return [("u:" if i % 2 == 0 else "a:") + text for i, text in enumerate(pairs)]
