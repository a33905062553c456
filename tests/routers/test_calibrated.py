"""The file of thresholds beside a trained router, and reading between its lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitroute.errors import ConfigError, DataError
from bitroute.routers.calibrated import Calibrated, calibration_file, load_calibration, save_calibration, threshold_for

ROWS = (Calibrated(0.1, 3.0, 0.098), Calibrated(0.2, 2.0, 0.195), Calibrated(0.4, -1.0, 0.4))


@pytest.fixture(params=["encoder", "signals.json"])
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path: Path = tmp_path / request.param
    if path.suffix:
        path.write_text("{}")
    else:
        path.mkdir()
    return path


def test_what_was_saved_is_read(router: Path) -> None:
    save_calibration(router, ROWS[::-1])
    assert load_calibration(router) == ROWS


def test_the_file_stands_in_an_encoder_and_beside_a_signals_router(tmp_path: Path) -> None:
    (tmp_path / "dmr-0").mkdir()
    save_calibration(tmp_path / "dmr-0", ROWS[:1])
    assert json.loads((tmp_path / "dmr-0" / "calibration.json").read_text()) == [
        {"budget": 0.1, "threshold": 3.0, "share": 0.098}
    ]
    assert calibration_file(tmp_path / "signals.json") == tmp_path / "signals.calibration.json"


@pytest.mark.parametrize(("budget", "threshold"), [(0.1, 3.0), (0.15, 2.5), (0.2, 2.0), (0.25, 1.25), (0.3, 0.5), (0.4, -1.0)])
def test_between_two_budgets_the_threshold_is_on_a_straight_line(budget: float, threshold: float) -> None:
    assert threshold_for(ROWS, budget) == pytest.approx(threshold)


@pytest.mark.parametrize("budget", [0.0, 0.09, 0.41, 1.5, float("nan")])
def test_outside_of_what_was_calibrated_is_refused(budget: float) -> None:
    with pytest.raises(ConfigError, match=rf"budget {budget:g}: the router is calibrated for 0\.1 to 0\.4"):
        threshold_for(ROWS, budget)


def test_one_budget_is_that_one_alone() -> None:
    assert threshold_for(ROWS[1:2], 0.2) == 2.0
    with pytest.raises(ConfigError, match=r"calibrated for 0\.2;"):
        threshold_for(ROWS[1:2], 0.21)


def test_a_missing_file_says_how_to_get_one(router: Path) -> None:
    with pytest.raises(DataError, match=r"calibration\.json: No such file or directory; calibrate"):
        load_calibration(router)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"budget":0.1}',
        '[{"budget":0.1,"threshold":1.0}]',
        '[{"budget":0.1,"threshold":null,"share":0.1}]',
        '[{"budget":1.1,"threshold":1.0,"share":0.1}]',
        '[{"budget":0.2,"threshold":1.0,"share":0.1},{"budget":0.2,"threshold":1.0,"share":0.1}]',
    ],
)
def test_a_damaged_file_is_named(router: Path, text: str) -> None:
    calibration_file(router).write_text(text)
    with pytest.raises(DataError, match=rf"{router.stem}.*calibration\.json: not a router's calibration"):
        load_calibration(router)
