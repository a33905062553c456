"""The OpenAPI description of the public port. It says of request bodies what the gateway reads: the rest is the upstream's."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from bitroute import __version__
from bitroute.gateway.exchange import Endpoint

_TEXT: Final = {"type": "string"}
_CONTENT: Final = {
    "oneOf": [
        {"type": "string"},
        {"type": "null"},
        {"type": "array", "items": {"type": "object", "properties": {"type": _TEXT}}},
    ]
}
_MESSAGES: Final = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool", "function"]},
            "content": _CONTENT,
        },
    },
}
_INPUT: Final = {"oneOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "object"}}]}
_PROMPT: Final = {"oneOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]}
_HISTORY: Final = {
    Endpoint.CHAT: ("messages", _MESSAGES),
    Endpoint.COMPLETIONS: ("prompt", _PROMPT),
    Endpoint.RESPONSES: ("input", _INPUT),
    Endpoint.MESSAGES: ("messages", _MESSAGES),
}
_HEADERS: Final = {
    "x-session-id": "Names the session; exact, 1 to 255 characters.",
    "x-step": "Number of this step, for agents that send one fresh message a step; needs x-session-id.",
    "x-bitroute-force": "Serve this variant, whatever the router says.",
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
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": _TEXT, "type": _TEXT, "code": {}, "param": {}},
        }
    },
}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


_ERRORS: Final = {
    "400": _error("The request is malformed; `param` names the field."),
    "401": _error("No valid key."),
    "403": _error("The key may not use this model."),
    "404": _error("No such model, episode or path."),
    "405": _error("The path has another method."),
    "413": _error("The body is too large."),
    "415": _error("The body is encoded."),
    "429": _error("A limit of the key is reached; see retry-after."),
    "431": _error("The headers are too large."),
    "502": _error("The upstream failed."),
    "503": _error("Busy; see retry-after."),
    "504": _error("The upstream did not answer in time."),
}


def _json(description: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


def _header(name: str, description: str) -> dict[str, Any]:
    schema = (
        {"type": "string", "pattern": "^[0-9]{1,6}$"}
        if name == "x-step"
        else {"type": "string", "minLength": 1, "maxLength": 255}
    )
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _generating(endpoint: Endpoint) -> dict[str, Any]:
    key, schema = _HISTORY[endpoint]
    body = {
        "type": "object",
        "required": ["model", key],
        "properties": {"model": {"type": "string", "minLength": 1}, "stream": {"type": "boolean"}, key: schema},
    }
    told = {name: {"description": text, "schema": _TEXT} for name, text in _ANSWER_HEADERS.items()}
    answer = _json("The upstream's answer; `model` names the variant.", {"type": "object"}, headers=told)
    answer["content"]["text/event-stream"] = {"schema": _TEXT}
    return {
        "post": {
            "summary": "Routed to a variant and relayed.",
            "parameters": [_header(name, text) for name, text in _HEADERS.items()],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": answer, **_ERRORS},
        }
    }


def _reading(summary: str, *names: str) -> dict[str, Any]:
    parameters = [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]
    return {
        "get": {
            "summary": summary,
            "parameters": parameters,
            "responses": {"200": _json(summary, {"type": "object"}), **_ERRORS},
        }
    }


@cache
def document() -> dict[str, Any]:
    """The whole description, as plain data."""
    outcome = {
        "type": "object",
        "properties": {"success": {"type": ["boolean", "null"]}, "reward": {"type": ["number", "null"]}},
        "anyOf": [{"required": ["success"]}, {"required": ["reward"]}],
        "additionalProperties": False,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "bitroute gateway", "version": __version__, "description": "Every step at the precision it needs."},
        "security": [{}, {"key": []}],
        "paths": {
            **{endpoint.value: _generating(endpoint) for endpoint in Endpoint},
            "/v1/models": _reading("The models offered."),
            "/v1/models/{model}": _reading("One model.", "model"),
            "/v1/episodes/{episode}/outcome": {
                "post": {
                    "summary": "How the episode ended; closes it.",
                    "parameters": [
                        {
                            "name": "episode",
                            "in": "path",
                            "required": True,
                            "description": "The episode's id, or an explicit session id: its newest episode.",
                            "schema": _TEXT,
                        }
                    ],
                    "requestBody": {"required": True, "content": {"application/json": {"schema": outcome}}},
                    "responses": {"200": _json("What was kept.", {"type": "object"}), **_ERRORS},
                }
            },
            "/health": _reading("The process lives."),
            "/ready": _reading("Some upstream answers."),
        },
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
