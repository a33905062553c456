"""A scripted upstream: an OpenAI-shaped server that answers, or misbehaves, exactly as a test says. It knows no gateway.

    async with ScriptedUpstream(answer()) as upstream: ...     # in the test's own event loop
    with ScriptedUpstream([error(500), answer()]) as upstream: ...   # in a thread of its own, for blocking clients

A script is one behaviour for every request, or a list of them (one a request, the last repeats); `choose` makes one of a
function that looks at the request. `upstream.url` is the base without /v1; `upstream.requests` has every POST;
`upstream.cancelled` is set when a client left before its answer was whole. What has to wait, waits for a `Flag`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from aiohttp import web

PATIENCE = 20.0  # seconds until a wait that should end fails its test
DONE = b"data: [DONE]\n\n"
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


class Flag:
    """An event that may be set and waited for from any thread or event loop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def set(self) -> None:
        with self._lock:
            self._event.set()
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def clear(self) -> None:
        self._event.clear()

    def is_set(self) -> bool:
        return self._event.is_set()

    def block(self) -> None:
        """Wait in a thread without an event loop. AssertionError when the flag is not set in time."""
        assert self._event.wait(PATIENCE), "the flag was never set"

    async def wait(self) -> None:
        """Wait in an event loop. TimeoutError when the flag is not set in time."""
        event = asyncio.Event()
        with self._lock:
            if self._event.is_set():
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        async with asyncio.timeout(PATIENCE):
            await event.wait()


async def until(condition: Callable[[], object]) -> None:
    """Give way to other tasks until `condition()` holds. TimeoutError when it does not in time."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass
class Seen:
    """A POST as it arrived. `finished` is set when its answer was sent whole, `cancelled` when the client left before."""

    number: int
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    finished: Flag = field(default_factory=Flag)
    cancelled: Flag = field(default_factory=Flag)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def stream(self) -> bool:
        return bool(self.json.get("stream"))


Behaviour = Callable[[Seen, web.Request], Awaitable[web.StreamResponse]]
Script = Behaviour | Sequence[Behaviour]


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event; `data` is text as it is, or made JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chunk(content: str | None = None, finish: str | None = None, **extra: Any) -> bytes:
    """One event of a chat stream."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return event(
        {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **extra}
    )


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


# Behaviours -----------------------------------------------------------------------------------------------------------


def answer(text: str | None = None, *, cached: int = 0, headers: dict[str, str] | None = None, **message: Any) -> Behaviour:
    """The endpoint's usual answer, streamed where asked: `text`, or an echo of the newest message. One word is one token.

    `message` goes into the chat message (tool_calls=[...]). Log-probabilities (-0.125 each, one alternative at -2.5) and usage
    in a stream come where the request asks for them.
    """

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        body = seen.json
        said = _echo(body) if text is None else text
        model = body.get("model", "m")
        counts = usage(len(_prompt(body).split()), len(said.split()), cached)
        render = {PATHS[0]: _chat, PATHS[1]: _completion, PATHS[2]: _response, PATHS[3]: _message}[seen.path]
        whole, events = render(seen, body, model, said, counts, message)
        if not seen.stream:
            return web.json_response(whole, headers=headers)
        return await stream(*events, headers=headers)(seen, request)

    return behave


def choose(function: Callable[[Seen], Behaviour]) -> Behaviour:
    """The behaviour that `function` picks for each request."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        return await function(seen)(seen, request)

    return behave


def stream(*parts: bytes | Flag, headers: dict[str, str] | None = None, drop: bool = False) -> Behaviour:
    """Headers at once, then each part as one HTTP chunk; a `Flag` among them is waited for. `drop`: abort instead of ending."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **(headers or {})})
        await response.prepare(request)
        for part in parts:
            if isinstance(part, Flag):
                await part.wait()
            else:
                await response.write(part)
        if drop:
            _cut(request)
        await response.write_eof()
        return response

    return behave


def slow(gate: Flag, then: Behaviour | None = None) -> Behaviour:
    """Nothing at all, not even headers, until the gate opens."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await (then or answer())(seen, request)

    return behave


def drop(*parts: bytes | Flag) -> Behaviour:
    """The connection is cut after these parts of a stream; without parts before any header."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        if parts:
            return await stream(*parts, drop=True)(seen, request)
        _cut(request)

    return behave


def truncated(body: bytes, missing: int = 10) -> Behaviour:
    """A plain answer whose content-length promises `missing` bytes more than come before the connection is cut."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(body) + missing)})
        await response.prepare(request)
        await response.write(body)
        _cut(request)

    return behave


def error(status: int, message: str = "upstream says no", *, code: str | None = None, **headers: str) -> Behaviour:
    """An error in OpenAI's shape. Underscores in header names are dashes: error(429, retry_after="7")."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        body = {
            "error": {"message": message, "type": "server_error" if status >= 500 else "invalid_request_error", "code": code}
        }
        return web.json_response(
            body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    return behave


def raw(
    body: bytes, content_type: str = "application/json", status: int = 200, headers: dict[str, str] | None = None
) -> Behaviour:
    """These bytes, whatever was asked."""

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"content-type": content_type, **(headers or {})})

    return behave


