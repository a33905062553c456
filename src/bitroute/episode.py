"""The values that everything passes around: tasks, observations, decisions, steps, episodes, and what a router sees.

This module knows no environment, no model and no router. All values are frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do. Environments subclass it to carry what they need to reset; `id` is unique within a benchmark.

    `kind` groups tasks in tables (what has to be done, how it was made); `split` says who may look at it.
    """

    id: str
    kind: str
    split: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What the agent reads before a step, and the commands that the environment would accept, in its own order."""

    text: str
    admissible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """The outcome of one action. `reward` is this step's part of the episode's score; `done` ends the episode; `success` says
    that this action solved the task.
    """

    observation: Observation
    reward: float
    done: bool
    success: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message, as it travels over the wire."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one variant processed: newly prefilled, found in its cache, and decoded one at a time."""

    variant: str
    prefill: int = 0
    cached: int = 0
    decode: int = 0


@dataclass(frozen=True, slots=True)
class Signals:
    """What generating an action revealed for free. One entry per choice; natural logarithms.

    A choice is a generated token where more than one was allowed (every token without a constraint; forced tokens reveal
    nothing). `logprobs` are of the unconstrained distribution, `constrained` of the one renormalised over the allowed tokens
    (equal when nothing constrains). `entropy` (nats) and `margin` (top-1 minus top-2 probability) describe the distribution
    that was decoded from, i.e. after the constraint.
    """

    logprobs: tuple[float, ...]
    constrained: tuple[float, ...]
    entropy: tuple[float, ...]
    margin: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """KL(high || low) over the action that the high variant takes here, teacher-forced; nats.

    `kl_sum`, `kl_mean` and `kl_max` are over the action's choices, after the constraint; `raw_sum` is over all its tokens
    before the constraint. `action` is high's action, `agrees` says whether low's own action is the same, `low` what generating
    that one revealed (a probe would have seen it).
    """

    kl_sum: float
    kl_mean: float
    kl_max: float
    raw_sum: float
    action: str
    agrees: bool
    low: Signals | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The precision of one step. `propensity` is the probability with which the policy picked `variant` here.

    `score` is the router's estimate that the step needs high precision (a logit, a probability or a measurement: larger
    means more), None for rules that have none; `reason` is a short word for logs and reports.
    """

    variant: str
    score: float | None = None
    reason: str = ""
    propensity: float = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One played step. `message` is the user message that the agent sent, `action` what the environment received.

    `signals` is None where the server gave no log-probabilities. `probe_usage` is what the router's own measurements cost;
    `usage` is the generation itself. `sensitivity` is the label of
    the step, where one was taken (it costs nothing here: labels are not part of playing), `probe` what the router measured.
    """

    message: str
    action: str
    decision: Decision
    signals: Signals | None
    usage: Usage
    probe_usage: tuple[Usage, ...] = ()
    reward: float = 0.0
    sensitivity: Sensitivity | None = None
    probe: Signals | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """A played task. `failure` names the boundary that broke (environment, engine, router, agent), else None.

    `success` is yes or no, `score` is graded: what the environment gave for all steps together.
    """

    task_id: str
    kind: str
    split: str
    policy: str
    seed: int
    steps: tuple[Step, ...]
    success: bool
    failure: str | None = None

    @property
    def score(self) -> float:
        """The sum of the steps' rewards; 1 or 0 where an environment rewards nothing but success."""
        return sum(step.reward for step in self.steps)


@dataclass(frozen=True, slots=True)
class View:
    """All that a router may read before step t: messages, its own past, and the probes it declared.

    `messages` has t + 1 entries (what the agent was told), `actions`, `variants` and `signals` have t (what it did, at
    which precision, and what that revealed; None where the server gave no log-probabilities). `probe` is the measurement
    that the router declared (the low variant's signals on the coming step), `sensitivity` the oracle's; None otherwise.
    `verification` says, for each choice of low's draft of the coming action, by how many nats high prefers its own choice.
    `features` are those of the coming step (routers.features), where whoever shows the view has them; None: read the texts.
    `budget_left` is the part, 0..1, that is left of what a hard budget allows this episode; None where nothing limits it.
    """

    messages: tuple[str, ...]
    actions: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    signals: tuple[Signals | None, ...] = ()
    probe: Signals | None = None
    sensitivity: Sensitivity | None = None
    verification: tuple[float, ...] | None = None
    features: tuple[float, ...] | None = None
    budget_left: float | None = None

    @classmethod
    def from_messages(
        cls,
        messages: Sequence[Message],
        variants: Sequence[str] = (),
        signals: Sequence[Signals | None] = (),
    ) -> Self:
        """Build the view from a chat history that ends with the newest user message.

        Consecutive messages of the agent's side (system, user) are joined with a newline: an environment's opening and a
        chat's system + user pair give the same view. Raises ValueError when the history does not end with a user message.
        """
        told: list[str] = []
        actions: list[str] = []
        open_turn = False
        for message in messages:
            if message.role == "assistant":
                if not open_turn:
                    raise ValueError("an assistant message must follow a user message")
                actions.append(message.content)
                open_turn = False
            elif open_turn:
                told[-1] += "\n" + message.content
            else:
                told.append(message.content)
                open_turn = True
        if not open_turn:
            raise ValueError("the history must end with a user message")
        filled = tuple(signals) or (None,) * len(actions)
        return cls(tuple(told), tuple(actions), tuple(variants), filled)


def first_word(action: str) -> str:
    """The first word of an action, "(empty)" where there is none: what groups the actions of most text games."""
    return action.split(maxsplit=1)[0] if action.strip() else "(empty)"
