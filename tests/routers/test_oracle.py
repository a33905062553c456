"""The KL oracle."""

from __future__ import annotations

import pytest

from bitroute.episode import Sensitivity, View
from bitroute.errors import CapabilityError
from bitroute.routers.oracle import Oracle
from bitroute.routers.router import Probe


def test_high_where_the_divergence_exceeds_the_threshold() -> None:
    router = Oracle(("low", "high"), 0.5)
    assert router.probes == {Probe.SENSITIVITY}
    views = [View(("m",), sensitivity=Sensitivity(kl, kl, kl, kl, "a", agrees=True)) for kl in (0.1, 0.5, 2.0)]
    decisions = router.decide(views, [router.begin(0) for _ in views])
    assert [(d.variant, d.score) for d in decisions] == [("low", 0.1), ("low", 0.5), ("high", 2.0)]


def test_it_refuses_to_decide_without_the_sensitivity() -> None:
    router = Oracle(("low", "high"), 0.5)
    with pytest.raises(CapabilityError, match="engine that measures sensitivity"):
        router.decide([View(("m",))], [router.begin(0)])
