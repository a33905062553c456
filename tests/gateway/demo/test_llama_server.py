"""The gateway before the demo's real llama-servers, through official clients; whole episodes, whose decisions are replayed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import sqlalchemy as sa

from bitroute.cli.main import main
from bitroute.envs.alfworld.splits import split
from bitroute.envs.alfworld.suite import AlfworldSuite
from bitroute.envs.models import find_model
from bitroute.episode import View
from bitroute.gateway.core.config import GatewayConfig, Source
from bitroute.gateway.records.tables import episodes, open_database, steps
from bitroute.rollout.client import PlayedEpisode, SuiteClient
from bitroute.routers.calibrated import load_calibration, threshold_for
from bitroute.routers.encoder.router import EncoderRouter, load_encoder
from bitroute.routers.views import views_of
from bitroute.store.traces import read_traces
from support.clients import failures
from support.gateway import Running, threaded

pytest.importorskip("gguf", reason="needs the extra serve-demo")
pytest.importorskip("xllamacpp", reason="needs the extra serve-demo")

from bitroute.gateway.demo.demo import opening_of, start_demo

pytestmark = pytest.mark.slow  # real servers answer

ROOT = Path(__file__).parents[3]
TRAINED = find_model("alfworld-router-trained")
OPENING = opening_of(AlfworldSuite())
START: list[Any] = [{"role": "user", "content": OPENING}]
ASK: dict[str, Any] = {"model": "auto", "temperature": 0, "messages": START}
ACTION = "go to dresser 1"
BUDGET = 0.2
PATIENCE = 60.0  # seconds


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not failures(caplog)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayConfig]:
    """The two servers, and a gateway's configuration with the trained router."""
    flags = {"routing": {"budget": BUDGET}, "records": {"store_content": True, "flush": 0.05}}
    with start_demo(Source("flags", flags), find_model("alfworld-agent"), tmp_path_factory.mktemp("demo")) as (config, _):
        assert config.routing.router == str(TRAINED)
        yield config


@pytest.fixture(scope="module")
def gateway(demo: GatewayConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    records = demo.records.model_copy(update={"url": f"sqlite:///{tmp_path_factory.mktemp('records') / 'records.db'}"})
    with threaded(demo.model_copy(update={"records": records})) as running:
        yield running


@pytest.fixture(scope="module")
def client(gateway: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as made:
        yield made


# Conformance.


def test_chat_is_routed_and_answered(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content == ACTION
    assert answer.model == raw.headers["x-bitroute-variant"] and answer.model in ("low", "high")
    assert raw.headers["x-bitroute-reason"] == "encoder" and float(raw.headers["x-bitroute-score"]) < 1
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (72, 5)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("model", ["low", "high"])
def test_a_stream_spells_the_same_answer(client: openai.OpenAI, model: str, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    with client.chat.completions.create(**{**ASK, "model": model}, stream=True, **options) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ACTION
    assert {chunk.model for chunk in chunks} == {model}
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [usage]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def test_many_at_once_through_the_asynchronous_client(gateway: Running) -> None:
    async def ask_all() -> None:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as api:

            async def whole() -> str:
                return (await api.chat.completions.create(**ASK)).choices[0].message.content or ""

            async def streamed() -> str:
                stream = await api.chat.completions.create(**ASK, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            assert set(await asyncio.gather(*(ask() for _ in range(6) for ask in (whole, streamed)))) == {ACTION}

    asyncio.run(ask_all())


def test_tools_and_their_results_are_taken(client: openai.OpenAI) -> None:
    """The reference model's template knows no tools: it reads them over, and answers with an action."""
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    first = client.chat.completions.with_raw_response.create(**ASK, tools=tools, extra_headers={"x-session-id": "tools"})
    assert first.parse().choices[0].message.content == ACTION
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    history = [*START, {"role": "assistant", "content": None, "tool_calls": [call]}]
    history.append({"role": "tool", "tool_call_id": "c", "content": OPENING})
    second = client.chat.completions.create(**{**ASK, "messages": history}, tools=tools)
    assert second.choices[0].message.content == ACTION


def test_answers_are_limited_by_schema_and_grammar(client: openai.OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["bed 1", "desk 1"]}}}
    structured = client.chat.completions.create(**ASK, response_format=schema)
    assert json.loads(structured.choices[0].message.content or "") in ("bed 1", "desk 1")
    limited = client.chat.completions.create(**ASK, extra_body={"grammar": 'root ::= "go to " ("bed 1" | "desk 1")'})
    assert limited.choices[0].message.content in ("go to bed 1", "go to desk 1")


def test_log_probabilities_come_and_are_recorded_as_signals(client: openai.OpenAI, gateway: Running) -> None:
    raw = client.chat.completions.with_raw_response.create(
        **ASK, logprobs=True, top_logprobs=3, extra_headers={"x-session-id": "logprobs"}
    )
    content = raw.parse().choices[0].logprobs
    assert content is not None and content.content is not None
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in content.content)
    row = recorded(gateway.config.records.url, raw.headers["x-bitroute-episode"])
    assert json.loads(row["signals"])["logprobs"] == pytest.approx([token.logprob for token in content.content])
    assert row["prefill"] + row["cached"] == 72 and row["decode"] == 5


def test_errors_of_the_server_are_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="exceed"):
        client.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": " bed" * 2048}]})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**{**ASK, "temperature": "hot"})
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**ASK, "model": "auto-7"})
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{**ASK, "messages": []})


