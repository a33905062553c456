"""Requests that nobody would write: whatever comes in, the gateway answers within its description and fails nowhere inside."""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from support import upstream as up
from support.clients import Stage, failures, staged
from support.upstream import PATIENCE, Seen

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "auto",
        "stream": False,
        "stream_options": {"include_usage": True},
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "metadata": {"session_id": "s"},
        "prompt_cache_key": "k",
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
            {"role": "user", "content": "go", "name": None},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"x":1.0}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "a pan"},
        ],
    },
    "/v1/completions": {"model": "auto-0.5", "prompt": ["a", "b"], "stream": True},
    "/v1/responses": {
        "model": "auto",
        "instructions": "be brief",
        "previous_response_id": "r",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "go"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "a pan"},
        ],
    },
    "/v1/messages": {
        "model": "low",
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a pan"}]},
        ],
    },
    "/v1/episodes/e/outcome": {"success": True, "reward": 0.5},
}
NAMES = sorted({"role", "content", "type", "text", "id", "index", "arguments", "n", "model", "stream", "messages", "input", ""})


def bounded(examples: int) -> settings:
    """The same examples in every run, and no time limit for one of them."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def deaf() -> up.Behaviour:
    """The usual answer, `ok`, whatever the request says."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        heard = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": seen.stream}
        return await up.answer("ok")(replace(seen, body=json.dumps(heard).encode()), request)

    return behave


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    routing = {"router": "random:0.5", "floors": {"f": "high"}}
    with staged(tmp_path_factory.mktemp("gateway"), low=deaf(), high=deaf(), routing=routing) as found:
        yield found


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not failures(caplog)


# The published description.


@pytest.fixture(scope="module")
def description(stage: Stage) -> Any:
    return schemathesis.openapi.from_url(f"{stage.gateway.url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: str(mode.value))
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in BODIES if path != "/v1/episodes/e/outcome"),
        ("POST", "/v1/episodes/{episode}/outcome"),
        ("GET", "/v1/models/{model}"),
    ],
)
def test_answers_are_as_described(description: Any, method: str, path: str, mode: GenerationMode) -> None:
    if method == "GET" and mode is GenerationMode.NEGATIVE:
        pytest.skip("every text is a path")
    operation = description[path][method]

    @bounded(25)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if "x-step" in (case.headers or {}):  # which one header another needs, OpenAPI cannot say
            case.headers.setdefault("x-session-id", "s")
        response = case.call_and_validate()
        assert str(response.status_code) in operation.definition.raw["responses"]

    check()


def test_what_takes_nothing_is_as_described(description: Any) -> None:
    for path in ("/health", "/ready", "/v1/models"):
        assert description[path]["GET"].Case().call_and_validate().status_code == 200


@bounded(60)
@given(data=st.data())
def _any_method_and_path(stage: Stage, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]))
    words = ["v1", "models", "episodes", "outcome", "health", "chat", "completions", "messages", "%2e", "a%ff", ""]
    path = "/" + "/".join(data.draw(st.lists(st.sampled_from(words), max_size=5)))
    status, headers, body = ask(stage, method, path)
    assert status in (200, 400, 404, 405), path
    if status == 405:
        assert method not in headers["allow"].split(", ")
    if status >= 400 and method != "HEAD":
        judge(path, status, body)


def test_any_method_and_path_is_answered(stage: Stage) -> None:
    _any_method_and_path(stage)


# Bodies.


