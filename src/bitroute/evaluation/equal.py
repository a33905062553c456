"""Two methods at equal spending: a policy against the point of another method's curve that spends what the policy spends.

Three ways of counting what is spent stand side by side: K, the pooled share of steps, and cost. On a rival's curve stand its
own points, all-low and all-high; between two neighbours stands the policy that tosses a coin before each episode and plays one
or the other, whose mean spending and success lie on the line between them, whatever the two are. Points that cost more than
another of the curve without solving more are left out: nobody would play them. So a rival is never made weaker than it is, and
where its curve has no point that is cheap enough, its cheapest one is compared, which may spend more than the policy.

The coin is chosen anew in each resample, so that the uncertainty of what was spent is part of the interval; the p-value takes
the same into account through the derivative (the delta method).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitroute.evaluation.resampling import Resamples, Seeds, two_way_p
from bitroute.evaluation.results import EqualSpend, Measure
from bitroute.evaluation.statistics import Floats, holm
from bitroute.evaluation.tally import COST, HIGH, SHARE, STEPS, SUCCESS, WIDTH


@dataclass(frozen=True, slots=True)
class Coin:
    """The point of a curve that spends what policy `own` spends: `right` with a chance that follows from all three, or `left`.

    Policies are indices. With `left` and `right` the same there is no coin, and spending may differ.
    """

    measure: Measure
    own: int
    left: int
    right: int

    def excess(self, means: Floats, policy: int) -> Floats:
        """How much more a policy spends than `own`, from means [..., policies, columns]; linear along the coin."""
        if self.measure is Measure.POOLED:
            rate = means[..., self.own, HIGH] / means[..., self.own, STEPS]
            found: Floats = means[..., policy, HIGH] - rate * means[..., policy, STEPS]
            return found
        column = SHARE if self.measure is Measure.SHARE else COST
        found = means[..., policy, column] - means[..., self.own, column]
        return found

    def chance(self, means: Floats) -> Floats:
        """Of `right`, 0..1, so that both spend the same."""
        if self.left == self.right:
            return np.ones(means.shape[:-2])
        left, right = self.excess(means, self.left), self.excess(means, self.right)
        width = left - right
        part = np.divide(left, width, out=np.ones_like(left), where=width != 0)
        return np.clip(part, 0.0, 1.0)

    def curve(self, means: Floats) -> Floats:
        """The success of the coin."""
        chance = self.chance(means)
        found: Floats = (1 - chance) * means[..., self.left, SUCCESS] + chance * means[..., self.right, SUCCESS]
        return found

    def difference(self, means: Floats) -> Floats:
        """Success of `own` minus that of the coin."""
        found: Floats = means[..., self.own, SUCCESS] - self.curve(means)
        return found

    def weights(self, means: Floats) -> dict[int, Floats]:
        """What each column of each policy adds to the difference near `means` [policies, columns], to first order.

        Their sum over means is the difference itself.
        """
        weights = {policy: np.zeros(WIDTH) for policy in (self.own, self.left, self.right)}
        chance = float(self.chance(means))
        weights[self.own][SUCCESS] += 1
        weights[self.left][SUCCESS] -= 1 - chance
        weights[self.right][SUCCESS] -= chance
        width = float(self.excess(means, self.left) - self.excess(means, self.right)) if self.left != self.right else 0.0
        if width != 0 and 0 < chance < 1:
            slope = float(means[self.right, SUCCESS] - means[self.left, SUCCESS]) / width
            for policy, part in ((self.left, 1 - chance), (self.right, chance)):
                for other, weight in self._excess_weights(means, policy).items():
                    weights[other] -= slope * part * weight
        return weights

    def _excess_weights(self, means: Floats, policy: int) -> dict[int, Floats]:
        """As `weights`, of the excess."""
        own, other = np.zeros(WIDTH), np.zeros(WIDTH)
        if self.measure is Measure.POOLED:
            rate = means[self.own, HIGH] / means[self.own, STEPS]
            ratio = means[policy, STEPS] / means[self.own, STEPS]
            other[HIGH], other[STEPS] = 1, -rate
            own[HIGH], own[STEPS] = -ratio, ratio * rate
        else:
            column = SHARE if self.measure is Measure.SHARE else COST
            other[column], own[column] = 1, -1
        return {self.own: own, policy: other}


def spending(means: Floats, measure: Measure) -> Floats:
    """What each policy spends, from means [policies, columns]; cost in the cost model's unit."""
    if measure is Measure.POOLED:
        return np.divide(means[:, HIGH], means[:, STEPS], out=np.zeros(len(means)), where=means[:, STEPS] > 0)
    column: Floats = means[:, SHARE if measure is Measure.SHARE else COST]
    return column


