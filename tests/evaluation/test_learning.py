"""The figure of learning curves."""

import pytest

from bitroute.evaluation.figures import png
from bitroute.evaluation.learning import PANELS, learning, smoothed


def test_points_are_means_of_the_last_iterations() -> None:
    assert smoothed([1, 2, 3, 4, 5, 6, 100]) == pytest.approx([1, 1.5, 2, 2.5, 3, 4, 23.6])


def test_the_figure_is_the_same_for_the_same_curves() -> None:
    curve = [{"updates": 4.0 * n, **{key: 0.1 * n for key, *_ in PANELS}} for n in range(1, 4)]
    drawn = [png(learning({"dmr-0": curve, "dmr-1": curve[:1]}), (8, 7)) for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0].startswith(b"\x89PNG")
