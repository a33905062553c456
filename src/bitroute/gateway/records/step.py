"""The record of a step, and of its episode: every fact that is kept, once. Columns, rows, the page and exports come from here.

To record a further fact: a field with its type, default and meaning, its value in `of`, and a migration in `tables`. It knows
the values of a request that has ended, and no database.
"""

from __future__ import annotations

import math
from itertools import islice, takewhile
from typing import Annotated, Final, Self

from bitroute.episode import Signals
from bitroute.gateway.core.values import Attempt, Call, Caller, Outcome, RoutingDecision, StepContext
from bitroute.gateway.records.facts import Fact, Record

NEWEST: Final = 64  # digests of the messages since the last answer ...
NAMED: Final = 1000  # ... and characters of the tools' names that are kept: a row is not as long as a client likes

History = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # messages, actions, variants


class StepRecord(Record, frozen=True, kw_only=True):
    """One request for a step, which may have several: each try is one. Times are Unix seconds, durations seconds."""

    id: Annotated[int, Fact("Number of the row.", page="steps", key=True, large=True, made=True)] = 0
    scope: Annotated[str, Fact("Id of the API key, empty without keys.", page="steps")]
    episode: Annotated[str, Fact("The episode's id.", page="steps")]
    step: Annotated[int, Fact("Number of the step in the episode, from 0; tries of one step share it.", page="steps")]
    at: Annotated[float, Fact("When the request arrived.", page="steps")]
    endpoint: Annotated[str, Fact("Path of the endpoint.")]
    model: Annotated[str, Fact("The model as the client asked for.", page="steps")]
    stream: Annotated[bool, Fact("Whether a stream was asked for.")]
    tool: Annotated[str | None, Fact("Tools whose results it answers, or that it is forced to call.", page="steps")] = None
    retry: Annotated[bool, Fact("Whether it took over the decision of an earlier try.", page="steps")]
    variant: Annotated[str | None, Fact("The variant that answered.", page="steps")] = None
    decision: Annotated[str | None, Fact("The variant that was to answer.", page="steps")] = None
    intended: Annotated[str | None, Fact("The variant that the router chose.", page="steps")] = None
    flipped: Annotated[bool | None, Fact("Whether explore mode flipped the step.", page="steps")] = None
    score: Annotated[float | None, Fact("The router's score.", page="steps")] = None
    threshold: Annotated[float | None, Fact("What the score was compared with.", page="steps")] = None
    reason: Annotated[str | None, Fact("Why that variant was to answer.", page="steps")] = None
    propensity: Annotated[float | None, Fact("Probability of the variant that was to answer.", page="steps")] = None
    policy: Annotated[str | None, Fact("Who decided: `name@version`, or `reason:variant`.", page="steps")] = None
    arm: Annotated[str | None, Fact("Arm of a split; `main` otherwise.", page="steps")] = None
    budget: Annotated[float | None, Fact("The budget K in force; none where no router was asked.", page="steps")] = None
    source: Annotated[str, Fact("Where the session's id stood.")]
    prefill: Annotated[int | None, Fact("Prompt tokens that the upstream computed.", page="steps", large=True)] = None
    cached: Annotated[int | None, Fact("Prompt tokens that it found in its cache.", page="steps", large=True)] = None
    decode: Annotated[int | None, Fact("Tokens that it generated.", page="steps", large=True)] = None
    cost: Annotated[float, Fact("Cost of these tokens, by the cost model.", page="steps")]
    router: Annotated[float | None, Fact("The router's own time.", page="steps")] = None
    overhead: Annotated[float, Fact("The gateway's time before the request went upstream.", page="steps")]
    first_token: Annotated[float | None, Fact("From arrival to the answer's first byte.", page="steps")] = None
    total: Annotated[float, Fact("From arrival to the answer's end.", page="steps")]
    status: Annotated[int, Fact("HTTP status that the client was sent.", page="steps")]
    ended: Annotated[str, Fact("`complete`, `error`, `cancelled` or `dropped`.", page="steps")]
    digest: Annotated[bytes, Fact("Digest of the request's body.")]
    chain: Annotated[bytes, Fact("Digest of its whole history.")]
    turns: Annotated[int, Fact("Number of messages in the history.")]
    newest: Annotated[str, Fact("Digests of the messages since the last answer, with commas between.")]
    answer: Annotated[bytes | None, Fact("Digest of the answer as a history repeats it; none without an answer.")] = None
    features: Annotated[tuple[float, ...] | None, Fact("What signals routers read.")] = None
    signals: Annotated[Signals | None, Fact("Sums of log-probabilities, where the client asked for them.")] = None
    message: Annotated[str | None, Fact("With stored content: what the agent was told.", page="episode")] = None
    action: Annotated[str | None, Fact("With stored content: what it answered.", page="episode")] = None
    attempts: Annotated[tuple[Attempt, ...], Fact("Each try at a replica.", page="episode")]
    floor: Annotated[str | None, Fact("The lowest variant that could answer, where a floor held.", page="episode")] = None

    @classmethod
    def of(
        cls,
        caller: Caller,
        call: Call,
        context: StepContext,
        routing: RoutingDecision | None,
        outcome: Outcome,
        *,
        at: float,
        cost: float,
        content: bool,
    ) -> Self:
        """The record of a request that has ended; `content` says whether texts are kept."""
        decision = routing.decision if routing else None
        tokens, answer = outcome.tokens, outcome.answer
        unanswered = takewhile(lambda turn: turn.role != "assistant", reversed(call.turns))
        newest = [turn.digest.hex() for turn in islice(unanswered, NEWEST)]
        return cls(
            scope=caller.scope,
            episode=context.episode,
            step=context.step,
            at=at,
            endpoint=call.endpoint,
            model=call.model,
            stream=call.stream,
            tool=", ".join(call.tools)[:NAMED] or None,
            retry=context.retried is not None,
            variant=outcome.variant,
            decision=decision.variant if decision else None,
            intended=routing.intended if routing else None,
            flipped=routing.flipped if routing else None,
            score=_finite(decision.score) if decision else None,
            threshold=_finite(routing.threshold) if routing else None,
            reason=decision.reason if decision else None,
            propensity=decision.propensity if decision else None,
            policy=routing.policy if routing else None,
            arm=routing.arm if routing else None,
            budget=routing.budget if routing else None,
            source=context.source,
            prefill=tokens.prefill if tokens else None,
            cached=tokens.cached if tokens else None,
            decode=tokens.decode if tokens else None,
            cost=cost,
            router=routing.seconds if routing else None,
            overhead=outcome.overhead,
            first_token=outcome.first_token,
            total=outcome.total,
            status=outcome.status,
            ended=outcome.ended,
            digest=call.digest,
            chain=context.chain,
            turns=context.turns,
            newest=",".join(reversed(newest)),
            answer=answer.digest if answer else None,
            features=routing.features if routing else None,
            signals=outcome.signals,
            message=context.view.messages[-1] if content else None,
            action=answer.text if answer and content else None,
            attempts=tuple(outcome.attempts),
            floor=routing.floor if routing else None,
        )

    @property
    def characters(self) -> int:
        """Length of its stored content."""
        return len(self.message or "") + len(self.action or "")


