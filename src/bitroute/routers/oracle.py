"""The KL oracle: it asks for the sensitivity of the coming step itself. Not a method one can deploy: the mark to measure others
by.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitroute.episode import View
from bitroute.errors import CapabilityError
from bitroute.routers.router import Probe
from bitroute.routers.threshold import Scored, ThresholdRouter


class Oracle(ThresholdRouter):
    """High where KL(high || low) of the coming action exceeds the threshold (nats)."""

    name = "oracle(kl)"
    probes = frozenset({Probe.SENSITIVITY})

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """The measured divergence."""
        scores = []
        for view in views:
            if view.sensitivity is None:
                raise CapabilityError("the KL oracle needs an engine that measures sensitivity (both variants, full logits)")
            scores.append(view.sensitivity.kl_sum)
        return scores
