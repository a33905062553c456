"""The learning curves of stage 2 as a figure: success, share and price against the number of updates. It knows curves alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from bitroute.evaluation.figures import Draw, Palette

WINDOW: Final = 5  # iterations that a point is the mean of: one iteration plays few tasks
PANELS: Final = (
    ("deciding", 100.0, "success on deciding tasks, %"),
    ("success", 100.0, "success on all tasks, %"),
    ("share", 100.0, "steps at high precision, %"),
    ("price", 1.0, "price of an all-high episode"),
)


def learning(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Draw:
    """One panel a quantity, one line a training, by its name; each point is the mean of the last few iterations."""

    def draw(figure: Figure, palette: Palette) -> None:
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (key, unit, label) in zip(grid.flat, PANELS, strict=True):
            for number, (name, curve) in enumerate(curves.items()):
                x = [row["updates"] for row in curve]
                axes.plot(x, smoothed([unit * row[key] for row in curve]), color=palette[f"series{number % 8}"], label=name)
            axes.set_ylabel(label, color=palette["ink"])
            axes.tick_params(colors=palette["muted"])
            axes.grid(color=palette["grid"], linewidth=0.6)
        for axes in grid[-1]:
            axes.set_xlabel("updates", color=palette["ink"])
        grid[0, 0].legend(frameon=False, labelcolor=palette["ink"])

    return draw


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value as the mean of itself and those before it, up to `WINDOW` of them."""
    return [float(np.mean(values[max(0, at + 1 - WINDOW) : at + 1])) for at in range(len(values))]
