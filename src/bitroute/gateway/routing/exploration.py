"""One flipped step in some episodes, drawn so that what a flip does can be computed afterwards without a model of anything.

The draw. With probability e an episode is explored: of its first H steps (`routing.horizon`) one, J, is drawn uniformly, and at
step J the other variant is served (on a ladder of n, each of the n - 1 others with equal chance). An episode that ends before J
is not flipped. So every step t < H of every episode has the same chance q = e / H of being the flipped one, however long the
episode turns out to be, and no episode has two. J is a function of the episode's seed: no state, the same after a restart.

Propensities. Before J has passed, step t is flipped with hazard h = q / (1 - q t), given that J was none of the t steps before;
after J, and from H on, with 0. With p the router's own probability of the served variant (1 or 0 when it does not draw), that
variant's propensity is p (1 - h) + (1 - p) h / (n - 1). A step cannot be flipped where the router did not decide (`late`,
`router-error`, `saturated`, `switch`, `forced`, `bypass`) or where a floor holds (`floor`): if J falls on one, J is spent.

The effect. Let m be the number of an episode's steps that could have been flipped (t < H, none of the reasons above), and Y
its outcome. A flip hits each such step with chance q, and an episode goes unflipped with chance 1 - q m. So the mean effect of
flipping one step, over all steps that can be flipped, is

    mean of Y over flipped episodes - sum(w Y) / sum(w) over unflipped episodes, with w = m / (1 - q m).

For flips of one direction only (low to high), take the flipped episodes of that direction, and in the numerator of w count only
the steps whose intended variant is low. q itself can be read from a step 0 of a router that does not draw: it is
1 - propensity of an unflipped one, and the propensity of a flipped one times n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from bitroute.episode import Decision


def uniform(seed: int, purpose: str) -> float:
    """The number in 0..1 that belongs to the episode with `seed` for one purpose, whatever it is used for elsewhere."""
    return int.from_bytes(blake2b(f"{purpose}|{seed}".encode(), digest_size=7).digest()) / 2**56


@dataclass(frozen=True, slots=True)
class Exploration:
    """Flips one of the first `horizon` steps in a share `rate` of the episodes."""

    rate: float
    horizon: int

    def step(self, seed: int) -> int | None:
        """The step of the episode that is flipped if it comes to that; None for an episode that is not explored."""
        chance = uniform(seed, "explore")
        return min(self.horizon - 1, int(chance / self.rate * self.horizon)) if chance < self.rate else None

    def hazard(self, seed: int, step: int) -> float:
        """The probability that `step` is flipped, given all before it."""
        drawn = self.step(seed)
        if step >= self.horizon or (drawn is not None and drawn < step):
            return 0.0
        q = self.rate / self.horizon
        return q / (1.0 - q * step)

    def apply(self, decision: Decision, ladder: Sequence[str], seed: int, step: int) -> tuple[Decision, bool]:
        """The decision that is served, with its propensity, and whether it is a flip.

        `decision` is the router's own. On a ladder of more than two it must not have been drawn: the probability of what was
        not chosen is then unknown.
        """
        hazard, others = self.hazard(seed, step), len(ladder) - 1
        variant, reason, own = decision.variant, decision.reason, decision.propensity
        flipped = self.step(seed) == step
        if flipped:
            variant = [name for name in ladder if name != variant][int(uniform(seed, "flip") * others)]
            reason, own = "flip", 1.0 - own if others == 1 else 0.0
        propensity = own * (1.0 - hazard) + (1.0 - own) * hazard / others
        return Decision(variant, decision.score, reason, propensity), flipped
