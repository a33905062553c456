"""Recorded episodes as what `estimate` computes with: steps on a ladder, and what another router would have chosen there.

It knows records and routers, nothing of weights and intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy import Engine

from bitroute.episode import Decision, View
from bitroute.errors import CapabilityError, ConfigError, DataError
from bitroute.gateway.records.estimate import LoggedEpisode, LoggedStep
from bitroute.gateway.records.reading import Filter, Recorded, read_records, whole_episode
from bitroute.gateway.records.step import StepRecord
from bitroute.gateway.routing.loading import load_router
from bitroute.routers.calibrated import threshold_for
from bitroute.routers.router import Reads, Router
from bitroute.routers.views import views_of

# Reasons of a decision that was not the router's, or that something overruled (routing.policy).
OVERRULED: Final = frozenset({"late", "router-error", "saturated", "switch", "forced", "bypass", "floor"})


@dataclass(slots=True)
class Evidence:
    """Episodes with a known outcome; `targets[i][t]` is the target's probability of what was served at step t of episode i.

    `unknown` names the arms of episodes without an outcome. `partial` counts those that say nothing of a policy and are left
    out: not recorded from their first step (branches, histories that the client brought along), or no step was a router's to
    decide.
    """

    ladder: tuple[str, ...] = ()
    episodes: list[LoggedEpisode] = field(default_factory=list)
    targets: list[list[float]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    partial: int = 0


def gather(engine: Engine, wanted: Filter, target: str | None = None, budget: float | None = None) -> Evidence:
    """Read the wanted episodes, and ask the router `target` (a rule or a path) at `budget` about each of their steps.

    Raises DataError when there are none or their ladders differ, and whatever making or asking the target raises.
    """
    found = Evidence()
    router: Router | None = None
    for recorded in read_records(engine, wanted):
        episode = recorded.episode
        if not found.ladder:
            found.ladder = recorded.ladder
            if len(found.ladder) < 2:
                raise DataError("records: the ladder has one variant alone; there is nothing to compare")
            router = _router(target, found.ladder, budget) if target is not None else None
        if recorded.ladder != found.ladder:
            raise DataError("records: the wanted episodes are of several ladders; choose some of them by --since or --policy")
        decided = [t for t, step in enumerate(recorded.steps) if step.decision is not None]
        if episode.first > 0 or all(recorded.steps[t].reason in OVERRULED for t in decided):
            found.partial += 1
        elif episode.success is None:
            found.unknown.append(episode.arm)
        else:
            found.episodes.append(_logged(recorded, decided, episode.success))
            if router is not None:
                chosen = _decisions(engine, recorded, router)
                served = [recorded.steps[t].decision or "" for t in decided]
                found.targets.append([_probability(chosen[t], s, found.ladder) for t, s in zip(decided, served, strict=True)])
    if not found.episodes:
        raise DataError("records: no wanted episode was routed from its first step and has an outcome; report success for some")
    return found


def _logged(recorded: Recorded, decided: Iterable[int], success: bool) -> LoggedEpisode:
    episode, top = recorded.episode, len(recorded.ladder) - 1
    height = {name: rung / top for rung, name in enumerate(recorded.ladder)}
    steps = []
    for step in (recorded.steps[t] for t in decided):
        if step.decision not in height or step.intended not in height or step.propensity is None:
            raise DataError(f"records: episode {episode.id} has variants that are not of its ladder {episode.ladder}")
        steps.append(
            LoggedStep(
                step.step,
                height[step.decision],
                height[step.intended],
                step.propensity,
                bool(step.flipped),
                step.reason not in OVERRULED,
            )
        )
    cost = sum(step.cost for step in recorded.steps)
    return LoggedEpisode(episode.policy or "none", episode.arm, success, cost, tuple(steps), top + 1)


def _router(spec: str, ladder: Sequence[str], budget: float | None) -> Router:
    """The target at its budget. Raises ConfigError when there is no telling which threshold spends that."""
    loaded = load_router(spec, ladder)
    router = loaded.at(0.5 if budget is None else budget)
    if budget is not None and router.thresholds is not None:
        if not loaded.calibration:
            raise ConfigError(f"--budget {budget:g}: {spec} has no calibration that says which threshold spends it")
        return router.with_options(threshold=threshold_for(loaded.calibration, budget))
    return router


def _decisions(engine: Engine, recorded: Recorded, router: Router) -> list[Decision]:
    """What the router says to each step of an episode as it was recorded: it is shown what it reads."""
    if recorded.has_text:
        shown = views_of(whole_episode(engine, recorded))
    elif router.reads is Reads.TEXT:
        raise CapabilityError(f"router {router.name} reads text, and that of episode {recorded.episode.id} was not stored")
    else:
        shown = [_without_text(recorded, step, router.reads) for step in recorded.steps]
    state = router.begin(recorded.episode.seed)
    return [router.decide([view], [state])[0] for view in shown]


def _without_text(recorded: Recorded, step: StepRecord, reads: Reads) -> View:
    """A recorded step with empty texts, and its features where the router reads them."""
    blank = View(("",) * (step.step + 1), ("",) * step.step)
    if reads is Reads.NOTHING:
        return blank
    if step.features is None:
        raise CapabilityError(f"the features of episode {recorded.episode.id} were not stored, which the target reads")
    return replace(blank, features=tuple(step.features))


def _probability(decision: Decision, served: str, ladder: Sequence[str]) -> float:
    """The target's probability of the served variant; it names that of its own choice."""
    if decision.variant == served:
        return decision.propensity
    if decision.propensity >= 1.0:
        return 0.0
    if len(ladder) > 2:
        raise CapabilityError("a target that draws among more than two variants does not tell the probability of each")
    return 1.0 - decision.propensity
