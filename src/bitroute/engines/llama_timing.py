"""Times calls of a llama-server: what a profile of llama.cpp is fitted from. It knows its /completion, token ids and no text.

A call is one request on one slot, with the server in this process: its time is the processor's, request and answer included.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bitroute.cost import TimedCall
from bitroute.engines.llama_server import llama_server
from bitroute.engines.timing import PLAN, REPEATS, Clock, PlannedCall, time_calls
from bitroute.episode import Usage
from bitroute.errors import BitrouteError


def time_llama(
    gguf: Path,
    name: str,
    words: int,
    plan: Sequence[PlannedCall] = PLAN,
    repeats: int = REPEATS,
    clock: Clock = time.process_time,
) -> Iterator[TimedCall]:
    """Serve the file and time it as the variant `name`; `words` is the number of its token ids.

    Raises what `llama_server` raises, and BitrouteError when the server refuses a request.
    """
    with llama_server(gguf, name, cache=0) as url:
        address = urlsplit(url)
        with closing(HTTPConnection(str(address.hostname), address.port)) as connection:
            yield from time_calls(_ServerCaller(connection, name, words, clock), plan, repeats)


class _ServerCaller:
    """Makes planned calls on the server's first slot, whose cache holds the beginning that the next call shares."""

    def __init__(self, connection: HTTPConnection, name: str, words: int, clock: Clock) -> None:
        self.connection, self.name, self.words, self.clock = connection, name, words, clock
        self.random = random.Random(0)
        self.begun: list[int] = []

    def __call__(self, planned: PlannedCall) -> TimedCall:
        if planned.cached > len(self.begun):
            self.begun += self._tokens(planned.cached - len(self.begun))
            self._ask(self.begun, 1)
        prompt = [*self.begun[: planned.cached], *self._tokens(planned.prefill)]
        start = self.clock()
        timings = self._ask(prompt, planned.decode + 1)
        seconds = self.clock() - start
        usage = Usage(self.name, timings["prompt_n"], timings["cache_n"], timings["predicted_n"] - 1)
        return TimedCall(usage, seconds)

    def _ask(self, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        """Generate greedily, the end of text left out; the server's own counts."""
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": True,
            "id_slot": 0,
        }
        self.connection.request("POST", "/completion", json.dumps(body), {"content-type": "application/json"})
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise BitrouteError(f"llama-server refused to generate for {self.name}: {answer}")
        timings: dict[str, Any] = answer["timings"]
        return timings

    def _tokens(self, count: int) -> list[int]:
        return [self.random.randrange(self.words) for _ in range(count)]
