"""Scores against thresholds, and draws from the ordered logit model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitroute.episode import View
from bitroute.errors import ConfigError, DataError
from bitroute.routers.threshold import Scored, ThresholdRouter, refuse_others, settle, sigmoid

PAIR, TRIO = ("low", "high"), ("low", "middle", "high")
finite = st.floats(-50, 50)


class Given(ThresholdRouter):
    """Scores a view with the number that its message is."""

    name = "given"

    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        return [float(v.messages[-1]) for v in views]


def rungs(router: ThresholdRouter, scores: Sequence[float], seed: int = 0) -> list[str]:
    views = [View((str(s),)) for s in scores]
    return [d.variant for d in router.decide(views, [router.begin(seed) for _ in views])]


def test_the_highest_rung_whose_threshold_is_exceeded() -> None:
    assert rungs(Given(PAIR, 1.0), [0.0, 1.0, 1.1]) == ["low", "low", "high"]
    assert rungs(Given(TRIO, (0.0, 2.0)), [-1, 0.5, 2.0, 3.0]) == ["low", "middle", "middle", "high"]
    assert rungs(Given(TRIO, 1.0), [0.0, 1.5]) == ["low", "high"]  # one number: no room for the middle


def test_a_decision_carries_score_reason_and_propensity() -> None:
    router = Given(PAIR, 1.0)
    (decision,) = router.decide([View(("2.5",))], [router.begin(0)])
    assert (decision.score, decision.reason, decision.propensity) == (2.5, "given", 1.0)


def test_moving_the_threshold_moves_the_budget() -> None:
    router, scores = Given(PAIR), [i / 10 for i in range(100)]
    shares = []
    for threshold in (-1.0, 2.0, 5.0, 20.0, math.inf):
        shares.append(rungs(router.with_options(threshold=threshold), scores).count("high") / 100)
    assert shares == [1.0, 0.79, 0.49, 0.0, 0.0]


def test_options_make_another_router_that_shares_what_was_learned() -> None:
    router = Given(TRIO, (0.0, 1.0))
    router.learned = object()
    other = router.with_options(threshold=2.0, sample=True)
    assert (other.thresholds, other.draws, other.learned) == ((2.0, 2.0), True, router.learned)
    assert (router.thresholds, router.draws) == ((0.0, 1.0), False)
    again = other.with_options(sample=False)
    assert (again.thresholds, again.draws) == ((2.0, 2.0), False)
    assert other.with_options().draws and type(other) is Given


@given(
    score=finite, thresholds=st.lists(finite, min_size=2, max_size=2).map(sorted), seed=st.integers(0, 99), sample=st.booleans()
)
def test_settling_a_score_elsewhere_is_deciding_there(score: float, thresholds: list[float], seed: int, sample: bool) -> None:
    """Who moves thresholds takes the score of a decision, whatever it was decided at."""
    router, view = Given(TRIO, sample=sample), View(("a", "b", str(score)), ("x", "y"))
    (decision,) = router.decide([view], [router.begin(seed)])
    assert decision.score is not None
    moved = router.with_options(threshold=thresholds)
    assert settle(router, decision.score, thresholds, seed, 2) == moved.decide([view], [moved.begin(seed)])[0]


@given(score=finite, thresholds=st.lists(finite, min_size=1, max_size=4).map(sorted), seed=st.integers(0, 10_000))
def test_sampled_propensities_are_the_ordered_logits_and_sum_to_one(score: float, thresholds: list[float], seed: int) -> None:
    variants = [f"v{i}" for i in range(len(thresholds) + 1)]
    router = Given(variants, thresholds, sample=True)
    (decision,) = router.decide([View((str(score),))], [router.begin(seed)])
    at_least = [1.0, *(sigmoid(score - t) for t in thresholds), 0.0]
    chances = [a - b for a, b in pairwise(at_least)]
    assert sum(chances) == pytest.approx(1.0) and min(chances) >= 0
    assert decision.propensity == pytest.approx(chances[variants.index(decision.variant)])
    assert decision.propensity > 0


def test_sampling_draws_with_those_probabilities() -> None:
    router = Given(TRIO, (-1.0, 1.0), sample=True)
    counts = Counter(rung for seed in range(4000) for rung in rungs(router, [0.5], seed))
    wanted = {"low": 1 - sigmoid(1.5), "middle": sigmoid(1.5) - sigmoid(-0.5), "high": sigmoid(-0.5)}
    for name, chance in wanted.items():
        assert counts[name] / 4000 == pytest.approx(chance, abs=0.025)


@pytest.mark.parametrize("thresholds", [(2.0, 1.0), (1.0,), (1.0, 2.0, 3.0), (), (math.nan, 1.0), math.nan])
def test_thresholds_must_ascend_one_per_rung(thresholds: float | tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="want 2 ascending numbers for 3 variants"):
        Given(TRIO, thresholds)
    with pytest.raises(ConfigError, match="want 2 ascending numbers for 3 variants"):
        Given(TRIO).with_options(threshold=thresholds)


def test_one_variant_leaves_nothing_to_choose() -> None:
    with pytest.raises(ConfigError, match="at least two variants"):
        Given(("only",), 0.0)


@pytest.mark.parametrize("x", [-1000.0, -30.0, 0.0, 30.0, 1000.0])
def test_sigmoid_does_not_overflow(x: float) -> None:
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("trained_for", "model", "told"),
    [
        ("a" * 64, "b" * 64, "model aaaaaaaaaaaa, this is bbbbbbbbbbbb; "),
        ("72531340ae91" + "0" * 52, "72531340ae91" + "01" * 26, "model 72531340ae9100, this is 72531340ae9101; "),
        ("72531340ae91", "72531340ae91-bfloat16", "model 72531340ae91, this is 72531340ae91-bfloat16; "),
    ],
)
def test_models_that_begin_alike_are_told_apart(trained_for: str, model: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        refuse_others(Path("r.json"), trained_for=trained_for, model=model, ladder=("a", "b"), variants=("a", "b"))
    assert str(caught.value) == f"r.json: was trained for {told}train it again"
