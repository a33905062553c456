"""Features of the trajectory, the regression over them, and its file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bitroute.episode import Episode, Message, Signals, View
from bitroute.errors import ConfigError, DataError
from bitroute.rollout.player import Player, play
from bitroute.routers import signals
from bitroute.routers.registry import build_router
from bitroute.routers.router import Reads
from bitroute.routers.rules import Random
from bitroute.routers.signals import FEATURES, FeatureState, SignalsModel, SignalsRouter, features, fit_signals, load_signals
from bitroute.routers.views import views_of
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task

PAIR = ("low", "high")
NOTHING = Signals((), (), (), ())


def named(view: View, failures: Sequence[str] = ()) -> dict[str, float]:
    return dict(zip(FEATURES, features(view, "high", failures=failures).tolist(), strict=True))


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(PAIR, 0.5), label=True)
    return list(play(player, [(toy_task(i), 0) for i in range(40)], "random"))


def model(weights: dict[str, float], bias: float = 0.0, **options: object) -> SignalsModel:
    zeros = (0.0,) * len(FEATURES)
    values = {"mean": zeros, "scale": (1.0,) * len(FEATURES), "variants": PAIR, "model": "toy-model"} | options
    return SignalsModel(features=FEATURES, weights=tuple(weights.get(f, 0.0) for f in FEATURES), bias=bias, **values)  # type: ignore[arg-type]


def test_the_features_of_an_opening() -> None:
    found = named(View(("You see a desk 1.\n\nYour task is to: find a pen.\nGoal: desk put pen",)))
    assert found["step"] == found["log step"] == found["share of repeated actions"] == found["message seen before"] == 0.0
    assert found["words in message"] == pytest.approx(5 / 50)  # the task's own words are not counted
    assert found["share of new words"] == 1.0
    assert found["goal word in message"] == 0.0  # "pen" is in the task, but not in the room
    assert found["share of goal words in message"] == pytest.approx(1 / 4)
    assert found["last margin"] == 1.0  # nothing known counts as certain


def test_the_features_of_a_later_step() -> None:
    unsure = Signals((-0.7, -0.3), (-0.6, -0.2), (0.5, 0.3), (0.1, 0.6))
    view = View(
        ("a room\nGoal: put pen", "Nothing happens.\nGoal: put pen", "You see a pen 1.\nGoal: put pen"),
        ("open box 1", "open box 1"),
        ("low", "high"),
        (None, unsure),
    )
    found = named(view)
    assert found["step"] == 0.2 and found["log step"] == pytest.approx(np.log(3))
    assert found["goal word in message"] == 1.0
    assert found["last action repeated"] == 1.0 and found["share of repeated actions"] == 0.5
    assert found["last at high"] == 1.0 and found["share at high"] == 0.5
    assert found["last entropy"] == pytest.approx(0.8) == found["mean entropy"]
    assert found["last margin"] == 0.1 and found["last log-probability"] == pytest.approx(-0.8)
    assert found["last action failed"] == 0.0
    failed = View(view.messages[:2], view.actions[:1], ("low",), (None,))
    assert named(failed, ("nothing happens",))["last action failed"] == 1.0 and named(failed)["last action failed"] == 0.0


def test_a_repeated_observation_is_seen() -> None:
    view = View(("a room\nGoal: pen", "a box\nGoal: pen", "a room\nGoal: pen"), ("x", "y"))
    assert named(view)["message seen before"] == 1.0
    assert named(view)["share of new words"] == 0.0


def test_a_message_of_one_line_has_no_goal() -> None:
    found = named(View(("hello there",)))
    assert found["words in message"] == pytest.approx(2 / 50)
    assert found["share of goal words in message"] == 0.0


@pytest.mark.parametrize(
    ("opening", "reminded"),
    [
        ("A room.\nYour task: put the pen away.\nGoal: put pen", True),
        ("Goal: put pen", True),  # an opening of one line may be the goal itself
        ("A room.\nGoal: put cup", False),
        ("A room.\nMy Goal: put pen", False),  # the whole line must be the same
        ("Goal: put pen\nA room.", False),
    ],
)
def test_a_last_line_is_the_goal_where_the_opening_ends_with_it(opening: str, reminded: bool) -> None:
    found = named(View((opening, "You see a pen 1.\nGoal: put pen"), ("look",)))
    assert found["goal word in message"] == float(reminded)
    assert found["words in message"] == pytest.approx((5 if reminded else 8) / 50)


def test_the_last_line_of_an_ordinary_message_is_text() -> None:
    found = named(View(("Sort these files.", "3 files read\nerror: no such directory"), ("ls",)))
    assert found["last action failed"] == 1.0 and found["words in message"] == pytest.approx(7 / 50)
    assert found["share of goal words in message"] == 0.0


def test_of_a_long_message_the_end_is_read() -> None:
    short = "error " * 10 + "\nGoal: desk"
    long = "word " * (signals.READ // 5) + short
    found = named(View((long, "x\ny", long), ("a", "b")))
    assert found["share of goal words in message"] == 0.0  # the goal is "Goal: desk", no word of which stands elsewhere
    assert found["words in message"] <= signals.READ / 4 / 50
    assert found["last action failed"] == 1.0 and found["message seen before"] == 1.0


def test_features_are_alike_from_an_environment_and_from_messages(episodes: list[Episode]) -> None:
    for episode in episodes[:10]:
        for step, view in enumerate(views_of(episode)):
            history = [Message("user", view.messages[0])]
            for action, message in zip(view.actions, view.messages[1:], strict=True):
                history += [Message("assistant", action), Message("user", message)]
            variants = [s.decision.variant for s in episode.steps[:step]]
            rebuilt = View.from_messages(history, variants, [s.signals for s in episode.steps[:step]])
            assert np.array_equal(features(view, "high"), features(rebuilt, "high"))


def test_a_trail_changes_the_cost_of_features_and_not_their_values(episodes: list[Episode]) -> None:
    trail = FeatureState()
    views = [view for episode in episodes[:6] for view in (*views_of(episode), *views_of(episode)[1::2])]  # on, and back again
    for view in views:
        assert np.array_equal(features(view, "high", trail), features(view, "high"))
    assert 0 < trail.nbytes < 20_000


def test_a_trail_reads_each_earlier_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    words = signals._words
    monkeypatch.setattr(signals, "_words", lambda text: (read.append(text), words(text))[1])
    trail, messages = FeatureState(), ("one a", "two b", "three c", "four d")
    for count in (1, 2, 3, 3, 4):
        trail.earlier(messages[:count])
    assert read == ["one a", "two b", "three c"]
    assert trail.earlier(messages) == {"one", "a", "two", "b", "three", "c"}


def test_a_step_reads_its_newest_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    words = signals._words
    monkeypatch.setattr(signals, "_words", lambda text: (read.append(text), words(text))[1])
    state, messages = FeatureState(), ("one a\nGoal: b", "two b\nGoal: b", "three c\nGoal: b")
    views = [View(messages[: t + 1], ("x",) * t, ("low",) * t, (None,) * t) for t in range(3)]
    kept = [features(view, "high", state) for view in views]
    assert not [text for text in read if text in messages]
    assert all(np.array_equal(row, features(view, "high")) for row, view in zip(kept, views, strict=True))


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
