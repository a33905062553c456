"""Plays episodes: environment, agent, engine and router put together, many at a time. Here, and only here, the four meet.

A router's probes are measured before it decides and charged to the step. Labels are not part of playing: with or without them
the same actions are played and the same tokens charged. What breaks inside one episode (its environment, its prompt, a context
that outgrew the model) ends that episode with the boundary's name in `Episode.failure`; the others play on. Bad input (a
`BitrouteError`: a truncated game file, an unknown variant) ends the run instead.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, cast

from bitroute.agents.agent import Agent
from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Engine, Generation, Sampling
from bitroute.engines.sensitivity import measure
from bitroute.envs.environment import Branchable, Environment
from bitroute.episode import Decision, Episode, Observation, Sensitivity, Step, Task, Usage, View
from bitroute.errors import BitrouteError, CapabilityError, ConfigError
from bitroute.rollout.verification import Verification, verify
from bitroute.routers.router import Probe, Router

FORCED: Final = "forced"  # reason of a decision that was not the router's


@dataclass(frozen=True, slots=True)
class Forced:
    """At `step` of an episode it is `variant`, whatever the router says there."""

    step: int
    variant: str


@dataclass(slots=True, eq=False)
class Running:
    """An episode being played. `forced` overrides one of the router's decisions (counterfactual branches)."""

    task: Task
    seed: int
    environment: Environment[Any]
    observations: list[Observation]
    context: Any
    memory: Any  # the router's state
    view: View
    steps: list[Step] = field(default_factory=list)
    done: bool = False
    success: bool = False
    failure: str | None = None
    forced: Forced | None = None
    read: dict[str, int] = field(default_factory=dict)  # tokens that each variant's cache owes to playing, not to labels

    def fail(self, boundary: str, problem: object) -> None:
        """End the episode; `boundary` is what broke."""
        text = f"{type(problem).__name__}: {problem}" if isinstance(problem, Exception) else str(problem)
        self.failure, self.done = f"{boundary}: {text}", True


@dataclass(slots=True)
class Probed:
    """What the lowest variant would do, the contexts on which it was tried, and what the highest says of it if asked."""

    contexts: list[Any]
    generations: list[Generation]
    verifications: list[Verification] | None = None


