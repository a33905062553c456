"""The OpenAPI description of the public port. It says of request bodies what the gateway reads: the rest is the upstream's."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from bitroute import __version__
from bitroute.gateway.core.values import Endpoint
from bitroute.gateway.sessions.identity import LAST_STEP, LONGEST

_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_PARTS: Final = {"type": ["string", "array", "null"], "description": "A text, or a list of parts that the upstream judges."}
_MESSAGE: Final = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": _TEXT,
        "content": _PARTS,
        **dict.fromkeys(("name", "tool_call_id", "refusal"), _TEXT_OR_NULL),
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object", "properties": {"id": _TEXT_OR_NULL}}},
    },
}
_BLOCK_MESSAGE: Final = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": _TEXT, "content": {"type": ["string", "array"]}},
}
_TOKEN: Final = {"type": "integer"}
_ITEM: Final = {"type": "object", "properties": {"type": _TEXT}}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(*items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": {"anyOf": list(items)}}


# By endpoint: the fields that are read, and which of them there must be one of.
_READ: Final[dict[Endpoint, tuple[dict[str, Any], tuple[str, ...]]]] = {
    Endpoint.CHAT: ({"messages": _list(_MESSAGE)}, ("messages",)),
    Endpoint.COMPLETIONS: (
        {"prompt": {"anyOf": [_TEXT, _list(_TEXT, _TOKEN, {"type": "array", "items": _TOKEN})]}},
        ("prompt",),
    ),
    Endpoint.RESPONSES: (
        {"input": {"anyOf": [_TEXT, _list(_ITEM)]}, "instructions": _PARTS},
        ("input", "previous_response_id", "conversation", "prompt"),
    ),
    Endpoint.MESSAGES: ({"messages": _list(_BLOCK_MESSAGE), "system": _PARTS}, ("messages",)),
}
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
_ERROR: Final = _object(error=_object(message=_TEXT, type=_TEXT))
_BLOCK_ERROR: Final = _object(type={"const": "error"}, **_ERROR["properties"])
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


def _errors(*statuses: str, schema: str = "Error") -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_MODEL: Final = _object(id=_TEXT, object={"const": "model"}, created={"type": "integer"}, owned_by=_TEXT)


def _parameter(name: str, location: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": location, "required": location == "path", "description": description, "schema": schema}


def _generating(endpoint: Endpoint, ladder: tuple[str, ...]) -> dict[str, Any]:
    fields, needed = _READ[endpoint]
    model = {
        "description": "auto (routed within the configured budget), auto-K (K in 0..1), or a variant by its name.",
        "anyOf": [{"enum": ["auto", *ladder]}, {"type": "string", "pattern": r"^auto-(0?\.[0-9]{1,9}|0|1)$"}],
    }
    body: dict[str, Any] = {
        "type": "object",
        "required": ["model"],
        "properties": {"model": model, "stream": {"type": ["boolean", "null"]}, **fields},
    }
    if len(needed) == 1:
        body["required"] = ["model", *needed]
    else:
        body["anyOf"] = [{"required": [name]} for name in needed]
    headers = {name: {"description": text, "schema": _TEXT} for name, text in _ANSWER_HEADERS.items()}
    answer = {**_json("The upstream's answer; `model` names the variant.", {"type": "object"}), "headers": headers}
    answer["content"]["text/event-stream"] = {"schema": {}}
    errors = _errors(*_MEANINGS, schema="BlockError" if endpoint is Endpoint.MESSAGES else "Error")
    refusal = {"description": "What the upstream refuses is relayed.", "content": {"application/json": {"schema": {}}}}
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
            "responses": {"200": answer, **errors, "default": refusal},
        }
    }


def _reading(summary: str, schema: dict[str, Any], *errors: str, name: str | None = None) -> dict[str, Any]:
    parameters = [] if name is None else [_parameter(name, "path", "Its name.", _TEXT)]
    responses = {"200": _json(summary, schema), **_errors(*errors)}
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}


def _outcome() -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {"success": {"type": ["boolean", "null"]}, "reward": {"type": ["number", "null"]}},
        "anyOf": [
            {"required": ["success"], "properties": {"success": {"type": "boolean"}}},
            {"required": ["reward"], "properties": {"reward": {"type": "number"}}},
        ],
        "additionalProperties": False,
    }
    meaning = "The episode's id, or an explicit session id: its newest episode."
    kept = _object(episode=_TEXT, success={"type": ["boolean", "null"]}, reward={"type": ["number", "null"]})
    return {
        "post": {
            "summary": "How the episode ended; closes it.",
            "parameters": [_parameter("episode", "path", meaning, _TEXT)],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": _json("What was kept.", kept), **_errors("400", "401", "404", "413", "415", "431")},
        }
    }


@cache
def document(ladder: tuple[str, ...]) -> dict[str, Any]:
    """The whole description, as plain data, for the variants of this ladder."""
    ready = _reading("Some upstream answers.", _object(ready={"const": True}, draining={"const": False}))
    ready["get"]["responses"]["503"] = _json(
        "None does, or the gateway is about to stop.", _object(ready={"const": False}, draining={"type": "boolean"})
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "bitroute gateway", "version": __version__, "description": "Every step at the precision it needs."},
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": {
            **{endpoint.value: _generating(endpoint, ladder) for endpoint in Endpoint},
            "/v1/models": _reading(
                "The models offered.", _object(object={"const": "list"}, data={"type": "array", "items": _MODEL}), "401"
            ),
            "/v1/models/{model}": _reading("One model.", _MODEL, "401", "404", name="model"),
            "/v1/episodes/{episode}/outcome": _outcome(),
            "/health": _reading("The process lives.", _object(status={"const": "ok"})),
            "/ready": ready,
        },
        "components": {
            "schemas": {"Error": _ERROR, "BlockError": _BLOCK_ERROR},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
