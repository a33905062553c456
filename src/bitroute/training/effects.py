"""A signals router from records without text: where high precision helped, learned from choices that were drawn at random.

Without text no divergence can be computed, but where a policy drew its variants (mode explore, a router that draws) chance made
the comparison. The score is a linear estimate of what high, instead of low, adds to the chance of success at a step: the
minimiser of sum ((Y - m(x)) - (A - p) score(x))^2 over steps with features x, outcome Y, A = 1 where high was served with
probability p, and m(x) a linear fit of Y (Nie and Wager 2021, "Quasi-oracle estimation of heterogeneous treatment effects").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bitroute.errors import DataError
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.routers.features import FEATURES, Floats
from bitroute.routers.signals import SignalsModel, SignalsRouter
from bitroute.store.features import FeatureRow, read_features

LEAST: Final = 200  # choices on the rarer side, below which there is nothing to learn
BUDGETS: Final = (0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted: on how many drawn choices, of how many of them high."""

    choices: int
    high: int


def train_effects(path: Path, out: Path) -> Fitted:
    """Fit the router that stands at `out` afterwards (a JSON file, its calibration beside it).

    Raises DataError where the table holds several ladders, one of more than two variants, or too few drawn choices with a
    known outcome.
    """
    rows = [r for r in read_features(path) if r.success is not None]
    ladders = {r.ladder for r in rows}
    if len(ladders) > 1 or any(len(ladder) != 2 for ladder in ladders):
        raise DataError(f"{path}: want the steps of one ladder of two variants, there are {len(ladders)} ladders")
    drawn = [r for r in rows if 0 < r.propensity < 1 and 0 < len(r.features) <= len(FEATURES)]
    high = sum(r.variant == r.ladder[-1] for r in drawn)
    if min(high, len(drawn) - high) < LEAST:
        raise DataError(
            f"{path}: of the choices that were drawn at random and have an outcome {high} are high, {len(drawn) - high} low; "
            f"{LEAST} of each are needed (mode explore, or a router that draws such as random:0.5)"
        )
    router = SignalsRouter(fit_effect(drawn))
    scores = np.array([router.score(np.array(r.features)) for r in drawn])
    calibration = [(b, float(np.quantile(scores, 1 - b))) for b in BUDGETS]
    router.save(out)
    save_calibration(out, [Calibrated(b, t, float((scores > t).mean())) for b, t in calibration])
    return Fitted(len(drawn), high)


def fit_effect(rows: Sequence[FeatureRow], ridge: float = 1e-3) -> SignalsModel:
    """The linear estimate of high's effect on success from drawn choices, as a signals router (score above 0: high helps).

    `ridge` penalises weights on standardised features, relative to the mean square of A - p.
    """
    known = min(len(r.features) for r in rows)  # rows of an earlier version have the first ones alone
    x = np.array([r.features[:known] for r in rows], dtype=np.float64)
    y = np.array([bool(r.success) for r in rows], dtype=np.float64)
    served = np.array([r.variant == r.ladder[-1] for r in rows], dtype=np.float64)
    chance = np.array([r.propensity for r in rows])
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)  # a feature that never changed stays without weight
    z = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    expected = z @ _solve(z, y, ridge)
    surprise = served - np.where(served > 0, chance, 1 - chance)
    theta = _solve(surprise[:, None] * z, y - expected, ridge * float(np.mean(surprise**2)))
    return SignalsModel(
        features=FEATURES[:known],
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(theta[:-1].tolist()),
        bias=float(theta[-1]),
        variants=rows[0].ladder,
        model="",
        failures=(),  # as the gateway computes features where no router brings phrases of its own
    )


def _solve(design: Floats, target: Floats, ridge: float) -> Floats:
    """Least squares with an L2 penalty on all but the last column."""
    penalty = np.diag([*[ridge * len(design)] * (design.shape[1] - 1), 1e-12])
    return np.linalg.solve(design.T @ design + penalty, design.T @ target).astype(np.float64)
