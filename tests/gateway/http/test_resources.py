"""What the public port offers beside generation: paths, methods, and the shape of what is refused."""

from __future__ import annotations

import http.client
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.clients import Stage, staged
from support.upstream import PATIENCE

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("gateway")) as found:
        yield found


def ask(stage: Stage, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(stage.gateway.url).netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        read = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(read or b"null")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/health", "GET, HEAD"),
        ("/ready", "GET, HEAD"),
        ("/openapi.json", "GET"),
        ("/v1/models", "GET"),
        ("/v1/models/low", "GET"),
        ("/v1/episodes/e/outcome", "POST"),
        ("/v1/chat/completions", "POST"),
        ("/v1/messages", "POST"),
    ],
)
def test_other_methods_are_told_which_there_are(stage: Stage, path: str, allowed: str) -> None:
    for method in METHODS:
        if method in allowed.split(", "):
            continue
        status, headers, answer = ask(stage, method, path)
        assert (status, headers["allow"], headers["content-type"]) == (405, allowed, "application/json"), method
        if method != "HEAD":
            assert answer["error"]["message"] == f"{method} is not allowed on {path}; use {allowed}"
            assert (answer.get("type") == "error") == (path == "/v1/messages")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/health/x", "/v1/chat/completions/", "/v1/episodes/outcome", "/v1/messages/x", "/docs"]
)
def test_other_paths_are_unknown(stage: Stage, path: str) -> None:
    for method in METHODS:
        status, _, answer = ask(stage, method, path)
        assert status == 404
        if method != "HEAD":
            assert answer["error"]["message"] == f"Unknown request URL: {method} {path}"
            assert (answer.get("type") == "error") == path.startswith("/v1/messages")


def test_slashes_at_the_ends_of_a_path_do_not_count(stage: Stage) -> None:
    for path in ("/health/", "//health", "/ready/", "/v1/models/", "/v1/models/low/", "/openapi.json/"):
        assert ask(stage, "GET", path)[0] == 200, path


def test_ids_and_names_are_taken_as_they_stand(stage: Stage) -> None:
    status, _, answer = ask(stage, "GET", "/v1/models/org/none%0A")
    assert status == 404 and answer["error"]["message"].startswith("The model 'org/none\\n' does not exist")
    session = "tasks/7\n"
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "metadata": {"session_id": session}}
    status, headers, _ = ask(stage, "POST", "/v1/chat/completions", json.dumps(body).encode())
    assert status == 200
    status, _, kept = ask(stage, "POST", "/v1/episodes/tasks%2F7%0A/outcome", b'{"reward": 0.5}')
    assert (status, kept) == (200, {"episode": headers["x-bitroute-episode"], "success": None, "reward": 0.5})


def test_a_client_that_leaves_before_its_outcome_is_read_is_no_failure(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    address = urlsplit(stage.gateway.url)
    with caplog.at_level(logging.WARNING), socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"POST /v1/episodes/e/outcome HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
        connection.shutdown(socket.SHUT_RDWR)
    assert ask(stage, "GET", "/health")[0] == 200
    assert not caplog.records
