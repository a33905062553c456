"""One-step counterfactual branches: what one step at high precision is worth, measured instead of guessed.

At sampled steps of played episodes the same prefix goes on twice, with low and with high forced for this one step; then the
policy itself plays both to the end. Ground truth for the labels (does KL tell where precision decides?) and for credit. Knows
how to play; no environment, no model, no router by name.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bitroute.episode import Sensitivity, Task
from bitroute.errors import ConfigError
from bitroute.evaluation.ranking import auc
from bitroute.rollout.player import Player, Running


@dataclass(frozen=True, slots=True)
class Branch:
    """The state before `step` of an episode, and what came of it. `high` and `low` are successes, with this step forced.

    `sensitivity` is the label of the state, `score` the router's (None for rules without one), `failure` what broke in one of
    the two continuations, if anything did.
    """

    task_id: str
    kind: str
    seed: int
    step: int
    high: bool
    low: bool
    sensitivity: Sensitivity
    score: float | None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class BranchSummary:
    """What a set of branches says.

    `gain` is the mean of high's success minus low's, with its standard error over episodes; `helped` and `hurt` count the
    states where high won alone and low won alone. The AUCs say how well a number ranks the states whose outcome differs above
    the others (NaN where there are none of one sort, or a state without that number).
    """

    states: int
    failed: int
    helped: int
    hurt: int
    gain: float
    gain_error: float
    auc_divergence: float
    auc_score: float


@dataclass(slots=True)
class _Pair:
    """Two continuations of one state, being played."""

    origin: Running
    step: int
    sensitivity: Sensitivity
    high: Running
    low: Running

    @property
    def done(self) -> bool:
        return self.high.done and self.low.done

    def result(self) -> Branch:
        task, step = self.origin.task, self.high.steps[self.step]
        return Branch(
            task.id,
            task.kind,
            self.origin.seed,
            self.step,
            self.high.success,
            self.low.success,
            self.sensitivity,
            step.decision.score,
            self.high.failure or self.low.failure,
        )


def branches(player: Player, jobs: Iterable[tuple[Task, int]], rate: float, batch: int = 16) -> Iterator[Branch]:
    """Play (task, seed) pairs, `batch` at a time, and branch before each step with probability `rate`.

    Where to branch is drawn from task, seed and step alone, so the states are a pure function of the jobs, and playing more
    jobs later adds to them. Branches come in the order in which they end. Raises ConfigError for a rate outside 0..1 or a batch
    that is not positive.
    """
    if not 0.0 <= rate <= 1.0:
        raise ConfigError(f"rate {rate} is outside 0..1")
    if batch < 1:
        raise ConfigError(f"batch {batch}: at least one episode is played at a time")
    low, high = player.engine.ladder[0], player.engine.ladder[-1]
    queue = iter(jobs)
    origins: list[Running] = []
    pairs: list[_Pair] = []
    while True:
        origins += [player.start(task, seed) for task, seed in islice(queue, batch - len(origins))]
        chosen = [r for r in origins if not r.done and _chosen(r, rate)]
        for running, label in zip(chosen, player.sensitivities(chosen) if chosen else (), strict=True):
            pairs.append(_Pair(running, len(running.steps), label, player.branch(running, high), player.branch(running, low)))
        playing = [r for r in (*origins, *(r for p in pairs for r in (p.high, p.low))) if not r.done]
        if playing:
            player.advance(playing)
        for pair in [p for p in pairs if p.done]:
            yield pair.result()
            player.finish(pair.high, "")
            player.finish(pair.low, "")
        for running in [r for r in origins if r.done]:
            player.finish(running, "")
        origins, pairs = [r for r in origins if not r.done], [p for p in pairs if not p.done]
        if not playing and not origins and not pairs:
            return


def _chosen(running: Running, rate: float) -> bool:
    """Whether to branch before the coming step."""
    return random.Random(f"{running.task.id}|{running.seed}|{len(running.steps)}|branch").random() < rate


def summarise_branches(found: Sequence[Branch]) -> BranchSummary:
    """The gain of high and how well label and score tell where it is. Branches that broke are counted and left out."""
    whole = [b for b in found if b.failure is None]
    gains = np.array([float(b.high) - float(b.low) for b in whole])
    differs = gains != 0
    scores = [b.score for b in whole if b.score is not None]
    return BranchSummary(
        states=len(whole),
        failed=len(found) - len(whole),
        helped=int((gains > 0).sum()),
        hurt=int((gains < 0).sum()),
        gain=float(gains.mean()) if whole else float("nan"),
        gain_error=_clustered_error(gains, [(b.task_id, b.seed) for b in whole]),
        auc_divergence=auc([b.sensitivity.kl_sum for b in whole], differs),
        auc_score=auc(scores, differs) if len(scores) == len(whole) else float("nan"),
    )


def _clustered_error(gains: np.ndarray[tuple[int], np.dtype[np.float64]], episodes: Sequence[tuple[str, int]]) -> float:
    """Standard error of the mean gain; states of one episode are not independent, so their deviations are summed first.

    NaN for fewer than two episodes.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(episodes))}
    if len(names) < 2:
        return float("nan")
    sums = np.bincount([names[e] for e in episodes], weights=gains - gains.mean(), minlength=len(names))
    return float(np.sqrt(len(names) / (len(names) - 1) * (sums**2).sum()) / len(gains))
