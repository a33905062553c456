"""Heuristics on the model's own uncertainty: of the low variant on the coming step (a probe, charged), or of the step before
(free).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bitroute.episode import Signals, View
from bitroute.errors import ConfigError
from bitroute.routers.router import Probe
from bitroute.routers.threshold import Scored, ThresholdRouter

Measure = Literal["entropy", "margin"]


def uncertainty(signals: Signals, measure: Measure) -> float:
    """Summed entropy (nats) of an action's choices, or one minus their smallest margin; 0 for an action without a choice."""
    return sum(signals.entropy) if measure == "entropy" else 1.0 - min(signals.margin, default=1.0)


class Uncertainty(ThresholdRouter):
    """High where the low variant is unsure of its next action (`probe`), or was unsure of the last one (no probe)."""

    def __init__(
        self,
        variants: Sequence[str],
        thresholds: float | Sequence[float] = 0.0,
        *,
        measure: Measure = "entropy",
        probe: bool = True,
    ) -> None:
        if measure not in ("entropy", "margin"):
            raise ConfigError(f"measure {measure!r}: want 'entropy' or 'margin'")
        super().__init__(variants, thresholds)
        self.measure: Measure = measure
        self.probes = frozenset({Probe.LOW_GENERATION}) if probe else frozenset()
        self.name = f"uncertainty({measure}{'' if probe else ', past'})"

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """The uncertainty; 0 on a first step without a probe and where a server gave no log-probabilities."""
        scores = []
        for view in views:
            past = view.signals[-1] if view.signals else None
            signals = view.probe if Probe.LOW_GENERATION in self.probes else past
            scores.append(uncertainty(signals, self.measure) if signals else 0.0)
        return scores
