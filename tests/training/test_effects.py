"""A signals router from drawn choices without text: the effect it learns is the simulated one."""

import random
from pathlib import Path

import numpy as np
import pytest

from bitroute.cli.main import main
from bitroute.errors import DataError
from bitroute.gateway.routing.loading import load_router
from bitroute.routers.features import FEATURES
from bitroute.store.features import FeatureRow, feature_line
from bitroute.training.effects import fit_effect, train_effects


def simulated(count: int, seed: int = 0, high: float = 0.3) -> list[FeatureRow]:
    """Of two features the first makes high helpful, the second makes success likely whoever serves."""
    rng, rows = random.Random(seed), []
    for number in range(count):
        x, other = rng.random(), rng.random()
        served = rng.random() < high
        success = rng.random() < 0.2 + 0.4 * other + (0.4 * x if served else 0.1)
        features = [0.0] * len(FEATURES)
        features[0], features[3] = x, other
        variant = "high" if served else "low"
        chance = high if served else 1 - high
        told = (str(number), 0, "random@1", "main", ("low", "high"), tuple(features), variant, variant, variant)
        rows.append(FeatureRow(*told, chance, flipped=False, score=None, cost=1.0, success=success, reward=None))
    return rows


def test_the_score_is_the_effect_of_high() -> None:
    model = fit_effect(simulated(20_000))
    weights = np.array(model.weights) / np.array(model.scale)
    assert weights[0] == pytest.approx(0.4, abs=0.07)  # the effect is 0.4 x - 0.1
    assert weights[3] == pytest.approx(0.0, abs=0.07)
    assert model.bias - weights @ np.array(model.mean) == pytest.approx(-0.1, abs=0.07)
    assert [w for i, w in enumerate(model.weights) if i not in (0, 3)] == [0.0] * (len(FEATURES) - 2)


def test_the_command_writes_a_router_that_the_gateway_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "f.jsonl"
    unknown = [FeatureRow(*(*_values(row)[:-2], None, None)) for row in simulated(10, 1)]
    table.write_bytes(b"".join(map(feature_line, [*simulated(4000), *unknown])))
    assert main(["train", "router", "--traces", str(table), "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith("fitted on 4000 choices drawn at random, ")
    loaded = load_router(str(tmp_path / "run" / "routers" / "signals.json"), ("a", "b"))
    assert [row.budget for row in loaded.calibration] == [0.1, 0.2, 0.3, 0.5]
    assert loaded.calibration[2].share == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("flag", ["--model", "--low", "--high", "--tools"])
def test_what_labels_need_is_refused_for_features(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    table = tmp_path / "f.jsonl"
    table.write_bytes(b"".join(map(feature_line, simulated(10))))
    assert main(["train", "router", "--traces", str(table), flag, "x", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error == f"bitroute: --model, --low, --high and --tools are for labels, {table} holds features: leave them out\n"


def _values(row: FeatureRow) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in row.__struct_fields__)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (simulated(400), "of the choices that were drawn at random and have an outcome"),
        ([], "0 are high, 0 low"),
    ],
)
def test_too_few_drawn_choices_are_refused(tmp_path: Path, rows: list[FeatureRow], message: str) -> None:
    table = tmp_path / "f.jsonl"
    table.write_bytes(b"".join(map(feature_line, rows)))
    with pytest.raises(DataError, match=message):
        train_effects(table, tmp_path / "signals.json")
    assert not (tmp_path / "signals.json").exists()
