"""The OpenAPI description of the public port, made of the structs that read and write the bodies.

It says of generating requests what the gateway reads: the rest is the upstream's. What depends on the ladder is added here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from bitroute import __version__
from bitroute.gateway.http.bodies import Health, Model, Models, OutcomeReport, Readiness, RecordedOutcome
from bitroute.gateway.sessions.identity import LAST_STEP, LONGEST
from bitroute.gateway.wire.dialects.dialect import REFERENCES, Dialect
from bitroute.gateway.wire.dialects.registry import DIALECTS, dialect_of_errors

_TEXT: Final = {"type": "string"}
_ANSWER_HEADERS: Final = {
    "x-bitroute-variant": "The variant that answered.",
    "x-bitroute-reason": "Why it was chosen.",
    "x-bitroute-score": "The router's score.",
    "x-bitroute-router-ms": "The router's time, milliseconds.",
    "x-bitroute-overhead-ms": "The gateway's time before the request went upstream, milliseconds.",
    "x-bitroute-session-source": "What named the session.",
    "x-bitroute-episode": "The episode's id, for its outcome.",
    "x-bitroute-step": "The step's number in the episode, from 0.",
}
_MEANINGS: Final = {
    "400": "The request is malformed; the message names the field.",
    "401": "No valid key.",
    "403": "The key may not use this model.",
    "404": "No such model, episode or path.",
    "413": "The body is too large.",
    "415": "The body is encoded.",
    "429": "A limit of the key is reached, or the upstream's; see retry-after.",
    "431": "The headers are too large.",
    "502": "The upstream failed.",
    "503": "Busy; see retry-after.",
    "504": "The upstream did not answer in time.",
}


@cache
def openapi_document(ladder: tuple[str, ...]) -> dict[str, Any]:
    """The whole description, as plain data, for the variants of this ladder."""
    readiness = _reading("Some upstream answers.", Readiness)
    for status, meaning in (("200", "Some upstream answers."), ("503", "None does, or the gateway is about to stop.")):
        schema = {"allOf": [_reference(Readiness)], "properties": {"ready": {"const": status == "200"}}}
        readiness["get"]["responses"][status] = _content(meaning, schema)
    schemas = _components({dialect.refusal for dialect in DIALECTS.values()})
    paths: dict[str, Any] = {}
    for dialect in DIALECTS.values():
        body, named = dialect.schema()
        if clash := [name for name, schema in named.items() if schemas.setdefault(name, schema) != schema]:
            raise ValueError(f"{dialect.path}: another dialect describes something else as {', '.join(clash)}")
        body["properties"]["model"] = _model_names(ladder)
        paths[dialect.path] = _generating(dialect, body, ladder)
    return {
        "openapi": "3.1.0",
        "info": {"title": "bitroute gateway", "version": __version__, "description": "Every step at the precision it needs."},
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": {
            **paths,
            "/v1/models": _reading("The models offered.", Models, "401"),
            "/v1/models/{model}": _reading("One model.", Model, "401", "404", name="model"),
            "/v1/episodes/{episode}/outcome": _outcome(),
            "/health": _reading("The process lives.", Health),
            "/ready": readiness,
        },
        "components": {
            "schemas": schemas | _components([Health, Model, Models, OutcomeReport, Readiness, RecordedOutcome]),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _generating(dialect: Dialect, body: dict[str, Any], ladder: tuple[str, ...]) -> dict[str, Any]:
    headers = {name: {"description": text, "schema": _TEXT} for name, text in _ANSWER_HEADERS.items()}
    answer = {**_content("The upstream's answer; `model` names the variant.", {"type": "object"}), "headers": headers}
    answer["content"]["text/event-stream"] = {"schema": {}}
    refusal = _content("What the upstream refuses is relayed.", {})
    return {
        "post": {
            "summary": "Routed to a variant and relayed.",
            "parameters": [
                _parameter(
                    "x-session-id",
                    "header",
                    f"Names the session; exact, 1 to {LONGEST} characters.",
                    {"type": "string", "minLength": 1, "maxLength": LONGEST},
                ),
                _parameter(
                    "x-step",
                    "header",
                    "Number of this step, for agents that send one fresh message a step; needs x-session-id.",
                    {"type": "integer", "minimum": 0, "maximum": LAST_STEP},
                ),
                _parameter(
                    "x-bitroute-force", "header", "Serve this variant, whatever the router says.", {"enum": list(ladder)}
                ),
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": answer, **_errors(dialect, *_MEANINGS), "default": refusal},
        }
    }


def _model_names(ladder: tuple[str, ...]) -> dict[str, Any]:
    return {
        "description": "auto (routed within the configured budget), auto-K (K in 0..1), or a variant by its name.",
        "anyOf": [{"enum": ["auto", *ladder]}, {"type": "string", "pattern": r"^auto-(0?\.[0-9]{1,9}|0|1)$"}],
    }


def _reading(summary: str, answer: type[Struct], *errors: str, name: str | None = None) -> dict[str, Any]:
    parameters = [] if name is None else [_parameter(name, "path", "Its name.", _TEXT)]
    responses = {"200": _content(summary, _reference(answer)), **_errors(dialect_of_errors("/"), *errors)}
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}


def _outcome() -> dict[str, Any]:
    either = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("success", "reward")]
    body = {"allOf": [_reference(OutcomeReport)], "anyOf": either}
    meaning = "The episode's id, or an explicit session id: its newest episode."
    errors = _errors(dialect_of_errors("/"), "400", "401", "404", "413", "415", "431")
    return {
        "post": {
            "summary": "How the episode ended; closes it.",
            "parameters": [_parameter("episode", "path", meaning, _TEXT)],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": _content("What was kept.", _reference(RecordedOutcome)), **errors},
        }
    }


def _parameter(name: str, location: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": location, "required": location == "path", "description": description, "schema": schema}


def _errors(dialect: Dialect, *statuses: str) -> dict[str, Any]:
    return {status: _content(_MEANINGS[status], _reference(dialect.refusal)) for status in statuses}


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _reference(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": REFERENCES.format(name=kind.__name__)}


def _components(kinds: Iterable[type[Struct]]) -> dict[str, Any]:
    return dict(msgspec.json.schema_components(kinds, ref_template=REFERENCES)[1])