class EpisodeRecord(Record, frozen=True, kw_only=True):
    """One episode. Its outcome comes later than the rest."""

    scope: Annotated[str, Fact("Id of the API key, empty without keys.", key=True)]
    id: Annotated[str, Fact("The episode's id.", key=True)]
    session: Annotated[str, Fact("The session's id.")]
    explicit: Annotated[bool, Fact("Whether a client named the session.")]
    source: Annotated[str, Fact("Where the session's id stood.")]
    parent: Annotated[str | None, Fact("The episode that this one branched from.")] = None
    parent_step: Annotated[int | None, Fact("Number of steps that both share.")] = None
    first: Annotated[int, Fact("Number of its first recorded step.")]
    history: Annotated[History | None, Fact("With stored content: the steps before that, as the client told them.")] = None
    policy: Annotated[str | None, Fact("Who decided its first step: `name@version`, or `reason:variant`.")] = None
    arm: Annotated[str, Fact("Arm of a split; `main` otherwise.")]
    ladder: Annotated[str, Fact("The variants, cheapest first, with commas between.")]
    seed: Annotated[int, Fact("Seed of all that is drawn in it.", large=True)]
    started: Annotated[float, Fact("When its first request arrived.")]
    ended: Annotated[float | None, Fact("When its outcome was reported.")] = None
    success: Annotated[bool | None, Fact("The outcome, where it was reported.")] = None
    reward: Annotated[float | None, Fact("The outcome's reward, where it was reported.")] = None
    kind: Annotated[str | None, Fact("Kind of the task, where it is known.")] = None

    @classmethod
    def of(
        cls,
        caller: Caller,
        context: StepContext,
        routing: RoutingDecision | None,
        *,
        ladder: str,
        started: float,
        content: bool,
    ) -> Self:
        """The record of an episode that begins with this step; `content` says whether texts are kept."""
        parent, shared = context.parent or (None, None)
        view = context.view
        # Fewer than `step` where x-step began above 0.
        before = (view.messages[:-1], view.actions, view.variants) if content and context.step > 0 else None
        return cls(
            scope=caller.scope,
            id=context.episode,
            session=context.session,
            explicit=caller.explicit,
            source=context.source,
            parent=parent,
            parent_step=shared,
            first=context.step,
            history=before,
            policy=routing.policy if routing else None,
            arm=routing.arm if routing else "main",
            ladder=ladder,
            seed=context.seed,
            started=started,
        )

    @property
    def characters(self) -> int:
        """Length of its stored content."""
        return sum(len(text) for texts in self.history[:2] for text in texts) if self.history is not None else 0


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
