"""What stage 1 learns to predict: sensitivity, the effect of one step at high, or a mix of both, as a number in 0..1 a step.

KL says where the two variants would act differently, whether or not anything comes of it; a measured effect says where one step
at high turns the outcome, but only at the few states that were played again. So a logistic regression on the features of a step
and its KL learns the effect from these, and tells it for every labelled step. Purely arrays here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from bitroute.routers.features import Floats
from bitroute.routers.signals import fit_logistic, standardised


@dataclass(frozen=True, slots=True)
class EffectModel:
    """P(one step at high rescues) - P(it spoils), from features and KL. A side that was never seen has weights None."""

    mean: Floats
    scale: Floats
    helped: Floats | None  # [features + 2]: weights on standardised features and log(1 + KL), then the bias
    hurt: Floats | None

    def predict(self, rows: npt.ArrayLike, divergences: npt.ArrayLike) -> Floats:
        """The effect at each step, -1..1 [n], from features [n, len(FEATURES)] and KL in nats [n]."""
        x = (_with_divergence(rows, divergences) - self.mean) / self.scale
        helped, hurt = (np.zeros(len(x)) if w is None else expit(x @ w[:-1] + w[-1]) for w in (self.helped, self.hurt))
        effect: Floats = helped - hurt
        return effect


def fit_effects(
    rows: npt.ArrayLike, divergences: npt.ArrayLike, gains: npt.ArrayLike, weights: npt.ArrayLike, *, ridge: float = 1e-3
) -> EffectModel:
    """Fit on sampled states: features [n, len(FEATURES)], KL [n], gains in -1, 0, 1 [n], and what each stands for [n].

    The classes are not balanced: what it predicts are chances, not ranks.
    """
    x, mean, scale = standardised(_with_divergence(rows, divergences))
    found, share = np.asarray(gains), np.asarray(weights, dtype=np.float64)
    share = share / share.mean()
    sides = [found > 0, found < 0]
    fitted = [fit_logistic(x, side, share, ridge) if side.any() and not side.all() else None for side in sides]
    return EffectModel(mean, scale, *fitted)


def mixed_targets(divergences: npt.ArrayLike, effects: npt.ArrayLike, tau: float, mix: float) -> Floats:
    """Targets in 0..1 [n]: `mix` parts effect (what spoils counts as nothing), the rest "KL is at least `tau`".

    Both are brought to the same mean first, that of the sensitive steps, so that `mix` says how much of what is learned comes
    from where; what goes beyond 1 by that is cut off.
    """
    sensitive = (np.asarray(divergences) >= tau).astype(np.float64)
    worth = np.clip(np.asarray(effects, dtype=np.float64), 0.0, 1.0)
    level = float(sensitive.mean())
    scaled = worth * (level / worth.mean()) if worth.any() else worth
    targets: Floats = np.clip((1 - mix) * sensitive + mix * scaled, 0.0, 1.0)
    return targets


def cut(values: npt.ArrayLike, lengths: Sequence[int]) -> list[list[float]]:
    """One number a step as lists by episode."""
    return [part.tolist() for part in np.split(np.asarray(values), np.cumsum(lengths)[:-1])]


def _with_divergence(rows: npt.ArrayLike, divergences: npt.ArrayLike) -> Floats:
    return np.column_stack([np.asarray(rows, dtype=np.float64), np.log1p(np.asarray(divergences, dtype=np.float64))])