def ask(
    stage: Stage, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(stage.gateway.url).netloc, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def judge(path: str, status: int, body: bytes) -> None:
    """A refusal has the endpoint's shape; nothing fails inside."""
    assert status < 500
    if status >= 400:
        found = json.loads(body)
        assert found["error"]["message"] and found["error"]["type"]
        assert (found.get("type") == "error") == path.startswith("/v1/messages")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["", "auto", "user", "tool", "text", "tool_result", "x" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below `value`."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *places(value[key]))]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid body with some of its values changed, and then perhaps some of its bytes."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = json.loads(json.dumps(BODIES[path]))
    for _ in range(draw(st.integers(0, 3))):
        if not (found := places(body)):
            break
        container, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(["replace", "delete", "insert", "nest"])):
            case "replace":
                container[key] = draw(VALUES)
            case "delete":
                del container[key]
            case "insert" if isinstance(container, dict):
                container[draw(st.sampled_from(NAMES))] = draw(VALUES)
            case "insert":
                container.insert(key, draw(VALUES))
            case _:
                container[key] = [container[key]]
    data = bytearray(json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["cut", "byte", "twice"])):
            case "cut":
                del data[at:]
            case "byte":
                data[at : at + 1] = draw(st.binary(max_size=2))
            case _:
                data[at:at] = data[: draw(st.integers(0, 40))]
    return path, bytes(data)


@bounded(400)
@given(request=mutated())
@example(request=("/v1/chat/completions", b'{"model":"auto","model":"low","messages":[{"role":"user"}],"messages":[]}'))
@example(request=("/v1/chat/completions", b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}'))
@example(request=("/v1/completions", b'{"model":"auto","prompt":[' + b"9" * 5000 + b"]}"))
@example(request=("/v1/messages", b'{"model":"auto","messages":' + b'[{"role":"user","content":' * 3000))
@example(request=("/v1/episodes/e/outcome", b'{"reward":1e999}'))
def _any_body(stage: Stage, request: tuple[str, bytes]) -> None:
    path, body = request
    status, headers, answer = ask(stage, "POST", path, body)
    judge(path, status, answer)
    assert status in (200, 400, 404)
    if status == 200 and headers["content-type"] == "application/json":
        json.loads(answer)


@pytest.mark.slow
def test_any_body_is_answered_or_refused(stage: Stage) -> None:
    _any_body(stage)


# Headers, and requests that are hardly HTTP.


def send(stage: Stage, request: bytes, *, half: bool = False) -> tuple[int, bytes] | None:
    """Bytes to the public port, and the first response; None when there is none. `half`: nothing more will come from here."""
    address = urlsplit(stage.gateway.url)
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        if half:
            connection.shutdown(socket.SHUT_WR)
        response = http.client.HTTPResponse(connection)
        try:
            response.begin()
            return response.status, response.read()
        except (http.client.HTTPException, ConnectionError):
            return None
        finally:
            response.close()


HEADERS = [
    "x-step",
    "x-session-id",
    "x-bitroute-force",
    "x-stainless-retry-count",
    "x-claude-code-session-id",
    "session_id",
    "authorization",
    "x-api-key",
    "traceparent",
    "x-request-id",
    "user-agent",
    "accept",
    "anthropic-beta",
    "content-type",
    "content-encoding",
    "expect",
    "cookie",
]
TEXTS = st.sampled_from(
    [
        b"",
        b" ",
        b"0",
        b"1",
        b"-1",
        b"2147483648",
        b"1e3",
        b"\xd9\xa1",
        b"low",
        b"high",
        b"auto",
        b"Bearer br_",
        b"\x00",
        b"x" * 256,
    ]
) | st.binary(max_size=12).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))


