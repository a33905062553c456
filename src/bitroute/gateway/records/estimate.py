"""What recorded traffic says of policies: the arms of a split, one-step flips, and a policy that never ran. Numbers alone here.

Every estimate is over episodes whose success was reported and comes with a 95 % interval from resampling whole episodes (their
steps depend on each other). Weights are inverse propensities, normalised by their sum (Hajek 1971; over an episode: Precup,
Sutton and Singh 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitroute.errors import CapabilityError
from bitroute.evaluation.statistics import (
    Estimate,
    Floats,
    bootstrap_mean,
    bootstrap_means,
    newcombe,
    percentile_interval,
    ratio_estimate,
    wilson,
)

LEAST: Final = 30  # flips, or effective episodes, below which an estimate says nothing
LEAST_OF_A_KIND: Final = 10  # effective episodes that were won, and that were lost
RESAMPLES: Final = 2000  # of an interval; more would change its third digit
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """Step `step` of an episode. `served` and `intended` are places on the ladder, 0 the lowest, 1 the highest.

    `propensity` is that of the served variant. `free` says that the router decided and nothing overruled it: other steps are
    never flipped, and another router would be overruled there as well.
    """

    step: int
    served: float
    intended: float
    propensity: float = 1.0
    flipped: bool = False
    free: bool = True


@dataclass(frozen=True, slots=True)
class LoggedEpisode:
    """An episode with a known outcome, what it cost, and all its steps on a ladder of `rungs` variants."""

    policy: str
    arm: str
    success: bool
    cost: float
    steps: tuple[LoggedStep, ...]
    rungs: int = 2

    @property
    def share(self) -> float:
        """Mean place of the served variants on the ladder: K's unit."""
        return float(np.mean([s.served for s in self.steps])) if self.steps else 0.0

    def hazard(self, step: LoggedStep) -> float:
        """The chance that `step` was to be flipped, given all before it, where the router does not draw."""
        return step.propensity * (self.rungs - 1) if step.flipped else 1.0 - step.propensity


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a split: success, cost and share an episode, and how many of its episodes are `unknown` (no outcome)."""

    name: str
    policies: tuple[str, ...]
    episodes: int
    unknown: int
    success: Estimate
    cost: Estimate
    share: Estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """`first` minus `second` of two arms: success (Newcombe's interval) and cost (bootstrap of independent samples)."""

    first: str
    second: str
    success: Estimate
    cost: Estimate


@dataclass(frozen=True, slots=True)
class Effect:
    """What flipping one step `up` (or `down`) the ladder does to success, averaged over the steps of unflipped play.

    `flips` is the number of flipped steps behind it; `effect` is None for fewer than `LEAST`.
    """

    direction: str
    flips: int
    effect: Estimate | None


@dataclass(frozen=True, slots=True)
class Value:
    """Off-policy estimates of a target: success and cost an episode, from `episodes` worth `effective` ones."""

    episodes: int
    effective: float
    success: Estimate
    cost: Estimate
    share: Estimate


def compare_arms(episodes: Sequence[LoggedEpisode], unknown: Sequence[str] = ()) -> tuple[list[Arm], list[Difference]]:
    """Every arm, "main" first, and each other one's difference from it. `unknown` names the arm of each episode left out."""
    names = sorted({e.arm for e in episodes}, key=lambda name: (name != "main", name))
    groups = {name: [e for e in episodes if e.arm == name] for name in names}
    arms = [
        Arm(
            name,
            tuple(sorted({e.policy for e in group})),
            len(group),
            sum(arm == name for arm in unknown),
            wilson(sum(e.success for e in group), len(group)),
            bootstrap_mean([e.cost for e in group], resamples=RESAMPLES),
            bootstrap_mean([e.share for e in group], resamples=RESAMPLES),
        )
        for name, group in groups.items()
    ]
    differences = []
    for other in arms[1:]:
        costs = [_means([(e.cost,) for e in groups[a.name]], seed)[:, 0] for seed, a in enumerate((other, arms[0]))]
        cost = Estimate(other.cost.value - arms[0].cost.value, *percentile_interval(costs[0] - costs[1]))
        differences.append(Difference(other.name, arms[0].name, newcombe(other.success, arms[0].success), cost))
    return arms, differences


def _means(rows: Sequence[Sequence[float]], seed: int = 0) -> Floats:
    """Means of columns over resampled episodes, [RESAMPLES, columns]."""
    return bootstrap_means(np.array(rows, dtype=np.float64), resamples=RESAMPLES, seed=seed)


def flip_effects(episodes: Sequence[LoggedEpisode]) -> list[Effect]:
    """Up and down the ladder: success with that one step flipped, minus success with no step flipped.

    The design is that of `routing.exploration`: each free step below the horizon is flipped with chance q, at most one in an
    episode. A flipped episode stands for one over the chance of its flip; an unflipped one, for each of the m steps that could
    have been flipped this way, for one over the chance of no flip. q is read from the first free step; an episode where that
    one shows no chance of a flip is left out (so of an unflipped episode's chance, steps before the first free one are part).
    Raises CapabilityError where the router itself draws: a flip is then no more than one of its draws.
    """
    designs = [(e, q) for e in episodes if (q := _chance(e)) > 0]
    horizon: dict[float, int] = {}  # by q: 1 + the last step that was seen to have a chance
    for e, q in designs:
        numbers = (s.step for s in e.steps if s.free and e.hazard(s) > _ROUNDING)
        horizon[round(q, 9)] = max(horizon.get(round(q, 9), 0), 1 + max(numbers))
    if any(q * length > 1 - 1e-6 for q, length in horizon.items()):
        raise CapabilityError("every long episode was flipped (explore = 1): there is none without a flip to compare with")
    found = []
    for direction, up in (("up", True), ("down", False)):
        rows = [_flip_row(e, q, horizon[round(q, 9)], up) for e, q in designs]
        columns = np.array(rows, dtype=np.float64).reshape(-1, 4)
        flips = int(np.count_nonzero(columns[:, 0]))
        effect = None
        if flips >= LEAST and columns[:, 2].any():
            samples = bootstrap_means(columns, resamples=RESAMPLES)
            point = columns.mean(axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):  # a resample without a flip has no mean: it is left out
                differences = samples[:, 1] / samples[:, 0] - samples[:, 3] / samples[:, 2]
            effect = Estimate(float(point[1] / point[0] - point[3] / point[2]), *percentile_interval(differences))
        found.append(Effect(direction, flips, effect))
    return found


def _chance(episode: LoggedEpisode) -> float:
    """q, the chance of each step to be the flipped one; 0 where nothing could be flipped."""
    chances = []
    for step in episode.steps:
        if step.free:
            hazard = episode.hazard(step)
            chances.append(hazard / (1 + hazard * step.step))
            if step.flipped:
                break
    if not chances or chances[0] < _ROUNDING:
        return 0.0
    if any(abs(q - chances[0]) > _ROUNDING and q > _ROUNDING for q in chances):
        raise CapabilityError(
            f"policy {episode.policy} draws at random: the effect of a flip cannot be told from its draws; ask for the value "
            "of a --target, or choose episodes by --policy"
        )
    return chances[0]


def _flip_row(episode: LoggedEpisode, q: float, horizon: int, up: bool) -> tuple[float, float, float, float]:
    """Weight and weight times success, first as an episode flipped this way, then as one without a flip."""
    flip = next((s for s in episode.steps if s.flipped), None)
    if flip is not None:
        room = 1 - flip.intended if up else flip.intended  # the share of the other rungs that lies this way
        weight = 1 / (q * room) if (flip.served > flip.intended) == up else 0.0
        return weight, weight * episode.success, 0.0, 0.0
    free = [s for s in episode.steps if s.free and s.step < horizon]
    this_way = sum(s.intended < 1.0 if up else s.intended > 0.0 for s in free)
    weight = this_way / (1 - q * (len(free) + free[0].step))
    return 0.0, 0.0, weight, weight * episode.success


def policy_value(episodes: Sequence[LoggedEpisode], targets: Sequence[Sequence[float]]) -> Value:
    """Value of a policy that takes the served variant of step t of episode i with probability `targets[i][t]`.

    Raises CapabilityError when it would do what the recorded policies never did, or when so few episodes agree with it that
    they are worth less than `LEAST`.
    """
    weights = []
    impossible = 0
    for episode, probabilities in zip(episodes, targets, strict=True):
        weight = 1.0
        for step, probability in zip(episode.steps, probabilities, strict=True):
            if not step.free:
                continue
            if step.propensity >= 1.0 and probability < 1.0:
                impossible += 1  # the rest of the target's probability is on a variant that could not have been served
                break
            weight *= probability / step.propensity
            if weight == 0.0:
                break
        weights.append(weight)
    if impossible:
        raise CapabilityError(
            f"no overlap: in {impossible} of {len(episodes)} episodes the target would do what was never tried there "
            "(propensity 0); record with mode explore, a split or a router that draws, or choose episodes by --policy"
        )
    w = np.array(weights, dtype=np.float64)
    effective = _effective(w)
    if effective < LEAST:
        raise CapabilityError(
            f"too little overlap: {len(episodes)} episodes are worth {effective:.1f} of the target's own, at least {LEAST} are "
            "needed; record more, or choose a target nearer to what was served"
        )
    values = np.array([(e.success, e.cost, e.share) for e in episodes], dtype=np.float64)
    for kind, of_kind in (("won", w[values[:, 0] > 0]), ("lost", w[values[:, 0] <= 0])):
        # Lost episodes are long, so their weights spread most: the whole can look well covered when they are not.
        worth = _effective(of_kind)
        if len(of_kind) > 2 * worth and worth < LEAST_OF_A_KIND:
            raise CapabilityError(
                f"too little overlap: {len(of_kind)} {kind} episodes are worth {worth:.1f} of the target's own, at least "
                f"{LEAST_OF_A_KIND} are needed; record more, or choose a target nearer to what was served"
            )
    columns = np.column_stack([w, w[:, None] * values])
    point, samples = columns.mean(axis=0), bootstrap_means(columns, resamples=RESAMPLES)
    means = [ratio_estimate(float(point[i]), float(point[0]), samples[:, i], samples[:, 0]) for i in (1, 2, 3)]
    success, cost, share = (m for m in means if m is not None)  # the weights do not sum to zero
    return Value(len(episodes), effective, success, cost, share)


def _effective(weights: Floats) -> float:
    """How many episodes of equal weight the weighted ones are worth (Kish)."""
    return float(weights.sum() ** 2 / np.square(weights).sum()) if weights.any() else 0.0


def summary_lines(episodes: Sequence[LoggedEpisode], unknown: Sequence[str]) -> list[str]:
    """Arms, their differences and the effect of flips as lines of text."""
    arms, differences = compare_arms(episodes, unknown)
    lines = []
    for arm in arms:
        lines.append(f"{arm.name} ({', '.join(arm.policies)}): {arm.episodes} episodes, {arm.unknown} more without an outcome")
        lines += _figures(arm.success, arm.cost, arm.share)
    for d in differences:
        lines.append(f"{d.first} minus {d.second}: success {_points(d.success)} points, cost {_number(d.cost)}")
    if any(s.flipped for e in episodes for s in e.steps):
        try:
            effects = flip_effects(episodes)
        except CapabilityError as error:
            return [*lines, str(error)]
        for effect in effects:
            found = f"{_points(effect.effect)} points of success" if effect.effect else f"too few: {LEAST} flips are needed"
            lines.append(f"one step flipped {effect.direction} ({effect.flips} flips): {found}")
    return lines


def value_lines(value: Value) -> list[str]:
    """A target's value as lines of text."""
    return _figures(value.success, value.cost, value.share)


def _figures(success: Estimate, cost: Estimate, share: Estimate) -> list[str]:
    return [
        f"  success {success.value:.1%} ({success.low:.1%} to {success.high:.1%})",
        f"  cost an episode {_number(cost)}",
        f"  share at high {_number(share)}",
    ]


def _points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} ({100 * e.low:+.1f} to {100 * e.high:+.1f})"


def _number(e: Estimate) -> str:
    return f"{e.value:.4g} ({e.low:.4g} to {e.high:.4g})"
