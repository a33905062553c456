"""Uncertainty of the coming or the past step, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from bitroute.episode import Signals, View
from bitroute.errors import ConfigError
from bitroute.routers.router import Probe
from bitroute.routers.uncertainty import Uncertainty, uncertainty

PAIR = ("low", "high")
# Choices with probabilities (1/2, 1/2) and (3/4, 1/4): entropies log 2 and 0.5623 nats, margins 0 and 1/2.
UNSURE = Signals((-0.7, -0.3), (-0.693, -0.288), (0.6931, 0.5623), (0.0, 0.5))
SURE = Signals((-0.01,), (-0.01,), (0.056,), (0.98,))
FORCED = Signals((), (), (), ())


def score(router: Uncertainty, view: View) -> float | None:
    (decision,) = router.decide([view], [router.begin(0)])
    return decision.score


def test_the_measures() -> None:
    assert uncertainty(UNSURE, "entropy") == pytest.approx(1.2554)
    assert uncertainty(UNSURE, "margin") == 1.0
    assert uncertainty(SURE, "margin") == pytest.approx(0.02)
    assert uncertainty(FORCED, "entropy") == uncertainty(FORCED, "margin") == 0.0


def test_the_probe_looks_at_the_coming_step() -> None:
    router = Uncertainty(PAIR, 1.0, measure="entropy")
    assert router.probes == {Probe.LOW_GENERATION}
    view = View(("a", "b"), ("x",), ("low",), (SURE,), probe=UNSURE)
    assert score(router, view) == pytest.approx(1.2554)
    assert router.decide([view], [router.begin(0)])[0].variant == "high"
    assert router.name == "uncertainty(entropy)"


def test_without_a_probe_it_looks_at_the_step_before() -> None:
    router = Uncertainty(PAIR, 1.0, measure="margin", probe=False)
    assert router.probes == frozenset()
    assert score(router, View(("a", "b"), ("x",), ("low",), (SURE,))) == pytest.approx(0.02)
    assert score(router, View(("a",))) == 0.0
    assert score(router, View(("a", "b"), ("x",), ("low",), (None,))) == 0.0
    assert router.name == "uncertainty(margin, past)"


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match="measure 'variance'"):
        Uncertainty(PAIR, measure="variance")  # type: ignore[arg-type]