def test_other_dialects_are_relayed(client: openai.OpenAI, gateway: Running) -> None:
    prompt = f"<|user|>{OPENING}<|assistant|>"
    assert client.completions.create(model="low", prompt=prompt, temperature=0).choices[0].text == ACTION
    response = client.responses.create(model="auto", input=OPENING, temperature=0)
    assert response.output_text == ACTION and response.model in ("low", "high")
    with client.responses.create(model="high", input=OPENING, temperature=0, stream=True) as stream:
        kinds = {event.type: event for event in stream}
    last = kinds["response.completed"]
    assert last.type == "response.completed" and (last.response.model, last.response.output_text) == ("high", ACTION)
    cold = {"temperature": 0}
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0, timeout=PATIENCE) as other:
        message = other.messages.create(model="low", max_tokens=20, messages=START, extra_body=cold)
        assert [block.text for block in message.content if block.type == "text"] == [ACTION] and message.model == "low"
        with other.messages.stream(model="high", max_tokens=20, messages=START, extra_body=cold) as events:
            assert events.get_final_text() == ACTION


def test_a_client_that_stops_reading_frees_the_servers_slot(
    client: openai.OpenAI, gateway: Running, demo: GatewayConfig
) -> None:
    endless = {"ignore_eos": True, "max_tokens": 100_000}
    with client.chat.completions.create(**{**ASK, "model": "low"}, stream=True, extra_body=endless) as stream:
        episode = stream.response.headers["x-bitroute-episode"]
        for _, chunk in zip(range(9), stream, strict=False):
            assert chunk.choices[0].finish_reason is None
        assert busy(demo)
    assert recorded(gateway.config.records.url, episode)["ended"] == "cancelled"
    deadline = time.monotonic() + PATIENCE
    while busy(demo):
        assert time.monotonic() < deadline


def busy(demo: GatewayConfig) -> bool:
    return any(slot["is_processing"] for slot in httpx.get(f"{demo.variants[0].urls[0]}/slots").json())


def recorded(url: str, episode: str) -> dict[str, Any]:
    """The row of an episode's only step, as soon as it is written."""
    engine = open_database(url)
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            with engine.connect() as connection:
                row = connection.execute(sa.select(steps).where(steps.c.episode == episode)).mappings().one_or_none()
            if row is not None:
                return dict(row)
    finally:
        engine.dispose()
    raise AssertionError("the step was never written")


# Episodes.


@dataclass(frozen=True)
class Season:
    """Episodes that were played through a gateway which has stopped, and where its records are."""

    played: Sequence[PlayedEpisode]
    url: str


