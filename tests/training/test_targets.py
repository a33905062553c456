"""What stage 1 learns: chances that a regression recovers, and mixes with known means."""

from __future__ import annotations

import numpy as np
import pytest

from bitroute.routers.features import FEATURES
from bitroute.training.targets import cut, fit_effects, mixed_targets


def states(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, KL, gains and the true chance of a rescue: half where both a message was seen and KL is large, else 1 in 50."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, len(FEATURES)))
    seen = random.random(count) < 0.3
    rows[:, FEATURES.index("message seen before")] = seen
    divergences = np.where(random.random(count) < 0.5, 0.01, 3.0)
    logit = -4 + 2 * seen + 2 * (divergences > 1)
    chance = 1 / (1 + np.exp(-logit))
    return rows, divergences, (random.random(count) < chance).astype(int), chance


def test_chances_are_recovered_also_from_an_uneven_sample() -> None:
    rows, divergences, gains, chance = states(12_000)
    kept = (gains > 0) | (np.random.default_rng(1).random(len(gains)) < 0.25)  # the rest is sampled one in four
    weights = np.where(gains > 0, 1.0, 4.0)
    model = fit_effects(rows[kept], divergences[kept], gains[kept], weights[kept], ridge=0.0)
    assert model.hurt is None
    assert np.abs(model.predict(rows, divergences) - chance).max() < 0.05


def test_what_spoils_is_subtracted() -> None:
    rows, divergences, gains, _ = states(6000)
    model = fit_effects(rows, divergences, gains, np.ones(len(gains)))
    mirrored = fit_effects(rows, divergences, -gains, np.ones(len(gains)))
    assert mirrored.predict(rows, divergences) == pytest.approx(-model.predict(rows, divergences), abs=1e-6)


def test_a_mix_has_as_much_of_each_as_it_says() -> None:
    divergences, effects = np.array([0.0, 2.0, 0.0, 2.0]), np.array([0.1, 0.0, 0.3, -0.5])
    assert mixed_targets(divergences, effects, 1.0, 0.0).tolist() == [0, 1, 0, 1]
    assert mixed_targets(divergences, effects, 1.0, 1.0) == pytest.approx([0.5, 0.0, 1.0, 0.0])  # 1.5 is cut off
    assert mixed_targets(divergences, effects, 1.0, 0.5) == pytest.approx([0.25, 0.5, 0.75, 0.5])
    assert mixed_targets(divergences, np.zeros(4), 1.0, 0.5).tolist() == [0, 0.5, 0, 0.5]


def test_numbers_are_cut_by_episode() -> None:
    assert cut(np.arange(5), [2, 0, 3]) == [[0, 1], [], [2, 3, 4]]
