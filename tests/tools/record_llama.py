"""Records what a llama-server answers: tests/fixtures/gateway/llama_*. Needs the extra `serve-demo`; takes seconds:

    python tests/tools/record_llama.py

Answers are kept byte for byte. `llama_stream.txt` asked for usage and log-probabilities, `llama_error.json` for more tokens
than a slot holds.
"""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bitroute.engines.llama_server import CONTEXT, llama_server
from bitroute.gateway.demo.demo import MODEL, OPENING
from bitroute.quantization.gguf import export_gguf

FIXTURES = Path(__file__).parents[1] / "fixtures" / "gateway"
ASK: dict[str, Any] = {"model": "high", "temperature": 0, "messages": [{"role": "user", "content": OPENING}]}
BODIES: dict[str, dict[str, Any]] = {
    "llama_chat.json": ASK,
    "llama_logprobs.json": ASK | {"logprobs": True, "top_logprobs": 2},
    "llama_stream.txt": ASK | {"logprobs": True, "top_logprobs": 2, "stream": True, "stream_options": {"include_usage": True}},
    "llama_error.json": ASK | {"messages": [{"role": "user", "content": " bed" * CONTEXT}]},
}


def post(url: str, body: dict[str, Any]) -> bytes:
    """The answer's body, whatever its status."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.read()


def main() -> None:
    """Start a server, ask, write."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, llama_server(export_gguf(MODEL, "gguf-f16", Path(work)), "high") as url:
        for name, body in BODIES.items():
            (FIXTURES / name).write_bytes(post(f"{url}/v1/chat/completions", body))


if __name__ == "__main__":
    main()
