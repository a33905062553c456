from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.alfworld.splits import split
from bitroute.envs.alfworld.suite import AlfworldSuite
from bitroute.rollout.client import LONGEST, PlayedEpisode, SuiteClient, grammar

TASKS = split("validation", 3)
EXPERT = {task.id: demonstrate(task, seed=0, noise=0.0) for task in TASKS}
Handler = Callable[[httpx.Request], httpx.Response]


class Upstream:
    """An endpoint where the expert answers; `gateway` adds the gateway's headers. Keeps what it was asked."""

    def __init__(self, gateway: bool) -> None:
        self.gateway = gateway
        self.asked: list[dict[str, Any]] = []
        self.sessions: list[str] = []
        self.outcomes: dict[str, Any] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path.endswith("/outcome"):
            self.outcomes[request.url.path] = body
            return httpx.Response(200, json={})
        session = request.headers["x-session-id"]
        step = len(body["messages"]) // 2
        self.asked.append(body)
        self.sessions.append(session)
        episode = EXPERT[session.removeprefix("t-")]
        message = {"role": "assistant", "content": episode.actions[step]}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": ("low", "high")[step % 2],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }
        headers = {"x-bitroute-episode": f"e-{session}", "x-bitroute-reason": "test"} if self.gateway else {}
        return httpx.Response(200, json=answer, headers=headers)


def played(upstream: Handler, parallel: int = 2, **options: Any) -> list[PlayedEpisode]:
    async def run() -> list[PlayedEpisode]:
        transport = httpx.AsyncClient(transport=httpx.MockTransport(upstream))
        async with AsyncOpenAI(base_url="http://test/v1", api_key="none", max_retries=0, http_client=transport) as api:
            return await SuiteClient(api, AlfworldSuite(), **options).play_all(TASKS, parallel, "t")

    return asyncio.run(run())


def test_an_expert_behind_the_endpoint_wins_and_outcomes_are_reported() -> None:
    upstream = Upstream(gateway=True)
    episodes = played(upstream)
    assert [episode.task for episode in episodes] == TASKS
    for episode in episodes:
        expert = EXPERT[episode.task.id]
        assert episode.success and episode.failure is None and episode.session == f"t-{episode.task.id}"
        assert tuple(answer.action for answer in episode.answers) == expert.actions
        assert [answer.model for answer in episode.answers[:3]] == ["low", "high", "low"]
        assert episode.answers[0].headers == {"x-bitroute-episode": f"e-{episode.session}", "x-bitroute-reason": "test"}
        assert f"/v1/episodes/e-{episode.session}/outcome" in upstream.outcomes
    assert set(map(json.dumps, upstream.outcomes.values())) == {'{"success": true, "reward": 1.0}'}


def test_the_whole_history_is_sent_at_every_step() -> None:
    upstream = Upstream(gateway=True)
    (first, *_) = played(upstream, parallel=1)
    last = upstream.asked[len(first.answers) - 1]
    assert (last["model"], last["temperature"], last["max_tokens"]) == ("auto", 0, LONGEST)
    assert "grammar" not in last
    assert [message["role"] for message in last["messages"]] == ["user", "assistant"] * (len(first.answers) - 1) + ["user"]
    assert [message["content"] for message in last["messages"][::2]] == [answer.message for answer in first.answers]
    assert last["messages"][0]["content"].startswith("You are in the middle of a room.")
    assert all(message["content"].endswith("\nGoal: desk put creditcard") for message in last["messages"][::2])


def test_parallel_episodes_are_those_played_alone() -> None:
    assert played(Upstream(gateway=True), parallel=3) == played(Upstream(gateway=True), parallel=1)


def test_a_bare_server_is_told_no_outcome() -> None:
    upstream = Upstream(gateway=False)
    assert all(episode.success and not episode.answers[0].headers for episode in played(upstream, model="m"))
    assert not upstream.outcomes and upstream.asked[0]["model"] == "m"


def test_an_episode_ends_at_the_limit_and_is_lost() -> None:
    upstream = Upstream(gateway=True)
    for episode in played(upstream, max_steps=2):
        assert (len(episode.answers), episode.success, episode.failure) == (2, False, None)
    assert set(map(json.dumps, upstream.outcomes.values())) == {'{"success": false, "reward": 0.0}'}


def test_what_breaks_at_the_endpoint_ends_the_episode_and_is_named() -> None:
    upstream = Upstream(gateway=True)

    def breaks(request: httpx.Request) -> httpx.Response:
        if len(upstream.asked) == 4:
            return httpx.Response(503, json={"error": {"message": "overloaded"}})
        return upstream(request)

    episodes = played(breaks, parallel=1)
    assert [len(episode.answers) for episode in episodes] == [4, 0, 0]
    assert all(str(episode.failure).startswith("InternalServerError") for episode in episodes)
    assert not upstream.outcomes


def test_constrained_answers_are_limited_to_the_admissible_commands() -> None:
    upstream = Upstream(gateway=True)
    played(upstream, parallel=1, constrained=True)
    admissible = EXPERT[TASKS[0].id].observations[0].admissible
    assert upstream.asked[0]["grammar"] == grammar(admissible)
    assert '"go to dresser 1" | ' in grammar(admissible)


@pytest.mark.parametrize(("command", "written"), [("go", '"go"'), ('say "hi"', '"say \\"hi\\""'), ("a\\b", '"a\\\\b"')])
def test_texts_are_quoted_in_a_grammar(command: str, written: str) -> None:
    assert grammar([command, "x"]) == f'root ::= {written} | "x"'
