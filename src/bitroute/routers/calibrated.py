"""Which threshold spends which budget: what calibration found, kept beside the trained router that it was found for.

It knows the file and how to read between its lines. How thresholds are found (by playing) is training's business, what they are
used for the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from bitroute.errors import ConfigError, DataError
from bitroute.store.files import write_atomic


class Calibrated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At `threshold` the router spent `share` of its steps at high precision; the aim was `budget`. Both are shares, 0..1."""

    budget: float
    threshold: float
    share: float


def calibration_file(router: Path) -> Path:
    """Where the calibration of a trained router stands: in an encoder's directory, or beside the file of a signals router."""
    return router / "calibration.json" if router.is_dir() else router.with_suffix(".calibration.json")


def save_calibration(router: Path, rows: Sequence[Calibrated]) -> None:
    """Write the calibration of the trained router at `router`, in the order of budgets."""
    ordered = sorted(rows, key=lambda row: row.budget)
    write_atomic(calibration_file(router), msgspec.json.format(msgspec.json.encode(ordered), indent=1) + b"\n")


def load_calibration(router: Path) -> tuple[Calibrated, ...]:
    """Read what `save_calibration` wrote for the router at `router`: at least one row, budgets ascending.

    Raises DataError naming the file when it is missing or damaged.
    """
    path = calibration_file(router)
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=tuple[Calibrated, ...])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; calibrate the router (bitroute evaluate), or give a threshold") from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: not a router's calibration ({error})") from error
    budgets = [row.budget for row in rows]
    if not rows or not all(0 <= b <= 1 for b in budgets) or any(a >= b for a, b in pairwise(budgets)):
        raise DataError(f"{path}: not a router's calibration (want budgets in 0..1, ascending)")
    return rows


def threshold_for(rows: Sequence[Calibrated], budget: float) -> float:
    """The threshold that spends `budget`, straight between the two nearest budgets of `rows` (ascending, not empty).

    Raises ConfigError outside of what was calibrated: scores are skewed, so nothing can be said beyond the ends.
    """
    if not rows[0].budget <= budget <= rows[-1].budget:
        known = f"{rows[0].budget:g}" + (f" to {rows[-1].budget:g}" if len(rows) > 1 else "")
        raise ConfigError(f"budget {budget:g}: the router is calibrated for {known}; calibrate it for this one, too")
    for left, right in pairwise(rows):
        if budget <= right.budget:
            part = (budget - left.budget) / (right.budget - left.budget)
            return left.threshold + part * (right.threshold - left.threshold)
    return rows[0].threshold
