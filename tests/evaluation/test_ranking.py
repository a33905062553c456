from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from bitroute.evaluation.ranking import auc, captured


def test_auc_equals_counting_pairs() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        scores = random.integers(0, 6, size=30)
        positive = random.random(30) < 0.4
        pairs = [(a > b) + 0.5 * (a == b) for a, b in product(scores[positive], scores[~positive])]
        assert auc(scores, positive) == pytest.approx(float(np.mean(pairs)))
    assert math.isnan(auc([1.0, 2.0], [True, True]))
    assert math.isnan(auc([], []))


def test_captured_equals_summing_the_top() -> None:
    assert captured([3, 1, 2], [5.0, 1.0, 4.0], 1 / 3) == 0.5
    assert captured([3, 1, 2], [5.0, 1.0, 4.0], 2 / 3) == 0.9
    assert captured([3, 1, 2], [5.0, 1.0, 4.0], 0.0) == 0.0
    assert captured([3, 1, 2], [5.0, 1.0, 4.0], 1.0) == 1.0
    assert captured([1, 2], [0.0, 0.0], 0.5) == 0.0
