"""The values that the gateway's parts hand to each other while one request is answered. Nothing here computes or waits.

The way of a request: a dialect (`wire`) parses a `Call`, `identity` says who calls (`Caller`), `sessions` finds its
`StepContext`, `policy` makes a `RoutingDecision`, `upstreams` sends it (`Attempt`s), the dialect's reader reads what came back
(`Outcome`), `records` keeps a row of all that.

They are msgspec Structs because many are made for each request, and a frozen dataclass takes ten times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bitroute.episode import Decision, Signals, View


class GatewayError(Exception):
    """A request ends with an error of ours. Its dialect gives it the shape that clients expect.

    `status` is the HTTP status, `kind` OpenAI's `error.type` (invalid_request_error, authentication_error ...), `code` and
    `param` as in OpenAI's error object. `headers` go out with it (retry-after, x-should-retry ...).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.code, self.param = status, message, kind, code, param
        self.headers = dict(headers or {})


class Turn(msgspec.Struct, frozen=True):
    """One message of a request's history: as a router reads it, and a digest (16 bytes) of all that makes it that message.

    Tool results and developer messages are read as the user's and the system's. Two spellings of one message (content as a text
    or as a list of one text part, a null field or none) have one digest.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    digest: bytes


class Call(msgspec.Struct, frozen=True):
    """A parsed request. `fields` are the body's own bytes by key, so that what is not changed travels as it came.

    `endpoint` is the path of its dialect. `tools` names the tools whose results the model has not answered yet, and the one
    that the request forces, each once; `wants_usage` says whether the client gets usage in its stream; `digest` is of the
    whole body. `session` is an id of the session in a field that only the dialect has, and that field's name.
    """

    endpoint: str
    model: str
    stream: bool
    fields: Mapping[str, msgspec.Raw]
    turns: tuple[Turn, ...]
    tools: tuple[str, ...]
    wants_usage: bool
    digest: bytes
    session: tuple[str, str] | None = None


class Caller(msgspec.Struct, frozen=True):
    """Who calls, in which session. `scope` is the API key's id ("" without keys): ids of different keys never meet.

    `session` is an explicit id or, when `explicit` is False, a hint (prompt_cache_key, the opening's fingerprint) that many
    sessions may share. `source` says where it came from, for the answer's header. `step` is x-step, `retry` a retry-count
    header above 0.
    """

    scope: str
    session: str
    source: str
    explicit: bool
    step: int | None = None
    retry: bool = False


class RoutingDecision(msgspec.Struct, frozen=True):
    """The policy's answer for one step. `decision.variant` is served; `intended` is what the router chose by itself.

    The two differ in shadow mode, after a flip (`flipped`) and under a floor (`decision.reason` says which); steps that were
    forced, bypassed or switched ask no router. `decision.propensity` is the probability of the served variant under everything
    that is random (the router's draw, the flip). `policy` is name@version (reason:variant where no router was asked), `arm` the
    arm of a split ("main" otherwise), `budget` K in force (None: bypass).
    """

    decision: Decision
    intended: str
    policy: str
    arm: str = "main"
    threshold: float | None = None
    budget: float | None = None
    flipped: bool = False
    seconds: float = 0.0  # the router's own time
    features: tuple[float, ...] | None = None  # routers.features.FEATURES of the step, where text is not stored
    floor: str | None = None  # the lowest variant that may answer, also where others fail


class StepContext(msgspec.Struct, frozen=True):
    """Where a request stands: step `step` (from 0) of episode `episode` in session `session`, and what a router may read of it.

    `parent` is (episode, number of steps shared) for a branch. `retried` is the decision of the same step's earlier try: it is
    used again. `opened` says that this request began the episode. `seed` is the episode's, for the routers' draws.

    `scope` and `explicit` are the caller's. `chain` is the digest of the request's whole history (`sessions.chain`), `turns`
    the number of messages in it: what a recorder keeps of it, so that the session can be remembered after a crash.
    """

    session: str
    source: str
    episode: str
    step: int
    view: View
    seed: int
    opened: bool
    parent: tuple[str, int] | None = None
    retried: RoutingDecision | None = None
    scope: str = ""
    explicit: bool = True
    chain: bytes = b""
    turns: int = 0


class Attempt(msgspec.Struct, frozen=True):
    """One try at one replica. `status` is None when no response began; `error` says why it failed (no secrets, no bodies)."""

    variant: str
    replica: str
    status: int | None
    seconds: float
    error: str | None = None


class Tokens(msgspec.Struct, frozen=True):
    """What the upstream says it processed. `prefill` are prompt tokens not found in its cache."""

    prefill: int = 0
    cached: int = 0
    decode: int = 0


@dataclass(slots=True)
class Outcome:
    """What came back, filled while it is relayed: the answer as a history will repeat it, its tokens, how it ended.

    `answer` is None when nothing usable came. `status` is what the client was sent; `ended` is one of complete, error,
    cancelled (the client went away) and dropped (the upstream did).
    """

    status: int = 0
    answer: Turn | None = None
    tokens: Tokens | None = None
    signals: Signals | None = None
    ended: Literal["complete", "error", "cancelled", "dropped"] = "error"
    attempts: list[Attempt] = field(default_factory=list)
    variant: str | None = None  # that answered: another than decided after a fallback
    first_token: float | None = None  # seconds from the request's arrival
    total: float = 0.0
    overhead: float = 0.0  # seconds of the gateway's own work before the first byte went upstream
