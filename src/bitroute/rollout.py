"""Plays episodes: environment, agent, engine and router put together, many at a time. Here, and only here, the four meet.

A router's probes are measured before it decides and charged to the step. Whatever breaks inside one episode (its environment, a
context that outgrew the model) ends that episode with the boundary's name in `Episode.failure`; the others play on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from bitroute.agents.agent import Agent
from bitroute.agents.constraint import Trie
from bitroute.engines.engine import Engine, Generation, Sampling
from bitroute.envs.environment import Environment
from bitroute.episode import Decision, Episode, Observation, Sensitivity, Signals, Step, Task, Usage, View
from bitroute.errors import CapabilityError
from bitroute.routers.router import Probe, Router
from bitroute.training.sensitivity import isolated, measure


@dataclass(slots=True, eq=False)
class Running:
    """An episode being played. `forced` overrides the router's next decision (counterfactual branches)."""

    task: Task
    seed: int
    environment: Environment[Any]
    opening: Observation
    observation: Observation
    context: Any
    memory: Any  # the router's state
    view: View
    steps: list[Step] = field(default_factory=list)
    done: bool = False
    success: bool = False
    failure: str | None = None
    forced: str | None = None


@dataclass(frozen=True, slots=True)
class Player:
    """How to play: everything but the tasks. `label` measures the sensitivity of every step (it costs, but is not charged).

    `constrained` limits actions to the admissible commands; otherwise the model writes freely, and the environment answers.
    """

    environment: Callable[[], Environment[Any]]
    agent: Agent
    engine: Engine
    router: Router
    max_steps: int = 50
    sampling: Sampling = field(default_factory=Sampling)
    constrained: bool = True
    label: bool = False

    def start(self, task: Task, seed: int) -> Running:
        """Reset an environment to `task`; nothing is generated yet."""
        environment = self.environment()
        opening = environment.reset(task)
        running = Running(
            task, seed, environment, opening, opening, self.engine.open(), self.router.begin(seed), View(messages=())
        )
        self._tell(running)
        return running

    def branch(self, running: Running, forced: str | None) -> Running:
        """An independent copy that plays on from here; `forced` is the variant of its next step.

        The router's state starts afresh: a router recomputes what it remembers from the view.
        """
        copy = replace(
            running,
            environment=running.environment.copy(),
            context=self.engine.fork(running.context),
            memory=self.router.begin(running.seed),
            steps=list(running.steps),
            forced=forced,
        )
        return copy

    def advance(self, runnings: list[Running]) -> None:
        """Play one step of every running episode, in one batch."""
        engine = self.engine
        contexts = [r.context for r in runnings]
        tries = [self.agent.constraint(r.observation.admissible) if self.constrained else None for r in runnings]
        labels: list[Sensitivity | None] = [None] * len(runnings)
        if self.label or Probe.SENSITIVITY in self.router.probes:
            labels = list(measure(engine, contexts, tries, self.agent.parse))
        probed = self._probe(contexts, tries) if Probe.LOW_GENERATION in self.router.probes else None
        views = [
            replace(r.view, probe=probed[i].signals if probed else None, sensitivity=labels[i]) for i, r in enumerate(runnings)
        ]
        decisions = self.router.decide(views, [r.memory for r in runnings])
        for index, running in enumerate(runnings):
            if running.forced is not None:
                decisions[index] = Decision(running.forced, decisions[index].score, "forced")
                running.forced = None
        generations = self._generate(contexts, [d.variant for d in decisions], tries, probed)
        for index, running in enumerate(runnings):
            wasted = probed is not None and decisions[index].variant != engine.ladder[0]
            spent = (probed[index].usage,) if probed and wasted else ()
            self._act(running, decisions[index], generations[index], spent, labels[index])

    def finish(self, running: Running, policy: str) -> Episode:
        """The episode as a value; the context is given back."""
        self.engine.close(running.context)
        task = running.task
        return Episode(
            task.id, task.kind, task.split, policy, running.seed, tuple(running.steps), running.success, running.failure
        )

    def _probe(self, contexts: list[Any], tries: list[Trie | None]) -> list[Generation]:
        """What the lowest variant would do."""
        with isolated(self.engine, contexts) as used:
            return self.engine.generate(used, [self.engine.ladder[0]] * len(used), tries, self.sampling)

    def _generate(
        self, contexts: list[Any], variants: list[str], tries: list[Trie | None], probed: list[Generation] | None
    ) -> list[Generation]:
        """Each action by its variant. What the probe already generated is not generated again."""
        results: list[Generation | None] = [None] * len(contexts)
        if probed:
            for index, variant in enumerate(variants):
                if variant == self.engine.ladder[0]:
                    results[index] = probed[index]
                    self.engine.extend(contexts[index], probed[index].tokens)
        rest = [i for i, result in enumerate(results) if result is None]
        fresh = self.engine.generate(
            [contexts[i] for i in rest], [variants[i] for i in rest], [tries[i] for i in rest], self.sampling
        )
        for index, generation in zip(rest, fresh, strict=True):
            results[index] = generation
        return [r for r in results if r is not None]

    def _act(
        self,
        running: Running,
        decision: Decision,
        generation: Generation,
        spent: tuple[Usage, ...],
        label: Sensitivity | None,
    ) -> None:
        """Play the generated action in the environment and note the step."""
        action = self.agent.parse(generation.tokens)
        reward = 0.0
        try:
            transition = running.environment.step(action)
        except Exception as error:  # a broken environment is data about one episode, not the end of the run
            running.failure, running.done = f"environment: {type(error).__name__}: {error}", True
        else:
            reward, running.observation, running.done = transition.reward, transition.observation, transition.done
            running.success = running.success or reward > 0
        running.steps.append(
            Step(running.view.messages[-1], action, decision, generation.signals, generation.usage, spent, reward, label)
        )
        running.done = running.done or len(running.steps) >= self.max_steps
        if not running.done:
            self._remember(running, action, decision.variant, generation.signals)
            self._tell(running)

    def _remember(self, running: Running, action: str, variant: str, signals: Signals) -> None:
        view = running.view
        running.view = replace(
            view,
            actions=(*view.actions, action),
            variants=(*view.variants, variant),
            signals=(*view.signals, signals),
        )

    def _tell(self, running: Running) -> None:
        """Give the newest observation to the agent's context and to the view."""
        message = self.agent.message(running.opening, running.observation)
        self.engine.extend(running.context, self.agent.prompt(message, first=not running.steps))
        running.view = replace(running.view, messages=(*running.view.messages, message))
        room = self.engine.max_length - self.sampling.max_tokens
        if len(running.context.tokens) > room:
            running.failure, running.done = f"engine: the episode outgrew the model's {self.engine.max_length} positions", True


def play(player: Player, jobs: Iterable[tuple[Task, int]], policy: str, batch: int = 64) -> Iterator[Episode]:
    """Play (task, seed) pairs, `batch` at a time; episodes come in the order in which they end.

    Deterministic: the same jobs, in the same order and batch size, give the same episodes.
    """
    if Probe.SENSITIVITY in player.router.probes and len(player.engine.ladder) < 2:
        raise CapabilityError("an oracle needs an engine with at least two variants")
    queue = iter(jobs)
    running: list[Running] = []
    while True:
        running += [player.start(task, seed) for task, seed in islice(queue, batch - len(running))]
        if not running:
            return
        ready = [r for r in running if not r.done]
        if ready:
            player.advance(ready)
        for ended in [r for r in running if r.done]:
            yield player.finish(ended, policy)
        running = [r for r in running if not r.done]
