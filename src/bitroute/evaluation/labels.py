"""What a set of sensitivity labels says as a whole: how skewed the KL is, and on which actions it sits.

It sees the labels alone, neither model nor router behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitroute.episode import Sensitivity, first_word
from bitroute.evaluation.statistics import Floats

TOP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class VerbSensitivity:
    """Steps whose action (high's) is of the kind `verb`: KL quantiles, part of all KL, how often low would act otherwise."""

    verb: str
    steps: int
    median: float
    p90: float
    mean: float
    mass: float
    disagree: float


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """KL in nats. `top_mass` is the share of all KL held by the most sensitive fifth of the steps."""

    steps: int
    median: float
    p90: float
    p99: float
    mean: float
    top_mass: float
    disagree: float
    verbs: tuple[VerbSensitivity, ...]


def summarise_labels(labels: Sequence[Sensitivity], action_kind: Callable[[str], str] = first_word) -> LabelSummary:
    """Summarise labels, grouped by `action_kind`; verbs come by their part of all KL, largest first. Raises ValueError when
    there are none.
    """
    if not labels:
        raise ValueError("there are no sensitivity labels to summarise")
    kl = np.array([label.kl_sum for label in labels], dtype=np.float64)
    differs = np.array([not label.agrees for label in labels])
    names = np.array([action_kind(label.action) for label in labels])
    total = float(kl.sum())
    verbs = []
    for verb in sorted(set(names.tolist())):
        part = kl[names == verb]
        verbs.append(
            VerbSensitivity(
                verb=verb,
                steps=len(part),
                median=float(np.median(part)),
                p90=float(np.quantile(part, 0.9)),
                mean=float(part.mean()),
                mass=float(part.sum()) / total if total > 0 else 0.0,
                disagree=float(differs[names == verb].mean()),
            )
        )
    return LabelSummary(
        steps=len(kl),
        median=float(np.median(kl)),
        p90=float(np.quantile(kl, 0.9)),
        p99=float(np.quantile(kl, 0.99)),
        mean=float(kl.mean()),
        top_mass=float(concentration(kl)[round(TOP_SHARE * len(kl))]),
        disagree=float(differs.mean()),
        verbs=tuple(sorted(verbs, key=lambda v: -v.mass)),
    )


def concentration(kl: Floats) -> Floats:
    """Share of all KL held by the k most sensitive steps, k = 0 .. n: [n + 1]. All zeros when there is no KL at all."""
    running = np.concatenate([[0.0], np.cumsum(np.sort(kl)[::-1])])
    return running / running[-1] if running[-1] > 0 else running
