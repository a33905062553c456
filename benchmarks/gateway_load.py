"""Load for the gateway's benchmark: agents that play episodes over one kept connection each, closed loop or open loop.

An agent sends step after step of an episode, each with the whole history, as chat agents do: a system message, then what the
environment says and what it answered in turns. It knows just enough HTTP to see where an answer ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from gateway_servers import ACTION

STEPS: Final = 6  # of an episode
_HEAD: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: %s\r\naccept: application/json\r\nuser-agent: bench\r\n"
    b"authorization: Bearer none\r\ncontent-type: application/json\r\nx-session-id: %s\r\ncontent-length: %d\r\n\r\n%s"
)
_SYSTEM: Final = (
    "You are a household agent. Think first, then write one action in a line of its own. Your task: put a hot mug in shelf 2."
)
_SAYS: Final = (
    "You arrive at the {place}. On it, you see a {a}, a {b} and a {c}.\nYour task is to: put a hot {goal} in shelf 2."
)
_WORDS: Final = (
    "apple",
    "bowl",
    "cloth",
    "fork",
    "kettle",
    "knife",
    "mug",
    "newspaper",
    "pan",
    "pencil",
    "plate",
    "spoon",
    "vase",
)


@dataclass
class Seen:
    """What came back: seconds to the first byte of a body and to its end, one a request."""

    first: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    failed: int = 0
    example: bytes = b""  # of a failure


class Agent(asyncio.Protocol):
    """One connection. `free` is called after each answer."""

    def __init__(
        self, host: bytes, model: str, stream: bool, name: str, rng: random.Random, free: Callable[[Agent], None]
    ) -> None:
        self.host, self.model, self.stream, self.name, self.rng, self.free = host, model, stream, name, rng, free
        self.seen = Seen()
        self.episode = self.step = 0
        self.messages: list[dict[str, str]] = []
        self.transport: asyncio.Transport
        self.held = bytearray()
        self.body = self.length = -1  # where the body begins, and its length where it is told
        self.at = self.first = 0.0
        self.down = False
        self.bytes = self.count = 0

    def request(self) -> bytes:
        """The next step's."""
        if self.step == 0:
            self.episode += 1
            self.messages = [{"role": "system", "content": _SYSTEM}]
        draw = self.rng.choice
        text = _SAYS.format(
            place=f"{draw(_WORDS)} {self.rng.randrange(99)}", a=draw(_WORDS), b=draw(_WORDS), c=draw(_WORDS), goal=draw(_WORDS)
        )
        self.messages.append({"role": "user", "content": text})
        fields = {"model": self.model, "messages": self.messages, "temperature": 0.0, "max_tokens": 64}
        body = json.dumps(fields | ({"stream": True} if self.stream else {})).encode()
        self.messages.append({"role": "assistant", "content": ACTION})
        self.step = (self.step + 1) % STEPS
        self.bytes, self.count = self.bytes + len(body), self.count + 1
        session = b"%s-%d" % (self.name.encode(), self.episode)
        return _HEAD % (self.host, session, len(body), body)

    def send(self, since: float | None = None) -> None:
        """Ask for the next step. Its time runs from `since`, where it had to wait for an agent."""
        data = self.request()
        self.at = time.perf_counter() if since is None else since
        self.first = 0.0
        self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        held = self.held
        held += data
        if self.body < 0:
            end = held.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(held[:end]).lower()
            self.body = end + 4
            at = head.find(b"content-length:")
            self.length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -1
        if not self.first and len(held) > self.body:
            self.first = time.perf_counter()
        if self.length >= 0:
            if len(held) < self.body + self.length:
                return
        elif not held.endswith(b"0\r\n\r\n"):
            return
        now = time.perf_counter()
        if held.startswith(b"HTTP/1.1 200") and (not self.stream or b"[DONE]" in held):
            self.seen.first.append(self.first - self.at)
            self.seen.total.append(now - self.at)
        else:
            self.fail(bytes(held))
        held.clear()
        self.body = -1
        self.free(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.down = True
        if self.at:
            self.fail(b"connection lost")

    def fail(self, held: bytes) -> None:
        self.seen.failed += 1
        self.seen.example = self.seen.example or held[:600]


class Load:
    """A number of agents on one server; `model` is what they ask for."""

    def __init__(self, port: int, model: str, stream: bool, seed: int) -> None:
        self.port, self.model, self.stream = port, model, stream
        self._rng = random.Random(seed)
        self._free: Callable[[Agent], None] = lambda _: None
        self.agents: list[Agent] = []

    async def connect(self, agents: int) -> None:
        """Open the connections, a few at a time."""
        host, loop = b"127.0.0.1:%d" % self.port, asyncio.get_running_loop()
        while len(self.agents) < agents:
            name = f"{self._rng.getrandbits(64):016x}"
            agent = Agent(host, self.model, self.stream, name, self._rng, self._freed)
            await loop.create_connection(lambda agent=agent: agent, "127.0.0.1", self.port)
            self.agents.append(agent)

    def _freed(self, agent: Agent) -> None:
        self._free(agent)

    async def closed_loop(self, seconds: float) -> Seen:
        """Every agent asks again as soon as it is answered."""
        seen, until = self._begin(), time.perf_counter() + seconds
        at_work = len(self.agents)
        done = asyncio.Event()

        def again(agent: Agent) -> None:
            nonlocal at_work
            if time.perf_counter() < until:
                agent.send()
                return
            at_work -= 1
            if not at_work:
                done.set()

        self._free = again
        for agent in self.agents:
            agent.send()
        await asyncio.wait_for(done.wait(), seconds + 60)
        return seen

    async def open_loop(self, rate: float, seconds: float) -> Seen:
        """Requests at random times (a Poisson process of `rate` a second), whether or not the earlier ones are answered."""
        seen, loop = self._begin(), asyncio.get_running_loop()
        count = max(1, round(rate * seconds))
        at = 0.0
        times = [at := at + self._rng.expovariate(rate) for _ in range(count)]
        idle, waiting = deque(self.agents), deque[float]()
        left, done = count, asyncio.Event()

        def free(agent: Agent) -> None:
            nonlocal left
            left -= 1
            if waiting:
                agent.send(waiting.popleft())
            else:
                idle.append(agent)
            if not left:
                done.set()

        def arrive() -> None:
            if idle:
                idle.popleft().send()
            else:
                waiting.append(time.perf_counter())

        def clock() -> None:  # a thread of its own: the loop's timers count whole milliseconds
            start = time.perf_counter()
            for moment in times:
                if (rest := start + moment - time.perf_counter()) > 0:
                    time.sleep(rest)
                loop.call_soon_threadsafe(arrive)

        self._free = free
        thread = threading.Thread(target=clock, daemon=True)
        thread.start()
        await asyncio.wait_for(done.wait(), seconds + 60)
        thread.join()
        return seen

    def _begin(self) -> Seen:
        seen = Seen()
        for agent in self.agents:
            agent.seen = seen
        return seen

    def close(self) -> None:
        """Close the connections."""
        for agent in self.agents:
            agent.at = 0.0
            agent.transport.close()