def malformed() -> Behaviour:
    """A stream whose second event is no JSON, whose third has no known field, and that goes on all the same."""
    return stream(
        chunk("good "),
        b'data: {"choices": [{"del\n\n',
        b"nonsense without a colon\n\n",
        chunk("end"),
        chunk(finish="stop"),
        DONE,
    )


def null_choices() -> Behaviour:
    """`choices: null`, streamed or not (seen of servers that filter content)."""
    none = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1, "model": "m", "choices": None, "usage": usage(3, 0)}

    async def behave(seen: Seen, request: web.Request) -> web.StreamResponse:
        parts = (event(none | {"object": "chat.completion.chunk"}), DONE)
        return await (stream(*parts)(seen, request) if seen.stream else raw(json.dumps(none).encode())(seen, request))

    return behave


def usage_on_content() -> Behaviour:
    """A stream that repeats the running usage on every content chunk and sends none of its own."""
    return stream(
        chunk("one ", usage=usage(5, 1)), chunk("two", usage=usage(5, 2)), chunk(finish="stop", usage=usage(5, 2)), DONE
    )


def split_utf8(text: str = "größer 🙂") -> Behaviour:
    """A stream cut after every single byte, inside characters too."""
    whole = chunk(text) + chunk(finish="stop") + DONE
    return stream(*(whole[at : at + 1] for at in range(len(whole))))


def big(size: int = 20 * 1024 * 1024) -> Behaviour:
    """An answer with `size` letters of content."""
    return answer("x" * size)


# The server -----------------------------------------------------------------------------------------------------------


class ScriptedUpstream:
    """See the module's docstring. `kill()` cuts every connection and stops listening; `start()` listens on the same port again.

    `healthy` and `has_health` say what GET /health answers (200, 503; 404 without one: GET /v1/models always answers).
    """

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or answer()
        self.requests: list[Seen] = []
        self.cancelled = Flag()
        self.arrived = Flag()
        self.healthy = True
        self.has_health = True
        self.checks = 0
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._listening: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._runner.server.connections) if self._runner and self._runner.server else 0

    async def start(self) -> None:
        app = web.Application(client_max_size=256 * 1024 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/{path:.*}", self._post)
        # What is open is known at once: a start or an end that is cancelled halfway is finished by the next `kill`.
        runner = self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        listening = self._listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        await web.SockSite(runner, listening, backlog=8192).start()

    async def kill(self) -> None:
        runner, listening = self._runner, self._listening
        if listening is not None and listening.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(listening)
            for _ in range(4):  # asyncio loses what was accepted and has no transport yet when its server is closed
                await asyncio.sleep(0)
        if runner is not None:
            for site in list(runner.sites):
                await site.stop()
            for connection in runner.server.connections if runner.server else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()
        if listening is not None:
            listening.close()
        self._runner = self._listening = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.call(self.start())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._thread is not None
        self.call(self.kill())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `kill()` or `start()` of an upstream that lives in a thread, and wait for it."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _health(self, _: web.Request) -> web.Response:
        self.checks += 1
        return web.Response(status=(200 if self.healthy else 503) if self.has_health else 404)

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": "m", "object": "model", "created": 1, "owned_by": "upstream"}
        return web.json_response({"object": "list", "data": [model]}, status=200 if self.healthy else 503)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen = Seen(len(self.requests), request.path, headers, await request.read())
        self.requests.append(seen)
        self.arrived.set()
        script = self.script
        behave = script[min(seen.number, len(script) - 1)] if isinstance(script, Sequence) else script
        try:
            response = await behave(seen, request)
            if not response.prepared:
                await response.prepare(request)
                await response.write_eof()
        except _CutError:
            raise asyncio.CancelledError from None
        except (asyncio.CancelledError, ConnectionError):
            seen.cancelled.set()
            self.cancelled.set()
            raise asyncio.CancelledError from None
        seen.finished.set()
        return response


class _CutError(Exception):
    """This side has cut the connection: nothing more to answer."""


def _cut(request: web.Request) -> NoReturn:
    if request.transport is not None:
        request.transport.abort()
    raise _CutError


# What the usual answer looks like on each endpoint --------------------------------------------------------------------


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _messages(body: dict[str, Any]) -> list[str]:
    given = body.get("messages", body.get("input", body.get("prompt", "")))
    if isinstance(given, str):
        return [given]
    return [_text(item.get("content")) if isinstance(item, dict) else str(item) for item in given or [""]]


def _prompt(body: dict[str, Any]) -> str:
    return " ".join(_messages(body))


def _echo(body: dict[str, Any]) -> str:
    return _messages(body)[-1]


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + words[-1:]


def _logprobs(words: list[str]) -> dict[str, Any]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [{**entry(w, -0.125), "top_logprobs": [entry(w, -0.125), entry("?", -2.5)]} for w in words],
        "refusal": None,
    }


