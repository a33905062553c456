"""The regression over features of the trajectory, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bitroute.episode import Episode, Signals, View
from bitroute.errors import ConfigError, DataError
from bitroute.rollout.player import Player, play
from bitroute.routers.features import FEATURES, features
from bitroute.routers.registry import build_router
from bitroute.routers.router import Reads
from bitroute.routers.rules import Random
from bitroute.routers.signals import SignalsModel, SignalsRouter, fit_signals, load_signals
from bitroute.routers.views import views_of
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task

PAIR = ("low", "high")
NOTHING = Signals((), (), (), ())


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(PAIR, 0.5), label=True)
    return list(play(player, [(toy_task(i), 0) for i in range(40)], "random"))


def model(weights: dict[str, float], bias: float = 0.0, **options: object) -> SignalsModel:
    zeros = (0.0,) * len(FEATURES)
    values = {"mean": zeros, "scale": (1.0,) * len(FEATURES), "variants": PAIR, "model": "toy-model"} | options
    return SignalsModel(features=FEATURES, weights=tuple(weights.get(f, 0.0) for f in FEATURES), bias=bias, **values)  # type: ignore[arg-type]


def test_a_fit_recovers_the_weight_that_separates() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, len(FEATURES))) * 3 + 1
    index = FEATURES.index("last entropy")
    logits = 2.0 * (rows[:, index] - 1) / 3  # two per standard deviation
    labels = random.random(4000) < 1 / (1 + np.exp(-logits))
    fitted = fit_signals(rows, labels, PAIR, "toy-model", ridge=0.0)
    weights = np.array(fitted.weights)
    assert weights[index] == pytest.approx(2.0, abs=0.2)
    assert np.abs(np.delete(weights, index)).max() < 0.15
    router = SignalsRouter(fitted)
    assert router.thresholds == (0.0,)


def test_the_router_scores_with_the_fitted_logit() -> None:
    router = SignalsRouter(model({"step": 2.0}, bias=-0.5, mean=(0.1,) * len(FEATURES), scale=(0.5,) * len(FEATURES)))
    view = View(("a", "b", "c"), ("x", "y"), ("low", "low"), (NOTHING, NOTHING))
    (decision,) = router.decide([view], [router.begin(0)])
    assert decision.score == pytest.approx(2.0 * (0.2 - 0.1) / 0.5 - 0.5)


def test_a_rare_label_is_weighed_as_much_as_the_common_one() -> None:
    rows = np.zeros((1000, len(FEATURES)))
    labels = np.arange(1000) < 10
    rows[:, 0] = labels
    fitted = fit_signals(rows, labels, PAIR, "m", ridge=1e-3)
    logits = ((rows - fitted.mean) / fitted.scale) @ np.array(fitted.weights) + fitted.bias
    assert logits[:10].min() > 1 and logits[10:].max() < -1
    assert fitted.weights[1:] == (0.0,) * (len(FEATURES) - 1)  # features that never changed


def test_a_view_that_brings_its_features_is_scored_by_them() -> None:
    router = SignalsRouter(model({"step": 1.0, "last action failed": 2.0}))
    view = View(("a room", "It cannot be."), ("x",), ("low",), (None,))
    row = tuple(features(view, "high").tolist())
    blank = View(("", ""), ("",), features=row)
    (first,), (second,) = router.decide([view], [router.begin(0)]), router.decide([blank], [router.begin(0)])
    assert first == second and first.score == pytest.approx(2.1)
    assert router.reads is Reads.FEATURES


def test_the_phrases_of_a_fit_travel_with_it(tmp_path: Path) -> None:
    rows, labels = np.array([[0.0] * len(FEATURES), [1.0] * len(FEATURES)]), [0, 1]
    fitted = fit_signals(rows, labels, PAIR, "toy-model", failures=("no way",))
    SignalsRouter(fitted).save(tmp_path / "signals.json")
    router = load_signals(tmp_path / "signals.json", variants=PAIR)
    assert router.failures == ("no way",)
    told, untold = (View(("a room", text), ("x",), ("low",), (None,)) for text in ("There is no way.", "There is a way."))
    high, low = (router.decide([view], [router.begin(0)])[0].score for view in (told, untold))
    assert high is not None and low is not None and high > low


def test_a_file_that_names_no_phrases_is_read_as_it_was_fitted() -> None:
    path = Path(__file__).parents[1] / "fixtures" / "routers" / "signals-0.1.json"  # as version 0.1 wrote it
    fields = json.loads(path.read_text())
    assert not {"failures", "router"} & set(fields)
    router = build_router(str(path), fields["variants"], fields["model"])
    assert (router.name, router.thresholds, router.failures) == ("signals", (0.5,), ("nothing happens",))
    told, untold = (View(("a room", text), ("x",), ("low",), (None,)) for text in ("Nothing happens.", "Something happens."))
    assert router.decide([told], [router.begin(0)])[0].score != router.decide([untold], [router.begin(0)])[0].score


def test_a_row_of_an_earlier_version_is_scored_where_its_features_suffice() -> None:
    old = SignalsRouter(model({"step": 2.0}, bias=-0.5))
    assert old.score((0.5, *(0.0,) * 15)) == pytest.approx(0.5)
    with pytest.raises(DataError, match=f"a step recorded with 16 features: the router needs {len(FEATURES)}; record anew"):
        SignalsRouter(model({"high steps": 1.0})).score((0.0,) * 16)


@pytest.mark.parametrize("label", [0, 1])
def test_labels_all_alike_cannot_be_fitted(label: int) -> None:
    with pytest.raises(ConfigError, match="nothing to tell apart"):
        fit_signals(np.zeros((5, len(FEATURES))), [label] * 5, PAIR, "m")


def test_it_learns_from_episodes_what_its_features_hold(episodes: list[Episode]) -> None:
    rows = np.array([features(v, "high") for e in episodes for v in views_of(e)[1:]])
    labels = [e.steps[t].signals.entropy[0] > 0.4 for e in episodes for t in range(len(e.steps) - 1)]
    router = SignalsRouter(fit_signals(rows, labels, PAIR, "toy-model"))
    views = [v for e in episodes for v in views_of(e)[1:]]
    chosen = [d.variant == "high" for d in router.decide(views, [router.begin(0)] * len(views))]
    assert chosen == labels


def test_saved_and_loaded_it_scores_the_same_with_its_thresholds(tmp_path: Path) -> None:
    router = SignalsRouter(model({"step": 1.25, "last entropy": -0.3}, bias=0.1), 0.75)
    path = tmp_path / "signals.json"
    router.save(path)
    loaded = load_signals(path, model="toy-model", variants=PAIR)
    view = View(("a", "b"), ("x",), ("low",), (Signals((-1.0,), (-1.0,), (0.5,), (0.2,)),))
    assert loaded.thresholds == (0.75,)
    assert loaded.decide([view], [loaded.begin(0)]) == router.decide([view], [router.begin(0)])
    assert SignalsRouter(loaded.fitted, 2.0).thresholds == (2.0,)
    assert load_signals(path, variants=("w4", "bf16")).variants == ("w4", "bf16")  # by position


def test_a_file_for_other_features_model_or_variants_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signals.json"
    model({}).save(path)
    with pytest.raises(DataError, match=r"signals\.json: was trained for model toy-model, this is another-mode; train"):
        load_signals(path, model="another-model", variants=PAIR)
    with pytest.raises(DataError, match=r"trained for the variants low, high, not w4, high"):
        load_signals(path, model="toy-model", variants=("w4", "high"))
    path.write_text(path.read_text().replace("mean entropy", "median entropy"))
    with pytest.raises(DataError, match="was fitted on other features"):
        load_signals(path, model="toy-model", variants=PAIR)


def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "signals.json"
    model({}).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    for broken in (path, tmp_path / "missing.json"):
        with pytest.raises(DataError, match=f"{broken.name}: not a signals router") as caught:
            load_signals(broken, model="toy-model", variants=PAIR)
        assert "\n" not in str(caught.value)