@pytest.fixture(scope="module")
def season(demo: GatewayConfig, tmp_path_factory: pytest.TempPathFactory) -> Season:
    url = f"sqlite:///{tmp_path_factory.mktemp('season') / 'records.db'}"
    config = demo.model_copy(update={"records": demo.records.model_copy(update={"url": url})})

    async def play(at: str) -> list[PlayedEpisode]:
        async with openai.AsyncOpenAI(base_url=f"{at}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as api:
            return await SuiteClient(api, AlfworldSuite()).play_all(split("validation", 6), parallel=3)

    with threaded(config) as running:
        return Season(asyncio.run(play(running.url)), url)


@pytest.fixture(scope="module")
def offline() -> EncoderRouter:
    """The trained router outside of any gateway, at its calibrated threshold, with the gateway's names for its rungs."""
    meta = json.loads((TRAINED / "router.json").read_text())
    load_encoder(TRAINED, model=meta["model"], variants=meta["variants"])  # it is who it says it is
    router = load_encoder(TRAINED, variants=("low", "high"))
    return router.with_options(threshold=threshold_for(load_calibration(TRAINED), BUDGET))


def views(episode: PlayedEpisode) -> list[View]:
    """What a router reads of an episode, from what the client saw of it."""
    told = tuple(answer.message for answer in episode.answers)
    did = tuple(answer.action for answer in episode.answers)
    served = tuple(answer.model for answer in episode.answers)
    return [View(told[: t + 1], did[:t], served[:t], (None,) * t) for t in range(len(told))]


def test_episodes_are_played_through_the_gateway(season: Season) -> None:
    assert [episode.failure for episode in season.played] == [None] * 6
    assert sum(episode.success for episode in season.played) >= 4
    for episode in season.played:
        headers = [answer.headers for answer in episode.answers]
        assert len({told["x-bitroute-episode"] for told in headers}) == 1
        assert [int(told["x-bitroute-step"]) for told in headers] == list(range(len(headers)))
        assert all(told["x-bitroute-variant"] == a.model for told, a in zip(headers, episode.answers, strict=True))
    assert {answer.model for episode in season.played for answer in episode.answers} == {"low", "high"}


def test_the_offline_router_decides_the_same_on_what_the_client_saw(season: Season, offline: EncoderRouter) -> None:
    for episode in season.played:
        for step, (view, answer) in enumerate(zip(views(episode), episode.answers, strict=True)):
            (decision,) = offline.decide([view], [offline.begin(0)])
            assert decision.score == pytest.approx(float(answer.headers["x-bitroute-score"]), abs=1e-3)
            assert decision.variant == answer.model, (episode.session, step)


def test_the_exported_traces_are_the_episodes_and_their_decisions_the_offline_routers(
    season: Season, offline: EncoderRouter, tmp_path: Path
) -> None:
    assert main(["export", "--records", season.url, "--out", str(tmp_path / "traces.jsonl"), "--closed"]) == 0
    traces = {trace.task_id: trace for trace in read_traces(tmp_path / "traces.jsonl")}
    assert len(traces) == len(season.played)
    rows = decided(season.url)
    for episode in season.played:
        trace = traces[episode.answers[0].headers["x-bitroute-episode"]]
        assert trace.success == episode.success and trace.policy.startswith("encoder@")
        assert [(step.message, step.action) for step in trace.steps] == [(a.message, a.action) for a in episode.answers]
        assert [step.usage.decode > 0 for step in trace.steps] == [True] * len(trace.steps)
        assert views_of(trace) == views(episode)
        for number, view in enumerate(views_of(trace)):
            (again,) = offline.decide([view], [offline.begin(trace.seed)])
            row, stored = rows[trace.task_id, number], trace.steps[number].decision
            assert (stored.variant, row["decision"], row["intended"]) == (again.variant,) * 3
            assert again.score == pytest.approx(row["score"], abs=1e-3)
            assert stored.score == pytest.approx(row["score"], abs=1e-3)
            assert (row["threshold"], row["budget"]) == (pytest.approx(offline.thresholds[0]), BUDGET)


def decided(url: str) -> dict[tuple[str, int], Any]:
    """The recorded steps of the episodes by their place."""
    engine = open_database(url)
    try:
        with engine.connect() as connection:
            assert all(connection.execute(sa.select(episodes.c.success.is_not(None))).scalars())
            return {(row["episode"], row["step"]): row for row in connection.execute(sa.select(steps)).mappings()}
    finally:
        engine.dispose()


def test_the_example_plays_episodes_of_each_model(gateway: Running) -> None:
    example = [sys.executable, str(ROOT / "examples" / "gateway_episodes.py"), "--url", gateway.url, "--tasks", "2"]
    done = subprocess.run([*example, "--models", "auto,low"], capture_output=True, text=True, check=False, timeout=4 * PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "auto: success" in done.stdout and "low: success" in done.stdout and "broke" not in done.stdout
