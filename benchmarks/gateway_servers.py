"""What stands around the gateway in its benchmark: an upstream that costs next to nothing, and the floor of pass-throughs.

    python benchmarks/gateway_servers.py upstream PORT [--chunks 16] [--interval 0]
    python benchmarks/gateway_servers.py floor PORT UPSTREAM

The upstream knows just enough HTTP to answer chat completions: an answer of about 700 bytes at once, or `chunks` events, each
written by itself, `interval` seconds apart. The floor is what any proxy in Python pays: Starlette and aiohttp on uvicorn and
uvloop, bytes in, bytes out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import ClassVar, Final, cast

import aiohttp
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

ACTION: Final = "I need a mug first, and they are often near the sink.\ngo to sinkbasin 1"
USAGE: Final = {
    "prompt_tokens": 240,
    "completion_tokens": 18,
    "total_tokens": 258,
    "prompt_tokens_details": {"cached_tokens": 192},
}
_HEAD: Final = {"id": "chatcmpl-5f2c8a90d1e34b7a", "created": 1795478400, "model": "served-model"}


def _answer() -> bytes:
    message = {"role": "assistant", "content": ACTION, "refusal": None, "annotations": None, "audio": None, "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None, "token_ids": None}
    rest = {"service_tier": None, "system_fingerprint": None, "prompt_logprobs": None, "kv_transfer_params": None}
    body = json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE, **rest}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _events(chunks: int) -> list[bytes]:
    """The parts of a streamed answer as chunks of the transfer encoding: the text in `chunks` parts, usage, the end."""
    cuts = [round(i * len(ACTION) / chunks) for i in range(chunks + 1)]
    texts = [ACTION[a:b] for a, b in pairwise(cuts)]
    deltas = [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None} for text in texts]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    shared = {**_HEAD, "object": "chat.completion.chunk"}
    datas = [json.dumps({**shared, "choices": [choice]}) for choice in [*deltas, last]]
    datas += [json.dumps({**shared, "choices": [], "usage": USAGE}), "[DONE]"]
    events = [f"data: {data}\n\n".encode() for data in datas]
    return [b"%x\r\n%s\r\n" % (len(event), event) for event in events]


class Upstream(asyncio.Protocol):
    """One connection of a client that waits for each answer before it asks again."""

    whole = _answer()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    ok = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    events: ClassVar[list[bytes]]
    interval = 0.0

    def __init__(self) -> None:
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        held = self.held = self.held + data
        end = held.find(b"\r\n\r\n")
        if end < 0:
            return
        head = held[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(held) < end + 4 + length:
            return
        body, self.held = held[end + 4 :], b""
        if not head.startswith(b"post"):
            self.transport.write(self.ok)
        elif b'"stream":true' in body or b'"stream": true' in body:
            self.transport.write(self.head + self.events[0])
            self.later(1)
        else:
            self.transport.write(self.whole)

    def later(self, i: int) -> None:
        loop = asyncio.get_running_loop()
        if self.interval:
            loop.call_later(self.interval, self.tell, i)
        else:
            loop.call_soon(self.tell, i)

    def tell(self, i: int) -> None:
        if self.transport.is_closing():
            return
        if i < len(self.events):
            self.transport.write(self.events[i])
            self.later(i + 1)
        else:
            self.transport.write(b"0\r\n\r\n")


async def serve_upstream(port: int, chunks: int, interval: float) -> None:
    Upstream.events, Upstream.interval = _events(chunks), interval
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def serve_floor(port: int, upstream: str) -> None:
    session: aiohttp.ClientSession

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        nonlocal session
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            yield

    async def relay(request: Request) -> Response:
        body = await request.body()
        response = await session.post(upstream + request.url.path, data=body, headers={"content-type": "application/json"})
        if response.content_type != "text/event-stream":
            async with response:
                return Response(await response.read(), response.status, media_type="application/json")

        async def chunks() -> AsyncIterator[bytes]:
            async with response:
                async for chunk in response.content.iter_any():
                    yield chunk

        return StreamingResponse(chunks(), response.status, media_type="text/event-stream")

    async def health(_: Request) -> Response:
        return Response(b"{}", media_type="application/json")

    routes = [Route("/v1/chat/completions", relay, methods=["POST"]), Route("/health", health)]
    app = Starlette(routes=routes, lifespan=lifespan)
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="error", backlog=4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["upstream", "floor"])
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", nargs="?", default="")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--interval", type=float, default=0.0)
    args = parser.parse_args()
    if args.kind == "floor":
        serve_floor(args.port, args.upstream)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_upstream(args.port, args.chunks, args.interval))


if __name__ == "__main__":
    main()
