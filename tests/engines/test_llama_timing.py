"""Requests that a planned call makes, to a server that only counts; a real one is timed by hand (`bitroute profile`)."""

import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from bitroute.engines.llama_timing import _ServerCaller
from bitroute.engines.timing import PlannedCall
from bitroute.episode import Usage
from bitroute.errors import BitrouteError


class CountingServer:
    """Keeps the last prompt as its cache; answers as llama-server does."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.cache: Sequence[int] = ()
        self.bodies: list[dict[str, Any]] = []

    def request(self, method: str, path: str, body: str, headers: dict[str, str]) -> None:
        assert (method, path) == ("POST", "/completion")
        self.bodies.append(json.loads(body))

    def getresponse(self) -> "CountingServer":
        return self

    def read(self) -> bytes:
        body = self.bodies[-1]
        shared = next((i for i, (a, b) in enumerate(zip(self.cache, body["prompt"], strict=False)) if a != b), len(self.cache))
        shared = min(shared, len(body["prompt"]) - 1)
        self.cache = body["prompt"]
        timings = {"cache_n": shared, "prompt_n": len(body["prompt"]) - shared, "predicted_n": body["n_predict"]}
        return json.dumps({"timings": timings} if self.status == 200 else {"error": "no slot"}).encode()


def caller(server: CountingServer) -> _ServerCaller:
    ticks = count()
    return _ServerCaller(server, "gguf-q4_0", 500, lambda: float(next(ticks)))  # type: ignore[arg-type]


def test_a_call_finds_its_context_in_the_cache_and_reads_what_is_new() -> None:
    server = CountingServer()
    call = caller(server)
    for planned in (PlannedCall(0, 5, 0), PlannedCall(40, 8, 3), PlannedCall(40, 1, 16), PlannedCall(40, 8, 3)):
        timed = call(planned)
        assert timed.usage == Usage("gguf-q4_0", planned.prefill, planned.cached, planned.decode)
        assert timed.seconds == 1.0
    assert len(server.bodies) == 5  # one of them fills the cache
    assert {body["id_slot"] for body in server.bodies} == {0}
    assert all(body["ignore_eos"] and body["cache_prompt"] and body["temperature"] == 0 for body in server.bodies)
    assert server.bodies[2]["prompt"] != server.bodies[4]["prompt"]  # nothing new is in the cache by chance


def test_a_refusal_is_told() -> None:
    with pytest.raises(BitrouteError, match=r"llama-server refused to generate for gguf-q4_0: .*no slot"):
        caller(CountingServer(status=503))(PlannedCall(0, 5, 0))
