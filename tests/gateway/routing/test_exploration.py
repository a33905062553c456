"""One flip an episode, every step as likely, propensities that add up, and an effect that can be computed from them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from bitroute.episode import Decision
from bitroute.gateway.routing.exploration import Exploration, uniform

PAIR, TRIO = ("low", "high"), ("w4", "w8", "bf16")
SEEDS = range(20_000)


def test_an_episodes_numbers_are_uniform_and_do_not_hang_together() -> None:
    one = np.array([uniform(seed, "explore") for seed in SEEDS])
    other = np.array([uniform(seed, "arm") for seed in SEEDS])
    assert one.mean() == pytest.approx(0.5, abs=0.01) and one.min() >= 0 and one.max() < 1
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02


def test_each_step_below_the_horizon_is_as_likely_to_be_drawn() -> None:
    explore = Exploration(0.5, 10)
    drawn = Counter(explore.step(seed) for seed in SEEDS)
    assert drawn.pop(None) / len(SEEDS) == pytest.approx(0.5, abs=0.02)
    assert sorted(drawn) == list(range(10))
    assert all(count / len(SEEDS) == pytest.approx(0.05, abs=0.006) for count in drawn.values())


@pytest.mark.parametrize(("rate", "flips"), [(0.0, 0), (1.0, 1)])
def test_none_or_exactly_one_step_is_flipped(rate: float, flips: int) -> None:
    explore = Exploration(rate, 8)
    for seed in range(200):
        flipped = [explore.apply(Decision("low"), PAIR, seed, step)[1] for step in range(12)]
        assert sum(flipped) == flips and not any(flipped[8:])


def served(explore: Exploration, ladder: tuple[str, ...], step: int, p: float | None) -> list[tuple[bool, Decision]]:
    """What is served at `step` over many episodes in which no earlier step was drawn."""
    found = []
    for seed in SEEDS:
        own = Decision(ladder[0], 0.5, "rule")
        if p is not None:
            high = random.Random(seed).random() < p
            own = Decision(ladder[-1 if high else 0], 0.5, "rule", p if high else 1 - p)
        if explore.hazard(seed, step) > 0:
            decision, flipped = explore.apply(own, ladder, seed, step)
            assert (decision.variant != own.variant) == flipped == (decision.reason == "flip")
            assert decision.score == 0.5
            found.append((flipped, decision))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("ladder", "p"), [(PAIR, None), (PAIR, 0.2), (TRIO, None)])
@pytest.mark.parametrize("step", [0, 6])
def test_propensities_are_the_frequencies(ladder: tuple[str, ...], p: float | None, step: int) -> None:
    found = served(Exploration(0.8, 8), ladder, step, p)
    frequency = Counter(decision.variant for _, decision in found)
    told = {decision.variant: decision.propensity for _, decision in found}
    assert set(told) == set(ladder) and sum(told.values()) == pytest.approx(1.0)
    for variant, chance in told.items():
        assert frequency[variant] / len(found) == pytest.approx(chance, abs=0.02)


def test_after_the_drawn_step_nothing_is_random() -> None:
    explore = Exploration(1.0, 5)
    seed = next(s for s in SEEDS if explore.step(s) == 2)
    told = [explore.apply(Decision("low"), PAIR, seed, step)[0] for step in range(7)]
    assert [d.propensity for d in told] == pytest.approx([4 / 5, 3 / 4, 1 / 3, 1, 1, 1, 1])
    assert [d.variant for d in told] == ["low", "low", "high", "low", "low", "low", "low"]


@pytest.mark.slow
def test_the_documented_formula_recovers_the_effect_of_a_flip() -> None:
    """Episodes of 3 to 12 steps; success is likelier in short ones, and a flip adds 0.2 at steps 0 to 3, nothing later."""
    explore, chance = Exploration(0.6, 10), random.Random(0)
    flipped_outcomes: list[float] = []
    weighed: list[tuple[float, float]] = []
    q, true = explore.rate / explore.horizon, []
    for seed in range(30_000):
        steps = 3 + chance.randrange(10)
        base = 0.7 - 0.04 * steps
        true += [0.2 * (step < 4) for step in range(min(steps, 10))]
        flip = next((s for s in range(steps) if explore.apply(Decision("low"), PAIR, seed, s)[1]), None)
        success = float(chance.random() < base + 0.2 * (flip is not None and flip < 4))
        m = min(steps, 10)
        if flip is not None:
            flipped_outcomes.append(success)
        else:
            weighed.append((m / (1 - q * m), success))
    weights, outcomes = np.array(weighed).T
    naive: Any = np.mean(flipped_outcomes) - outcomes.mean()
    effect = np.mean(flipped_outcomes) - (weights @ outcomes) / weights.sum()
    assert effect == pytest.approx(np.mean(true), abs=0.02)
    assert abs(naive - np.mean(true)) > 0.04