Rendered = tuple[dict[str, Any], list[bytes]]


def _chat(seen: Seen, body: dict[str, Any], model: str, said: str, counts: dict[str, Any], message: dict[str, Any]) -> Rendered:
    base = {"id": f"chatcmpl-{seen.number}", "created": 1_700_000_000, "model": model}
    wants = bool(body.get("logprobs"))
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    words = _words(said)
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": said, **message},
        "logprobs": _logprobs(words) if wants else None,
        "finish_reason": finish,
    }
    whole = {**base, "object": "chat.completion", "choices": [choice], "usage": counts}
    asked = bool((body.get("stream_options") or {}).get("include_usage"))

    def part(delta: dict[str, Any], logprobs: object = None, finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]
        extra = {"usage": None} if asked else {}
        return event({**base, "object": "chat.completion.chunk", "choices": choices, **extra})

    calls = [{"index": at, **call} for at, call in enumerate(message.get("tool_calls") or [])]
    extra = {key: value for key, value in message.items() if key != "tool_calls"} | ({"tool_calls": calls} if calls else {})
    events = [part({"role": "assistant", "content": "", **extra})]
    events += [part({"content": word}, _logprobs([word]) if wants else None) for word in words]
    events.append(part({}, finish=finish))
    if asked:
        events.append(event({**base, "object": "chat.completion.chunk", "choices": [], "usage": counts}))
    return whole, [*events, DONE]


def _completion(seen: Seen, body: dict[str, Any], model: str, said: str, counts: dict[str, Any], _: dict[str, Any]) -> Rendered:
    base = {"id": f"cmpl-{seen.number}", "object": "text_completion", "created": 1_700_000_000, "model": model}

    def choice(text: str, finish: str | None) -> list[dict[str, Any]]:
        return [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}]

    events = [event({**base, "choices": choice(word, None)}) for word in _words(said)] + [
        event({**base, "choices": choice("", "stop")})
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append(event({**base, "choices": [], "usage": counts}))
    return {**base, "choices": choice(said, "stop"), "usage": counts}, [*events, DONE]


def _response(seen: Seen, body: dict[str, Any], model: str, said: str, counts: dict[str, Any], _: dict[str, Any]) -> Rendered:
    prompt, completion = counts["prompt_tokens"], counts["completion_tokens"]
    used = {
        "input_tokens": prompt,
        "input_tokens_details": counts["prompt_tokens_details"],
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }
    part = {"type": "output_text", "text": said, "annotations": []}
    item = {"id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    base = {"id": f"resp_{seen.number}", "object": "response", "created_at": 1_700_000_000, "model": model}
    whole = {**base, "status": "completed", "output": [item], "usage": used}
    where = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    steps: list[dict[str, Any]] = [{"type": "response.created", "response": {**base, "status": "in_progress", "output": []}}]
    started: dict[str, Any] = {**item, "status": "in_progress", "content": []}
    steps.append({"type": "response.output_item.added", "output_index": 0, "item": started})
    steps.append({"type": "response.content_part.added", **where, "part": {**part, "text": ""}})
    steps += [{"type": "response.output_text.delta", **where, "delta": word, "logprobs": []} for word in _words(said)]
    steps.append({"type": "response.output_text.done", **where, "text": said, "logprobs": []})
    steps.append({"type": "response.content_part.done", **where, "part": part})
    steps.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    steps.append({"type": "response.completed", "response": whole})
    return whole, [event({"sequence_number": at, **step}, step["type"]) for at, step in enumerate(steps)]


def _message(seen: Seen, body: dict[str, Any], model: str, said: str, counts: dict[str, Any], _: dict[str, Any]) -> Rendered:
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    used = {"input_tokens": counts["prompt_tokens"] - cached, "cache_read_input_tokens": cached, "output_tokens": 1}
    base = {"id": f"msg_{seen.number}", "type": "message", "role": "assistant", "model": model}
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    final = {**used, "output_tokens": counts["completion_tokens"]}
    whole = {**base, "content": [{"type": "text", "text": said}], **ending, "usage": final}
    empty: dict[str, Any] = {**base, "content": [], "stop_reason": None, "stop_sequence": None, "usage": used}
    steps: list[dict[str, Any]] = [{"type": "message_start", "message": empty}]
    steps.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    steps += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in _words(said)
    ]
    steps.append({"type": "content_block_stop", "index": 0})
    steps.append({"type": "message_delta", "delta": ending, "usage": {"output_tokens": counts["completion_tokens"]}})
    steps.append({"type": "message_stop"})
    return whole, [event(step, step["type"]) for step in steps]