@dataclass(frozen=True, slots=True)
class Player:
    """How to play: everything but the tasks. `label` measures the sensitivity of every step (it costs, but is not charged).

    `constrained` limits actions to the admissible commands, where the environment lists them; otherwise the model writes
    freely, and the environment answers. Raises CapabilityError when the router is made for other variants than the engine
    hosts, needs a sensitivity that a single variant cannot have, or verifies drafts where that cannot be done, ConfigError when
    `max_steps` is not positive.
    """

    environment: Callable[[], Environment[Any]]
    agent: Agent
    engine: Engine[Any]
    router: Router
    max_steps: int = 50
    sampling: Sampling = field(default_factory=Sampling)
    constrained: bool = True
    label: bool = False

    def __post_init__(self) -> None:
        ladder = self.engine.ladder
        if tuple(self.router.variants) != tuple(ladder):
            raise CapabilityError(
                f"router {self.router.name} is for {', '.join(self.router.variants)}; the engine hosts {', '.join(ladder)}"
            )
        if (self.label or Probe.SENSITIVITY in self.router.probes) and len(ladder) < 2:
            raise CapabilityError("sensitivity needs an engine with at least two variants")
        if Probe.VERIFICATION in self.router.probes and (
            self.engine.cache_mode is not CacheMode.OWN or self.sampling.temperature > 0
        ):
            raise CapabilityError("draft and verify compares greedy choices, and needs a cache per variant (cache mode 'own')")
        if self.max_steps < 1:
            raise ConfigError(f"max_steps {self.max_steps}: an episode has at least one step")

    def start(self, task: Task, seed: int, forced: Forced | None = None) -> Running:
        """Reset an environment to `task`; nothing is generated yet. A task that cannot be started is returned as failed."""
        environment = self.environment()
        running = Running(
            task,
            seed,
            environment,
            [],
            self.engine.open(draw_seed(task, seed)),
            self.router.begin(draw_seed(task, seed)),
            View(messages=()),
            forced=forced,
        )
        try:
            running.observations.append(environment.reset(task))
        except BitrouteError:
            raise
        except Exception as error:  # a broken environment is data about one episode, not the end of the run
            running.fail("environment", error)
        else:
            self._tell(running)
        return running

    def branch(self, running: Running, forced: str | None) -> Running:
        """An independent copy that plays on from here; `forced` is the variant of its next step (None leaves it to the
        router). Raises CapabilityError when the environment cannot be copied.

        The router's state starts afresh: a router recomputes what it remembers from the view, and its draws depend on the
        episode's seed and the step alone, so that a branch that nothing is forced on plays what the original plays.
        """
        if not isinstance(running.environment, Branchable):
            raise CapabilityError(f"{type(running.environment).__name__} cannot be copied in mid-episode: no branches")
        return replace(
            running,
            environment=cast("Environment[Any]", running.environment.copy()),
            context=self.engine.fork(running.context),
            memory=self.router.begin(draw_seed(running.task, running.seed)),
            observations=list(running.observations),
            steps=list(running.steps),
            forced=None if forced is None else Forced(len(running.steps), forced),
            read=dict(running.read),
        )

    def advance(self, runnings: Sequence[Running]) -> None:
        """Play one step of every running episode, in one batch."""
        tries = self._tries(runnings)
        labels: list[Sensitivity | None] = [None] * len(runnings)
        if self.label or Probe.SENSITIVITY in self.router.probes:
            labels = list(self.sensitivities(runnings))
        probed = self._probe(runnings, tries) if self.router.probes & {Probe.LOW_GENERATION, Probe.VERIFICATION} else None
        views = [self._view(running, probed, labels[i], i) for i, running in enumerate(runnings)]
        decisions = self.router.decide(views, [r.memory for r in runnings])
        for index, running in enumerate(runnings):
            if running.forced is not None and running.forced.step == len(running.steps):
                decisions[index] = Decision(running.forced.variant, decisions[index].score, FORCED)
        spent = self._settle(runnings, [d.variant for d in decisions], probed)
        generations = self._generate(runnings, [d.variant for d in decisions], tries, probed)
        for index, running in enumerate(runnings):
            self._act(running, decisions[index], generations[index], spent[index], views[index])

    def sensitivities(self, runnings: Sequence[Running]) -> list[Sensitivity]:
        """The label of each running episode's coming step. Nothing is charged, and what will be played stays the same."""
        return measure(self.engine, [r.context for r in runnings], self._tries(runnings), self.agent.parse)

    def finish(self, running: Running, policy: str) -> Episode:
        """The episode as a value; the context is given back."""
        self.engine.close(running.context)
        task = running.task
        return Episode(
            task.id, task.kind, task.split, policy, running.seed, tuple(running.steps), running.success, running.failure
        )

    def _tries(self, runnings: Sequence[Running]) -> list[Trie | None]:
        """What each next action is limited to."""
        admissible = [r.observations[-1].admissible if self.constrained else () for r in runnings]
        return [self.agent.constraint(commands) if commands else None for commands in admissible]

    @staticmethod
    def _view(running: Running, probed: Probed | None, label: Sensitivity | None, index: int) -> View:
        """What the router reads, measurements included."""
        if probed is None:
            return replace(running.view, sensitivity=label)
        gaps = probed.verifications[index].gaps if probed.verifications else None
        return replace(running.view, probe=probed.generations[index].signals, sensitivity=label, verification=gaps)

    def _probe(self, runnings: Sequence[Running], tries: Sequence[Trie | None]) -> Probed:
        """Let the lowest variant generate: in place where it has its own cache, else on forks (`_settle` cleans up)."""
        engine, low = self.engine, self.engine.ladder[0]
        own = engine.cache_mode is CacheMode.OWN
        contexts = [r.context if own else engine.fork(r.context) for r in runnings]
        generations = engine.generate(contexts, [low] * len(contexts), tries, self.sampling)
        charged = [self._charge(r, g) for r, g in zip(runnings, generations, strict=True)]
        checked = self._verify(runnings, tries, charged) if Probe.VERIFICATION in self.router.probes else None
        return Probed(contexts, charged, checked)

    def _verify(
        self, runnings: Sequence[Running], tries: Sequence[Trie | None], drafts: Sequence[Generation]
    ) -> list[Verification]:
        """Let the highest variant read the drafts at the ends of the contexts, which stay as they are."""
        engine, high = self.engine, self.engine.ladder[-1]
        usages = []
        for running, draft in zip(runnings, drafts, strict=True):
            length = engine.length(running.context)
            engine.rollback(running.context, length - len(draft.tokens))
            cached = min(running.read.get(high, 0), length - len(draft.tokens) - 1)
            running.read[high] = length - 1  # what comes last is read with what follows
            usages.append(Usage(high, prefill=length - 1 - cached, cached=cached))
        rows = engine.score([r.context for r in runnings], [draft.tokens for draft in drafts], high)
        for running, draft in zip(runnings, drafts, strict=True):
            engine.extend(running.context, draft.tokens)
        return [
            verify(row, draft.tokens, trie, usage) for row, draft, trie, usage in zip(rows, drafts, tries, usages, strict=True)
        ]

    def _settle(self, runnings: Sequence[Running], variants: Sequence[str], probed: Probed | None) -> list[tuple[Usage, ...]]:
        """Keep the probe's context where low was chosen, undo the probe elsewhere; what each undone probe cost."""
        if probed is None:
            return [()] * len(runnings)
        spent: list[tuple[Usage, ...]] = []
        for index, (running, variant, context, generation) in enumerate(
            zip(runnings, variants, probed.contexts, probed.generations, strict=True)
        ):
            checked = (probed.verifications[index].usage,) if probed.verifications else ()
            kept = variant == self.engine.ladder[0]
            if context is running.context:
                if not kept:
                    length = self.engine.length(context) - len(generation.tokens)
                    self.engine.rollback(context, length)
                    running.read[generation.usage.variant] = min(running.read[generation.usage.variant], length)
            elif kept:
                self.engine.close(running.context)
                running.context = context
            else:
                self.engine.close(context)
            spent.append(checked if kept else (generation.usage, *checked))
        return spent

    def _generate(
        self, runnings: Sequence[Running], variants: Sequence[str], tries: Sequence[Trie | None], probed: Probed | None
    ) -> list[Generation]:
        """Each action by its variant. What the probe already generated is not generated again."""
        known = {i: probed.generations[i] for i, v in enumerate(variants) if v == self.engine.ladder[0]} if probed else {}
        rest = [i for i in range(len(runnings)) if i not in known]
        fresh = self.engine.generate(
            [runnings[i].context for i in rest], [variants[i] for i in rest], [tries[i] for i in rest], self.sampling
        )
        for i, generation in zip(rest, fresh, strict=True):
            checked = probed.verifications[i] if probed and probed.verifications else None
            known[i] = self._resume(runnings[i], generation, checked) if checked else self._charge(runnings[i], generation)
        return [known[i] for i in range(len(runnings))]

    def _resume(self, running: Running, generation: Generation, checked: Verification) -> Generation:
        """High's own action with the usage that it has where its pass over the draft is not repeated.

        The tokens before its first other choice are in its cache, that choice was read off the pass: it decodes what follows.
        """
        usage = generation.usage
        prompt = usage.prefill + usage.cached
        running.read[usage.variant] = prompt + max(usage.decode, checked.agreed)
        return replace(
            generation,
            usage=Usage(usage.variant, cached=prompt + checked.agreed, decode=max(0, usage.decode - checked.agreed)),
        )

    def _charge(self, running: Running, generation: Generation) -> Generation:
        """The generation with the usage that playing alone would have had.

        A label leaves tokens in a variant's own cache that playing has not paid for yet: they count as prefilled here. What was
        read to verify a draft was paid for, and counts as cached, whether the engine kept it or not.
        """
        usage = generation.usage
        if self.engine.cache_mode is not CacheMode.OWN:
            return generation
        prompt = usage.cached + usage.prefill
        cached = min(prompt - 1, running.read.get(usage.variant, 0))
        running.read[usage.variant] = prompt + usage.decode
        return replace(generation, usage=replace(usage, cached=cached, prefill=prompt - cached))

    def _act(
        self,
        running: Running,
        decision: Decision,
        generation: Generation,
        spent: tuple[Usage, ...],
        seen: View,
    ) -> None:
        """Play the generated action in the environment and note the step; `seen` is what the router read."""
        action = self.agent.parse(generation.tokens)
        reward = 0.0
        try:
            transition = running.environment.step(action)
        except BitrouteError:
            raise
        except Exception as error:  # as in `start`
            running.fail("environment", error)
        else:
            reward, running.done = transition.reward, transition.done
            running.observations.append(transition.observation)
            running.success = running.success or transition.success
        running.steps.append(
            Step(
                seen.messages[-1],
                action,
                decision,
                generation.signals,
                generation.usage,
                spent,
                reward,
                seen.sensitivity,
                seen.probe,
            )
        )
        running.done = running.done or len(running.steps) >= self.max_steps
        if not running.done:
            view = running.view
            running.view = replace(
                view,
                actions=(*view.actions, action),
                variants=(*view.variants, decision.variant),
                signals=(*view.signals, generation.signals),
            )
            self._tell(running)

    def _tell(self, running: Running) -> None:
        """Give the newest observation to the agent's context and to the view."""
        try:
            message = self.agent.message(running.observations)
            prompt = self.agent.prompt(message, first=not running.steps)
        except BitrouteError:
            raise
        except Exception as error:  # an observation that the agent cannot read is data too
            running.fail("agent", error)
            return
        self.engine.extend(running.context, prompt)
        running.view = replace(running.view, messages=(*running.view.messages, message))
        room = self.engine.max_length - self.sampling.max_tokens
        if self.engine.length(running.context) > room:
            running.fail("engine", f"the episode outgrew the model's {self.engine.max_length} positions")


