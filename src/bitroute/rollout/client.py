"""Plays a suite as a client of any OpenAI endpoint: a gateway, or one model's server. It knows the wire and the suite's texts,
and no model, no engine and no router: what is decided behind the endpoint it reads from the answers.

An episode is one chat: the messages are the suite's, an action is the text of an answer (temperature 0).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletionMessageParam

from bitroute.envs.suite import Suite
from bitroute.episode import Task

LONGEST: Final = 32  # tokens of an action; the longest command has fewer
EPISODE: Final = "x-bitroute-episode"  # the gateway's header that names the episode; others send none


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """One step as the client saw it: what it told, the action, the answer's `model` and its `x-bitroute-` headers."""

    message: str
    action: str
    model: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PlayedEpisode:
    """An episode. `session` is the id that the client chose; `failure` is what broke, else None."""

    task: Task
    session: str
    answers: tuple[StepAnswer, ...]
    success: bool
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class SuiteClient:
    """How episodes are played. `model` is what is asked for: `auto`, a variant, or whatever the server calls its model.

    With `constrained` every answer is limited to the admissible commands by llama.cpp's `grammar` field, an extra of that
    server; otherwise the model writes freely, and the environment answers nonsense as it does. `api` decides about keys,
    timeouts and retries.
    """

    api: AsyncOpenAI
    suite: Suite
    model: str = "auto"
    max_steps: int = 30
    constrained: bool = False

    async def play(self, task: Task, session: str) -> PlayedEpisode:
        """Play one episode in the session of that id, and report its outcome where the endpoint names episodes.

        What goes wrong at the endpoint ends the episode and is told in `failure`; nothing is raised.
        """
        environment = self.suite.environment()
        observations = [environment.reset(task)]
        history: list[ChatCompletionMessageParam] = []
        answers: list[StepAnswer] = []
        success, done = False, False
        try:
            while not done and len(answers) < self.max_steps:
                message = self.suite.message(observations)
                history.append({"role": "user", "content": message})
                answer = await self._ask(message, history, session, observations[-1].admissible)
                answers.append(answer)
                history.append({"role": "assistant", "content": answer.action})
                transition = environment.step(answer.action)
                observations.append(transition.observation)
                done = transition.done
                success = success or transition.success
            await self._report(answers, success)
        except OpenAIError as error:
            return PlayedEpisode(task, session, tuple(answers), success, f"{type(error).__name__}: {error}")
        return PlayedEpisode(task, session, tuple(answers), success)

    async def play_all(self, tasks: Sequence[Task], parallel: int = 4, run: str = "run") -> list[PlayedEpisode]:
        """Play an episode of each task, `parallel` at a time, in the order of `tasks`; session ids begin with `run`.

        The client is deterministic: equal answers give equal episodes, however many are played side by side.
        """
        turns = asyncio.Semaphore(parallel)

        async def one(task: Task) -> PlayedEpisode:
            async with turns:
                return await self.play(task, f"{run}-{task.id}")

        return list(await asyncio.gather(*(one(task) for task in tasks)))

    async def _ask(
        self, message: str, history: Sequence[ChatCompletionMessageParam], session: str, admissible: Sequence[str]
    ) -> StepAnswer:
        extra: dict[str, Any] = {"grammar": grammar(admissible)} if self.constrained else {}
        raw = await self.api.chat.completions.with_raw_response.create(
            model=self.model,
            messages=history,
            temperature=0,
            max_tokens=LONGEST,
            extra_headers={"x-session-id": session},
            extra_body=extra,
        )
        completion = raw.parse()
        headers = {name: value for name, value in raw.headers.items() if name.startswith("x-bitroute-")}
        return StepAnswer(message, completion.choices[0].message.content or "", completion.model, headers)

    async def _report(self, answers: Sequence[StepAnswer], success: bool) -> None:
        if episode := answers[-1].headers.get(EPISODE):
            body = {"success": success, "reward": float(success)}
            await self.api.post(f"/episodes/{episode}/outcome", body=body, cast_to=object)


def grammar(commands: Sequence[str]) -> str:
    """The GBNF grammar of exactly these texts (llama.cpp, grammars/README.md)."""
    escaped = (command.replace("\\", "\\\\").replace('"', '\\"') for command in commands)
    return "root ::= " + " | ".join(f'"{text}"' for text in escaped)
