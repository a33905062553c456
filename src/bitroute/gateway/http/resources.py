"""What the public port offers beside generation: health, models, outcomes of episodes, its own description.

It knows what each of these answers. Failures are GatewayErrors; who serves the routes gives them their shape.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import Receive, Scope, Send

from bitroute.gateway.auth.keys import Keys
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.core.values import GatewayError
from bitroute.gateway.http.bodies import Health, Model, Models, OutcomeReport, Readiness, RecordedOutcome
from bitroute.gateway.http.connection import read_body, read_headers
from bitroute.gateway.http.openapi import openapi_document
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.routing.policy import Policy
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.wire.fields import UNREADABLE

_OUTCOME: Final = msgspec.json.Decoder(OutcomeReport)


class Resources:
    """The endpoints. `ready` and `draining` say how the process stands."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        policy: Policy,
        sessions: Sessions,
        recorder: Recorder,
        keys: Keys,
        ready: Callable[[], bool],
        draining: Callable[[], bool],
    ) -> None:
        self._config = config
        self._policy, self._sessions, self._recorder, self._keys = policy, sessions, recorder, keys
        self._ready, self._draining = ready, draining
        self._created = int(time.time())

    def router(self) -> Router:
        """The routes; a path or a method that none has is a GatewayError (404, 405)."""
        return Router(
            [
                _Route("/health", self.health, "GET", "HEAD"),
                _Route("/ready", self.readiness, "GET", "HEAD"),
                _Route("/openapi.json", self.description, "GET"),
                _Route("/v1/models", self.models, "GET"),
                _Route("/v1/models/{model:path}", self.model, "GET"),
                _Route("/v1/episodes/{episode:path}/outcome", self.outcome, "POST"),
            ],
            redirect_slashes=False,
            default=_unknown,
        )

    async def health(self, _: Request) -> Response:
        """The process lives."""
        return _json(Health("ok"))

    async def readiness(self, _: Request) -> Response:
        """Whether some upstream answers and the gateway is not about to stop."""
        draining = self._draining()
        ready = self._ready() and not draining
        return _json(Readiness(ready, draining), 200 if ready else 503)

    async def description(self, _: Request) -> Response:
        """The OpenAPI document."""
        return _json(openapi_document(self._config.ladder))

    async def models(self, request: Request) -> Response:
        """All names that a request may give as its model."""
        self._keys.authenticate(read_headers(request.scope))
        return _json(Models("list", [self._model(name) for name in self._policy.models()]))

    async def model(self, request: Request) -> Response:
        """One of them; it may have slashes."""
        self._keys.authenticate(read_headers(request.scope))
        name = request.path_params["model"]
        self._policy.resolve(name, None)
        return _json(self._model(name))

    async def outcome(self, request: Request) -> Response:
        """Take the outcome of an episode, which closes it. A session's id, which may have slashes, names its newest episode."""
        name, headers = request.path_params["episode"], read_headers(request.scope)
        client = self._keys.authenticate(headers)
        body = await read_body(request.scope, headers, request.receive, self._config.server.max_body)
        try:
            report = _OUTCOME.decode(body)
        except UNREADABLE as error:
            raise GatewayError(400, f"The outcome is not {{success: bool, reward: number}}: {error}") from error
        if report.success is None and report.reward is None:
            raise GatewayError(400, "The outcome needs success or reward", param="success")
        episode = await self._sessions.resolve(client.scope, name) or await self._recorder.find(client.scope, name)
        if episode is None:
            raise GatewayError(404, "There is no such episode or session", code="episode_not_found")
        self._recorder.outcome(client.scope, episode, report.success, report.reward)
        await self._sessions.close_episode(client.scope, episode)
        return _json(RecordedOutcome(episode, report.success, report.reward))

    def _model(self, name: str) -> Model:
        return Model(name, "model", self._created, "bitroute")


class _Route(Route):
    """A route for these methods alone (Starlette adds HEAD to GET). Slashes at the ends of a path do not count."""

    def __init__(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], *methods: str) -> None:
        super().__init__(path, endpoint)
        self.methods = set(methods)
        self.allow = ", ".join(methods)
        # Ids of sessions may have any character, line feeds among them.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches({**scope, "path": "/" + scope["path"].strip("/")})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            raise not_allowed(scope["method"], scope["path"], self.allow)
        await super().handle(scope, receive, send)


def not_allowed(method: str, path: str, allow: str) -> GatewayError:
    """The refusal (405) of a method; `allow` names those that there are."""
    message = f"{method} is not allowed on {path}; use {allow}"
    return GatewayError(405, message, code="method_not_allowed", headers={"allow": allow})


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise GatewayError(404, f"Unknown request URL: {scope['method']} {scope['path']}", code="unknown_url")


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