def draw_seed(task: Task, seed: int) -> int:
    """The seed of one episode's draws, router and engine: two tasks of one run must not share their random numbers."""
    return zlib.crc32(f"{task.id}|{seed}".encode())


Start = tuple[Task, int] | tuple[Task, int, Forced | None]  # a task, a seed, and the decision that is forced, if any


def play(player: Player, jobs: Iterable[Start], policy: str, batch: int = 64) -> Iterator[Episode]:
    """Play (task, seed) pairs, `batch` at a time; episodes come in the order in which they end.

    Deterministic with a fresh engine: the same jobs, in the same order and batch size, give the same episodes. Contexts are
    given back, also when the caller stops early. Raises ConfigError when `batch` is not positive.
    """
    return (episode for _, episode in play_numbered(player, jobs, policy, batch))


def play_numbered(player: Player, jobs: Iterable[Start], policy: str, batch: int = 64) -> Iterator[tuple[int, Episode]]:
    """As `play`; each episode with the number of its job, from 0. Raises ConfigError when `batch` is not positive."""
    if batch < 1:
        raise ConfigError(f"batch {batch}: at least one episode is played at a time")
    queue = enumerate(jobs)
    running: list[tuple[int, Running]] = []
    try:
        while True:
            running += [(number, player.start(*job)) for number, job in islice(queue, batch - len(running))]
            if not running:
                return
            ready = [r for _, r in running if not r.done]
            if ready:
                player.advance(ready)
            ended, running = [(n, r) for n, r in running if r.done], [(n, r) for n, r in running if not r.done]
            episodes = [(number, player.finish(r, policy)) for number, r in ended]
            del ready, ended  # with them goes what the router remembers: its memory stays bounded by the batch
            yield from episodes
    finally:
        for _, left in running:
            player.engine.close(left.context)