@bounded(300)
@given(path=st.sampled_from(sorted(BODIES)), headers=st.lists(st.tuples(st.sampled_from(HEADERS), TEXTS), max_size=5))
@example(path="/v1/chat/completions", headers=[("x-session-id", b"s"), ("x-step", b"9" * 5000)])
@example(path="/v1/chat/completions", headers=[("cookie", b"x" * 33_000)])
@example(path="/v1/messages", headers=[("traceparent", b"\xff\x01\x7f")])
def _any_header(stage: Stage, path: str, headers: list[tuple[str, bytes]]) -> None:
    body = json.dumps(BODIES[path]).encode()
    lines = [f"POST {path} HTTP/1.1".encode(), b"host: x", b"connection: close", b"content-length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in headers]
    found = send(stage, b"\r\n".join([*lines, b"", body]))
    assert found is not None
    status, answer = found
    assert status in (200, 400, 404, 415, 431)
    if answer != b"Invalid HTTP request received.":  # the parser's own word
        judge(path, status, answer)


def test_any_header_is_read_or_refused(stage: Stage) -> None:
    _any_header(stage)


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 5",
        b"content-length: 99999",
        b"content-length: 999999999999",
        b"content-length: -1",
        b"content-length: +5",
        b"content-length: five",
        b"content-length: " + b"9" * 400,
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"transfer-encoding: chunked",
        b"transfer-encoding: chunked\r\n\r\nffffffffffffffff",
        b"transfer-encoding: gzip",
        b"x",
    ],
    ids=lambda framing: framing[:40].decode().replace("\r\n", ", "),
)
def test_lies_about_the_bodys_length_cost_that_request_alone(stage: Stage, framing: bytes) -> None:
    body = json.dumps(BODIES["/v1/chat/completions"]).encode()
    found = send(stage, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n" + body, half=True)
    if found is not None:
        assert 400 <= found[0] < 500
    assert ask(stage, "POST", "/v1/chat/completions", body)[0] == 200


@bounded(60)
@given(garbage=st.binary(min_size=1, max_size=200))
def _any_bytes(stage: Stage, garbage: bytes) -> None:
    found = send(stage, garbage, half=True)
    assert found is None or 400 <= found[0] < 500


def test_bytes_that_are_no_http_are_refused(stage: Stage) -> None:
    _any_bytes(stage)
    assert ask(stage, "GET", "/health")[0] == 200


# Histories.


NUMBERS = itertools.count()


def edit(chooser: random.Random, history: list[dict[str, Any]], own: str) -> None:
    """Do to a history what agents do: compact it, cut it, edit it, put something before it. `own` is said nowhere else."""
    at = chooser.randrange(len(history))
    match chooser.choice(["cut", "drop", "edit", "swap", "system", "double", "fresh"]):
        case "cut":
            del history[at + 1 :]
        case "drop" if len(history) > 1:
            del history[at]
        case "edit":
            history[at] = {**history[at], "content": chooser.choice([own, [{"type": "text", "text": own}]])}
        case "swap":
            other = chooser.randrange(len(history))
            history[at], history[other] = history[other], history[at]
        case "system":
            history.insert(0, {"role": "system", "content": own})
        case "double":
            history.insert(at, dict(history[at]))
        case _:
            history[:] = [{"role": "user", "content": own}]


@bounded(60)
@given(seed=st.integers(0, 2**32), named=st.booleans(), moves=st.lists(st.sampled_from("gggert"), min_size=3, max_size=9))
def _any_history(stage: Stage, seed: int, named: bool, moves: list[str]) -> None:
    chooser, session = random.Random(seed), f"session {next(NUMBERS)}"
    headers = {"x-session-id": session} if named else {}
    history: list[dict[str, Any]] = [{"role": "user", "content": session}]
    body, before = b"", ("", -1, "")
    for number, move in enumerate(["r", *moves]):
        if move == "g":
            history += [{"role": "assistant", "content": "ok"}, {"role": "user", "content": f"go {number}"}]
        elif move == "e":
            edit(chooser, history, f"{session}, edit {number}")
        if move != "t":
            body = json.dumps({"model": "auto", "messages": history, "stream": chooser.random() < 0.3}).encode()
        retry = {"x-stainless-retry-count": "1"} if move == "t" else {}
        status, told, answer = ask(stage, "POST", "/v1/chat/completions", body, headers | retry)
        assert status == 200, answer
        here = told["x-bitroute-episode"], int(told["x-bitroute-step"]), told["x-bitroute-variant"]
        assert 0 <= here[1] <= sum(message["role"] == "assistant" for message in history)
        if move == "t":
            assert here == before
        elif move == "g":
            assert here[:2] == (before[0], before[1] + 1)
        before = here


def test_any_history_is_placed_and_what_goes_on_continues(stage: Stage) -> None:
    _any_history(stage)
