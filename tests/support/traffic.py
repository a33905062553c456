"""Requests as a recorder gets them, made by hand: what is not said is plain and the same every time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from bitroute.cost import CostModel, Rates
from bitroute.episode import Decision, View
from bitroute.gateway.core.config import RecordsConfig
from bitroute.gateway.core.values import Attempt, Call, Caller, Outcome, RoutingDecision, StepContext, Tokens, Turn
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.sessions.episode_state import chain

LADDER = ("low", "high")
COST = CostModel(unit="units", variants={"low": Rates(call=1, decode=0.5), "high": Rates(call=4, prefill=0.1, decode=2)})
CALLER = Caller("", "s", "x-session-id", explicit=True)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def recorder(url: str | Path, **options: Any) -> Recorder:
    """A recorder that has been started."""
    address = f"sqlite:///{url}" if isinstance(url, Path) else url
    room = {name: options.pop(name) for name in ("room", "patience") if name in options}
    made = Recorder(RecordsConfig(url=address, **{"flush": 0.05} | options), COST, LADDER, **room)
    made.start()
    return made


def turn(role: Any, text: str) -> Turn:
    return Turn(role, text, blake2b(f"{role}|{text}".encode("utf-8", "replace"), digest_size=16).digest())


def call(turns: Sequence[Turn], body: bytes = b"") -> Call:
    return Call("/v1/chat/completions", "auto", False, {}, tuple(turns), (), False, (body or chain(turns))[:16])


def routing(variant: str = "low", **options: Any) -> RoutingDecision:
    decision = Decision(variant, options.pop("score", 0.25), options.pop("reason", "signals"), options.pop("propensity", 1.0))
    return RoutingDecision(decision, options.pop("intended", variant), options.pop("policy", "signals@1"), **options)


def outcome(text: str | None = "answer", variant: str | None = "low", **options: Any) -> Outcome:
    filled: dict[str, Any] = {
        "status": 200 if text is not None else 502,
        "answer": None if text is None else turn("assistant", text),
        "tokens": Tokens(10, 20, 5),
        "ended": "complete" if text is not None else "error",
        "attempts": [Attempt(variant or "low", "http://replica", 200, 0.5)],
        "variant": variant,
        "first_token": 0.25,
        "total": 0.5,
        "overhead": 0.001,
    }
    return Outcome(**(filled | options))


@dataclass
class Play:
    """An episode that grows by its history. Each `step` records one request."""

    recorder: Recorder
    episode: str = "e"
    caller: Caller = CALLER
    seed: int = 7
    parent: tuple[str, int] | None = None
    turns: list[Turn] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    opened: bool = True

    def step(
        self,
        message: str,
        action: str | None = "answer",
        ruled: RoutingDecision | None = None,
        retried: RoutingDecision | None = None,
        **options: Any,
    ) -> float:
        """The request's cost. Without an action it fails, and its message may be asked again."""
        ruled = ruled or routing()
        told = turn("user", message)
        view = View((*self.messages, message), tuple(self.actions), tuple(self.variants), (None,) * len(self.actions))
        history = [*self.turns, told]
        context = StepContext(
            self.caller.session,
            self.caller.source,
            self.episode,
            len(self.actions),
            view,
            self.seed,
            self.opened,
            self.parent,
            retried,
            self.caller.scope,
            self.caller.explicit,
            chain(history),
            len(history),
        )
        self.opened = False
        done = outcome(action, **{"variant": ruled.decision.variant if action is not None else None} | options)
        cost = self.recorder.step(self.caller, call(history), context, ruled, done)
        if action is not None:
            self.turns = [*history, turn("assistant", action)]
            self.messages.append(message)
            self.actions.append(action)
            self.variants.append(ruled.decision.variant)
        return cost