def find_coin(means: Floats, measure: Measure, own: int, members: Sequence[int]) -> Coin:
    """Where on the curve through `members` the policy `own` is met."""
    spent, success = spending(means, measure), means[:, SUCCESS]
    frontier: list[int] = []
    for i in sorted(members, key=lambda i: (float(spent[i]), -float(success[i]))):
        if not frontier or success[i] > success[frontier[-1]]:
            frontier.append(i)
    above = next((k for k, i in enumerate(frontier) if spent[i] >= spent[own]), None)
    if above is None:
        return Coin(measure, own, frontier[-1], frontier[-1])
    return Coin(measure, own, frontier[max(0, above - 1)], frontier[above])


@dataclass(frozen=True, slots=True)
class Rival:
    """A method to compare with: its points, those of its curve's ends included."""

    family: str
    oracle: bool
    members: tuple[int, ...]


def equal_spending(
    resamples: Resamples,
    columns: Sequence[Floats],
    seeds: Sequence[Seeds],
    names: Sequence[str],
    learned: Mapping[int, Sequence[Rival]],
    *,
    split: str,
    reference: int,
) -> list[EqualSpend]:
    """Every learned policy against its rivals, by each measure; cost is relative to the policy `reference`.

    `columns` [seeds, tasks, columns] are the policies' own. For each policy and measure the p-values are corrected over rivals.
    """
    found: list[EqualSpend] = []
    for measure in Measure:
        unit = float(resamples.point[reference, COST]) if measure is Measure.COST else 1.0
        if unit == 0:
            continue
        spent = spending(resamples.point, measure) / unit
        for own, rivals in learned.items():
            coins = [find_coin(resamples.point, measure, own, rival.members) for rival in rivals]
            p_values = [two_way_p(_parts(coin, resamples.point, columns, seeds)) for coin in coins]
            for rival, coin, p, p_holm in zip(rivals, coins, p_values, holm(p_values), strict=True):
                chance = float(coin.chance(resamples.point))
                involved = (own, coin.left, coin.right)
                found.append(
                    EqualSpend(
                        split=split,
                        measure=measure,
                        policy=names[own],
                        family=rival.family,
                        oracle=rival.oracle,
                        spent=float(spent[own]),
                        curve_spent=float(spent[own if 0 < chance < 1 else coin.right if chance else coin.left]),
                        between=(names[coin.left], names[coin.right]),
                        curve=float(coin.curve(resamples.point)),
                        difference=resamples.estimate(coin.difference, involved),
                        p=p,
                        p_holm=p_holm,
                    )
                )
    return found


def _parts(coin: Coin, means: Floats, columns: Sequence[Floats], seeds: Sequence[Seeds]) -> dict[Seeds, Floats]:
    """The linearised difference by seeds [seeds, tasks], as `two_way_p` wants it."""
    parts: dict[Seeds, Floats] = {}
    for policy, weights in coin.weights(means).items():
        part = columns[policy] @ weights
        parts[seeds[policy]] = parts[seeds[policy]] + part if seeds[policy] in parts else part
    return parts
