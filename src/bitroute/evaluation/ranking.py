"""How well scores rank steps: by a label, and by what a budget of the highest ones holds. Purely arrays here."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative (ties count half). NaN without both."""
    mask = np.asarray(positive, dtype=bool)
    ranks = rankdata(np.asarray(scores))
    hits, misses = int(mask.sum()), int((~mask).sum())
    if not hits or not misses:
        return float("nan")
    return float((ranks[mask].sum() - hits * (hits + 1) / 2) / (hits * misses))


def captured(scores: npt.ArrayLike, divergences: npt.ArrayLike, share: float) -> float:
    """The part of all divergence that lies in the `share` of steps with the highest scores: what a router of that budget
    saves.
    """
    mass = np.asarray(divergences, dtype=np.float64)
    count = round(share * len(mass))
    order = np.argsort(-np.asarray(scores), kind="stable")[:count]
    return float(mass[order].sum() / max(mass.sum(), 1e-12))
