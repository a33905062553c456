"""Comparisons at equal spending on made-up outcomes whose truth is known."""

import math

import numpy as np
import pytest

from bitroute.evaluation.equal import Coin, Rival, equal_spending, find_coin, spending
from bitroute.evaluation.resampling import resample
from bitroute.evaluation.results import EqualSpend, Measure
from bitroute.evaluation.tally import WIDTH

LOW, HIGH, RULE, ROUTER = range(4)


def means(*rows: tuple[float, float, float, float, float]) -> np.ndarray:
    """Success, share, cost, high steps, steps: a row a policy."""
    return np.array(rows)


def test_the_three_measures_of_spending() -> None:
    table = means((0.5, 0.0, 2.0, 0.0, 12.0), (0.9, 0.4, 3.0, 3.0, 10.0))
    assert spending(table, Measure.SHARE).tolist() == [0.0, 0.4]
    assert spending(table, Measure.POOLED).tolist() == [0.0, 0.3]
    assert spending(table, Measure.COST).tolist() == [2.0, 3.0]


def test_the_coin_spends_what_the_policy_spends() -> None:
    # success, share, cost, high steps, steps: the rule's episodes are longer than low's, so pooled shares do not mix as K does
    table = means(
        (0.5, 0.0, 60.0, 0.0, 20.0), (0.9, 1.0, 100.0, 10.0, 10.0), (0.7, 0.4, 90.0, 4.0, 12.0), (0.8, 0.1, 80.0, 1.5, 15.0)
    )
    found = {measure: find_coin(table, measure, ROUTER, (LOW, HIGH, RULE)) for measure in Measure}
    assert all((coin.left, coin.right) == (LOW, RULE) for coin in found.values())
    assert float(found[Measure.SHARE].chance(table)) == pytest.approx(0.25)
    assert float(found[Measure.COST].chance(table)) == pytest.approx(2 / 3)
    chance = float(found[Measure.POOLED].chance(table))
    assert chance * 4 / (chance * 12 + (1 - chance) * 20) == pytest.approx(0.1)
    assert float(found[Measure.COST].difference(table)) == pytest.approx(0.8 - (0.5 / 3 + 2 * 0.7 / 3))


def test_a_point_that_costs_more_and_solves_no_more_is_not_on_the_curve() -> None:
    table = means((0.5, 0, 50, 0, 10), (0.9, 1, 100, 10, 10), (0.85, 0.3, 110, 3, 10), (0.8, 0.2, 105, 2, 10))
    coin = find_coin(table, Measure.COST, ROUTER, (LOW, HIGH, RULE))
    assert (coin.left, coin.right) == (HIGH, HIGH)  # all-high is cheaper than the rule and than the router
    assert float(coin.curve(table)) == 0.9
    share = find_coin(table, Measure.SHARE, ROUTER, (LOW, HIGH, RULE))
    assert (share.left, share.right) == (LOW, RULE)


def test_below_the_curve_its_cheapest_point_is_compared() -> None:
    table = means((0.5, 0, 70, 0, 20), (0.9, 1, 100, 10, 10), (0.6, 0.3, 80, 3, 10), (0.8, 0.2, 60, 2, 10))
    coin = find_coin(table, Measure.COST, ROUTER, (LOW, HIGH, RULE))
    assert (coin.left, coin.right) == (LOW, LOW)
    assert float(coin.difference(table)) == pytest.approx(0.3)


@pytest.mark.parametrize("measure", list(Measure))
def test_the_weights_are_the_derivative_of_the_difference(measure: Measure) -> None:
    table = means(
        (0.5, 0.0, 60.0, 0.0, 20.0), (0.9, 1.0, 100.0, 10.0, 10.0), (0.7, 0.4, 90.0, 4.0, 12.0), (0.8, 0.1, 80.0, 1.5, 15.0)
    )
    coin = find_coin(table, measure, ROUTER, (LOW, HIGH, RULE))
    weights = coin.weights(table)
    assert sum(float(weights[i] @ table[i]) for i in weights) == pytest.approx(float(coin.difference(table)))
    for i, found in weights.items():
        for column in range(WIDTH):
            moved = table.copy()
            moved[i, column] += 1e-6
            slope = (float(coin.difference(moved)) - float(coin.difference(table))) / 1e-6
            assert found[column] == pytest.approx(slope, abs=1e-4)


def simulated(seed: int, gain: float, tasks: int = 200, seeds: int = 1) -> EqualSpend:
    """A router that solves `gain` more than low and high mixed by a coin at its own cost; costs and lengths vary by task."""
    rng = np.random.default_rng(seed)
    luck, hard = rng.random(tasks), rng.gamma(4, 2.5, size=tasks)

    def play(chance: float, cost: float, share: float, runs: int = 1) -> np.ndarray:
        lucky = np.where(rng.random((runs, tasks)) < 0.4, rng.random((runs, tasks)), luck)
        steps = np.maximum(1, np.round(hard + rng.normal(0, 1, (runs, tasks))))
        return np.stack([lucky < chance, np.full((runs, tasks), share), cost * steps, share * steps, steps], axis=-1)

    columns = [play(0.5, 0.6, 0.0), play(0.9, 1.0, 1.0), play(0.7 + gain, 0.8, 0.3, seeds)]
    own = [(0,), (0,), tuple(range(seeds))]
    found = equal_spending(
        resample(columns, own, resamples=200),
        columns,
        own,
        ["low", "high", "router"],
        {2: [Rival("coin", False, (0, 1))]},
        split="test",
        reference=1,
    )
    return next(e for e in found if e.measure is Measure.COST)


@pytest.mark.parametrize("seeds", [1, 3])
def test_at_equal_cost_the_true_difference_is_covered_and_seldom_found_where_there_is_none(seeds: int) -> None:
    repetitions, covered, false, true = 80, 0, 0, 0
    for repetition in range(repetitions):
        nothing, something = simulated(repetition, 0.0, seeds=seeds), simulated(repetition, 0.15, seeds=seeds)
        covered += something.difference.low <= 0.15 <= something.difference.high
        false += nothing.p < 0.05
        true += something.p < 0.05
    assert covered / repetitions >= 0.9
    assert false / repetitions <= 0.11
    assert true / repetitions >= 0.9


def test_what_is_reported() -> None:
    found = simulated(0, 0.15)
    assert (found.policy, found.family, found.between) == ("router", "coin", ("low", "high"))
    assert found.spent == found.curve_spent == pytest.approx(0.8, abs=0.02)
    assert found.curve == pytest.approx(0.7, abs=0.08)


def test_rivals_are_corrected_for_their_number() -> None:
    rng = np.random.default_rng(3)
    columns = [np.stack([rng.random((1, 60)) < chance, *np.ones((4, 1, 60))], axis=-1) for chance in (0.5, 0.6, 0.7, 0.8)]
    seeds = [(0,)] * 4
    rivals = [Rival(name, False, (i,)) for i, name in enumerate("abc")]
    found = equal_spending(
        resample(columns, seeds, resamples=50), columns, seeds, list("abcd"), {3: rivals}, split="s", reference=0
    )
    smallest = min((e for e in found if e.measure is Measure.SHARE), key=lambda e: e.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 3 * smallest.p))
    assert not math.isnan(smallest.difference.low)


def test_without_a_coin_the_weights_compare_two_policies() -> None:
    weights = Coin(Measure.COST, 0, 1, 1).weights(means((0.5, 0, 1, 0, 1), (0.25, 0, 1, 0, 1)))
    assert {i: w[0] for i, w in weights.items()} == {0: 1, 1: -1}
    assert all(not w[1:].any() for w in weights.values())
