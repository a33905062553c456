"""The demo's llama-servers, asked directly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.splits import split, task
from bitroute.envs.alfworld.suite import AlfworldSuite
from bitroute.envs.models import find_model
from bitroute.errors import ConfigError, DataError
from bitroute.gateway.core.config import GatewayConfig, Source
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.client import SuiteClient
from support.checkpoint import write_checkpoint

pytest.importorskip("gguf", reason="needs the extra serve-demo")
pytest.importorskip("xllamacpp", reason="needs the extra serve-demo")

from bitroute.engines.llama_server import CONTEXT, SLOTS, llama_server
from bitroute.gateway.demo.demo import example, opening_of, start_demo
from bitroute.quantization.gguf import export_gguf

ROOT = Path(__file__).parents[3]
MODEL = find_model("alfworld-agent")
FIXTURES = ROOT / "tests" / "fixtures" / "gateway"
OPENING = opening_of(AlfworldSuite())
START: list[ChatCompletionMessageParam] = [{"role": "user", "content": OPENING}]
DEADLINE = 60.0


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayConfig]:
    with start_demo(Source("flags", {}), MODEL, tmp_path_factory.mktemp("demo")) as (config, _):
        yield config


@pytest.fixture(scope="module")
def clients(demo: GatewayConfig) -> Iterator[dict[str, OpenAI]]:
    made = {v.name: OpenAI(base_url=f"{v.urls[0]}/v1", api_key="none", max_retries=0) for v in demo.variants}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture(scope="module")
def tiny_gguf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_gguf(tiny_model, "gguf-f16", tmp_path_factory.mktemp("gguf"))


def shape(value: object) -> object:
    """A JSON value with every scalar replaced by its type; of a list, what its last entry looks like."""
    if isinstance(value, dict):
        return {name: shape(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [shape(value[-1])] if value else []
    return "number" if isinstance(value, int | float) else type(value).__name__


def idle(url: str) -> None:
    """Return when no slot of the server is busy."""
    deadline = time.monotonic() + DEADLINE
    while any(slot["is_processing"] for slot in httpx.get(f"{url}/slots").json()):
        assert time.monotonic() < deadline


# What the servers answer.


def test_the_opening_is_what_the_agent_reads_at_the_start_of_a_task() -> None:
    opening = AlfworldEnvironment().reset(task("validation", 0))
    assert AlfworldAgent(Tokenizer.load(MODEL)).message([opening]) == OPENING
    assert OPENING.startswith("You are in the middle of a room. Looking quickly around you, you see a bed 1, a desk 1,")
    assert OPENING.endswith("Your task is to: put a creditcard in desk.\nGoal: desk put creditcard")


def test_both_precisions_answer_with_an_action(demo: GatewayConfig, clients: dict[str, OpenAI]) -> None:
    world = AlfworldEnvironment()
    admissible = world.reset(task("validation", 0)).admissible
    assert demo.ladder == ("low", "high")
    for variant in demo.variants:
        assert httpx.get(f"{variant.urls[0]}/health").json() == {"status": "ok"}
        assert [slot["n_ctx"] for slot in httpx.get(f"{variant.urls[0]}/slots").json()] == [CONTEXT] * SLOTS
        client = clients[variant.name]
        (listed,) = client.models.list().data
        answer = client.chat.completions.create(model=variant.name, temperature=0, messages=START)
        assert listed.id == answer.model == variant.name
        assert answer.choices[0].message.content in admissible
        assert answer.choices[0].finish_reason == "stop"


def test_a_stream_spells_the_same_answer_and_ends_with_usage(clients: dict[str, OpenAI]) -> None:
    ask: Any = {"model": "low", "temperature": 0, "messages": START}
    whole = clients["low"].chat.completions.create(**ask)
    with clients["low"].chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not last.choices and last.usage is not None and whole.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 5


def test_the_next_step_finds_its_history_in_the_cache(clients: dict[str, OpenAI]) -> None:
    opening = START[0] | {"content": OPENING.replace("creditcard", "pen")}
    history: list[ChatCompletionMessageParam] = [opening]  # type: ignore[list-item]
    first = clients["high"].chat.completions.create(model="high", temperature=0, messages=history)
    history += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "On the dresser 1, you see nothing.\nGoal: desk put pen"},
    ]
    second = clients["high"].chat.completions.create(model="high", temperature=0, messages=history)
    assert first.usage is not None and second.usage is not None and second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert first.usage.prompt_tokens <= cached < second.usage.prompt_tokens


def test_log_probabilities_come_with_their_alternatives(clients: dict[str, OpenAI]) -> None:
    answer = clients["high"].chat.completions.create(model="high", temperature=0, messages=START, logprobs=True, top_logprobs=3)
    assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
    for token in answer.choices[0].logprobs.content:
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3
        assert token.logprob <= 0


def test_too_long_a_history_is_refused_in_openai_s_shape(clients: dict[str, OpenAI]) -> None:
    with pytest.raises(BadRequestError, match="exceed") as caught:
        clients["low"].chat.completions.create(model="low", messages=[{"role": "user", "content": " bed" * CONTEXT}])
    assert isinstance(caught.value.body, dict) and caught.value.body["type"] == "exceed_context_size_error"


def test_the_recorded_answers_still_look_like_the_server_s(demo: GatewayConfig) -> None:
    url = f"{demo.variants[1].urls[0]}/v1/chat/completions"
    ask: dict[str, Any] = {"model": "high", "temperature": 0, "messages": START}
    asked: dict[str, dict[str, Any]] = {
        "llama_chat.json": ask,
        "llama_logprobs.json": ask | {"logprobs": True, "top_logprobs": 2},
        "llama_error.json": ask | {"messages": [{"role": "user", "content": " bed" * CONTEXT}]},
    }
    for name, body in asked.items():
        assert shape(httpx.post(url, json=body).json()) == shape(json.loads((FIXTURES / name).read_bytes())), name
    stream = ask | {"logprobs": True, "top_logprobs": 2, "stream": True, "stream_options": {"include_usage": True}}
    new, old = (
        [shape(json.loads(line[6:])) if line.startswith("data: {") else line for line in text.splitlines()]
        for text in (httpx.post(url, json=stream).text, (FIXTURES / "llama_stream.txt").read_text())
    )
    assert new == old and new[-2] == "data: [DONE]"


def test_episodes_are_won_by_answers_limited_to_the_admissible_commands(demo: GatewayConfig) -> None:
    async def play() -> None:
        async with AsyncOpenAI(base_url=f"{demo.variants[1].urls[0]}/v1", api_key="none") as api:
            played = await SuiteClient(api, AlfworldSuite(), "high", constrained=True).play_all(
                split("validation", 4), parallel=4
            )
        assert [episode.failure for episode in played] == [None] * 4
        assert sum(episode.success for episode in played) >= 3
        for episode in played:
            world = AlfworldEnvironment()
            observation = world.reset(episode.task)
            for answer in episode.answers:
                assert answer.action in observation.admissible
                observation = world.step(answer.action).observation

    asyncio.run(play())


def test_both_servers_live_through_many_requests_at_once_and_clients_that_go_away(demo: GatewayConfig) -> None:
    urls = [variant.urls[0] for variant in demo.variants]
    body = {"messages": START, "temperature": 0, "max_tokens": 8}

    async def storm() -> None:
        async with httpx.AsyncClient(timeout=DEADLINE, limits=httpx.Limits(max_connections=None)) as client:

            async def one(number: int) -> str:
                answer = await client.post(f"{urls[number % 2]}/v1/chat/completions", json=body)
                assert answer.status_code == 200
                return str(answer.json()["choices"][0]["message"]["content"])

            async def leave(number: int) -> None:
                endless = body | {"stream": True, "max_tokens": CONTEXT, "ignore_eos": True}
                async with client.stream("POST", f"{urls[number % 2]}/v1/chat/completions", json=endless) as answer:
                    await anext(answer.aiter_bytes())

            done = await asyncio.gather(*(one(i) for i in range(32)), *(leave(i) for i in range(8)))
            assert set(done[:32]) == {"go to dresser 1"}

    asyncio.run(storm())
    for url in urls:
        idle(url)


# Starting and stopping.


def test_a_second_start_uses_the_files_of_the_first(tiny_model: Path, tmp_path: Path) -> None:
    def stamps() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    with start_demo(Source("flags", {}), tiny_model, tmp_path):
        first = stamps()
    with start_demo(Source("flags", {}), tiny_model, tmp_path):
        assert stamps() == first
    assert len(first) == 2
    other = write_checkpoint(tmp_path / "other" / tiny_model.name, seed=1)
    with pytest.raises(DataError, match="made from another model"), start_demo(Source("flags", {}), other, tmp_path):
        pass


def test_flags_win_and_wrong_ones_are_named(tiny_model: Path, tmp_path: Path) -> None:
    with start_demo(Source("flags", {"routing": {"budget": 0.1}, "server": {"port": 0}}), tiny_model, tmp_path) as (config, _):
        assert (config.routing.router, config.routing.budget, config.server.port) == ("heuristic", 0.1, 0)
        assert config.records.url == f"sqlite:///{tmp_path}/records.db"
    with (
        pytest.raises(ConfigError, match=r"routing\.budget"),
        start_demo(Source("flags", {"routing": {"budget": 2}}), tiny_model, tmp_path),
    ):
        pass


def test_a_trained_router_beside_the_model_decides(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    (tmp_path / "alfworld-router-trained").mkdir()
    with start_demo(Source("flags", {}), model, tmp_path / "work") as (config, _):
        assert config.routing.router == str(tmp_path / "alfworld-router-trained")


def test_what_is_printed_can_be_copied(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with start_demo(Source("flags", {}), tiny_model, tmp_path) as (config, announce):
        announce("http://127.0.0.1:8080", "http://127.0.0.1:8081")
        url = config.variants[0].urls[0]
        printed = capsys.readouterr().out
        assert "http://127.0.0.1:8081" in printed and url in printed and example("http://127.0.0.1:8080", OPENING) in printed
        command = next(line for line in example(url, OPENING).splitlines() if line.startswith("curl"))
        body = json.loads(command.partition(" -d '")[2].removesuffix("'"))
        assert httpx.post(f"{url}/v1/chat/completions", json=body | {"max_tokens": 1}).status_code == 200
    snippet = example(url, OPENING).partition("\nfrom openai")[2].partition("\n\nWhole")[0]
    compile("from openai" + snippet, "snippet", "exec")
    assert "examples/" not in printed  # an installed package has none


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for content in (None, b"GGUF but not for long"):
        if content:
            path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.gguf: llama\.cpp cannot load it"), llama_server(path, "x"):
            pass


def test_leaving_cuts_off_requests_in_flight(tiny_gguf: Path) -> None:
    ended: list[str] = []
    begun = threading.Barrier(4)

    def read(url: str, stream: bool) -> None:
        body = {"messages": START, "max_tokens": CONTEXT, "ignore_eos": True, "stream": stream}
        try:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=DEADLINE) as answer:
                if stream:
                    text = answer.iter_text()
                    next(text)
                    begun.wait(DEADLINE)
                    ended.append("".join(text))
        except httpx.TransportError as error:
            ended.append(type(error).__name__)

    with llama_server(tiny_gguf, "x") as url:
        threads = [threading.Thread(target=read, args=(url, number < 3)) for number in range(6)]
        for thread in threads:
            thread.start()
        begun.wait(DEADLINE)
    for thread in threads:
        thread.join(DEADLINE)
    assert len(ended) == 6 and not any("[DONE]" in text for text in ended)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@pytest.mark.parametrize("how", ["pass", "raise KeyboardInterrupt", "sys.exit(7)"])
def test_the_process_ends_by_itself(tiny_gguf: Path, how: str) -> None:
    script = f"""
        import json, socket, sys
        from pathlib import Path
        from bitroute.engines.llama_server import llama_server

        path = Path(sys.argv[1])
        with llama_server(path, "low") as low, llama_server(path, "high") as high:
            body = json.dumps({{"prompt": "x", "n_predict": -1, "ignore_eos": True, "stream": True}}).encode()
            kept = []
            for url in (low, high):
                host, port = url.removeprefix("http://").split(":")
                kept.append(socket.create_connection((host, int(port))))
                head = f"POST /completion HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: {{len(body)}}\\r\\n\\r\\n"
                kept[-1].sendall(head.encode() + body)
                assert kept[-1].recv(12) == b"HTTP/1.1 200"
            {how}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tiny_gguf)], capture_output=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == {"pass": 0, "sys.exit(7)": 7}.get(how, -2)
    assert done.stdout == b""
    assert how == "raise KeyboardInterrupt" or done.stderr == b""


def test_who_connects_while_the_server_leaves_is_not_waited_for(tiny_gguf: Path) -> None:
    """The connection is accepted after the first look at the open files, and its answer is one without an end."""
    script = """
        import json, os, socket, sys
        from pathlib import Path
        from urllib.request import urlopen
        from bitroute.engines.llama_server import llama_server

        body = json.dumps({"prompt": "x", "n_predict": -1, "ignore_eos": True}).encode()
        head = f"POST /completion HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n"
        kept, look = [], os.listdir

        def late(path):
            names = look(path)
            if not kept:
                kept.append(socket.create_connection(address))
                kept[0].sendall(head.encode() + body)
                while not any(slot["is_processing"] for slot in json.load(urlopen(f"{url}/slots"))):
                    pass
            return names

        with llama_server(Path(sys.argv[1]), "x") as url:
            host, port = url.removeprefix("http://").split(":")
            address = host, int(port)
            os.listdir = late
        print(len(kept))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tiny_gguf)], capture_output=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1\n", b"")
