"""Draft and verify: low writes the action, high reads it in one pass and says what it would have written instead.

Not a router that foresees anything: it pays for high's pass over every step, and saves what high would have decoded.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitroute.episode import View
from bitroute.errors import CapabilityError
from bitroute.routers.router import Probe, Reads
from bitroute.routers.threshold import Scored, ThresholdRouter


class Verify(ThresholdRouter):
    """High where it would have chosen otherwise than low's draft did, by more than `tolerance` nats at one choice at least."""

    probes = frozenset({Probe.VERIFICATION})
    reads = Reads.NOTHING

    def __init__(self, variants: Sequence[str], tolerance: float = 0.0) -> None:
        super().__init__(variants, tolerance)
        self.name = "verify"

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """By how much high prefers its own choice, at the choice where that is most; 0 where it would have written the same."""
        scores = []
        for view in views:
            if view.verification is None:
                raise CapabilityError("draft and verify needs an engine that scores: high reads what low wrote")
            scores.append(max(view.verification, default=0.0))
        return scores
