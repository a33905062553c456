"""Stage 1 on the toy, whose sensitive steps are known; its measures against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bitroute.episode import Episode
from bitroute.errors import ConfigError
from bitroute.evaluation.ranking import auc
from bitroute.nn.decoder import DecoderConfig
from bitroute.rollout.player import Player, play
from bitroute.routers.encoder.dataset import TextReader, read_episode, trajectory_logits
from bitroute.routers.encoder.network import EncoderNetwork
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.features import FEATURES
from bitroute.routers.rules import Random
from bitroute.routers.signals import fit_balanced, standardised
from bitroute.training.recipes import SupervisedRecipe
from bitroute.training.supervised import (
    LabelledTrajectory,
    begin_with_rule,
    bucketed,
    predict,
    supervised_loss,
    train_supervised,
)
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task, toy_tokenizer

PAIR = ("low", "high")
TOKENIZER = toy_tokenizer()
QUICK = SupervisedRecipe(epochs=3, batch=8, rate=5e-3)


def make_network(seed: int = 0) -> EncoderNetwork:
    torch.manual_seed(seed)
    return EncoderNetwork(DecoderConfig(TOKENIZER.vocab_size, 32, 64, 1, 2, 1, 16), use_signals=False)


def labelled(first: int, count: int) -> tuple[list[Episode], list[LabelledTrajectory]]:
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), Random(PAIR, 0.5), label=True)
    episodes = list(play(player, [(toy_task(i), 0) for i in range(first, first + count)], "random"))
    reader = TextReader(TOKENIZER)
    rows = [
        LabelledTrajectory(read_episode(reader, e, "high"), [s.sensitivity.kl_sum for s in e.steps if s.sensitivity])
        for e in episodes
    ]
    return episodes, rows


@pytest.fixture(scope="module")
def data() -> list[LabelledTrajectory]:
    return labelled(0, 96)[1]


def test_it_finds_the_hard_steps_of_tasks_it_never_saw(data: list[LabelledTrajectory]) -> None:
    network = make_network()
    episodes, held = labelled(1000, 48)
    hard = np.array([s.message.startswith("hard") for e in episodes for s in e.steps])
    before = auc(predict(network, held), hard)
    curve = train_supervised(network, data, held, tau=0.5, recipe=QUICK, budget=float(hard.mean()))
    scores = predict(network, held)
    assert before < 0.9
    assert auc(scores, hard) == 1.0
    assert scores[hard].min() > 0 > scores[~hard].max()
    assert curve[-1]["captured"] == pytest.approx(1.0, abs=0.02)
    assert [row["epoch"] for row in curve] == [0, 1, 2, 3]
    assert curve[-1]["loss"] < 0.6 * curve[1]["loss"]


def test_the_trained_network_routes_the_toy_perfectly(data: list[LabelledTrajectory]) -> None:
    network = make_network()
    train_supervised(network, data, data[:16], tau=0.5, recipe=QUICK, budget=1 / 3)
    router = EncoderRouter(network, TOKENIZER, PAIR, 0.0, model="toy-model")
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), router)
    tasks = {t.id: t for t in (toy_task(i) for i in range(2000, 2040))}
    for episode in play(player, [(t, 0) for t in tasks.values()], "kl-st"):
        assert episode.success
        assert [s.decision.variant == "high" for s in episode.steps] == tasks[episode.task_id].hard


def test_training_is_deterministic(data: list[LabelledTrajectory]) -> None:
    runs = []
    for _ in range(2):
        network = make_network()
        curve = train_supervised(network, data[:24], data[24:32], 0.5, SupervisedRecipe(epochs=2, batch=8), 0.3)
        runs.append((curve, predict(network, data[:8]).tolist()))
    assert runs[0] == runs[1]


def test_the_epoch_that_captures_most_is_kept(data: list[LabelledTrajectory], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of four epochs is made out to be the best one, the rule before them the worst."""
    found = iter([0.1, 0.2, 0.9, 0.4, 0.9])
    states: list[dict[str, torch.Tensor]] = []
    network = make_network()

    def judged(*_: object) -> float:
        states.append({n: t.clone() for n, t in network.state_dict().items()})
        return next(found)

    monkeypatch.setattr("bitroute.training.supervised.captured", judged)
    train_supervised(network, data[:16], data[16:24], 0.5, SupervisedRecipe(epochs=4, batch=8), 0.3)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, states[2][name])
    assert not torch.equal(states[2]["head.0.weight"], states[4]["head.0.weight"])


def test_it_begins_as_the_best_rule_and_stays_it_where_no_epoch_captures_more(
    data: list[LabelledTrajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = EncoderNetwork(make_network().backbone.config, use_signals=True, use_probe=True, features=FEATURES)
    begin_with_rule(network, data, 0.5)
    signals = np.array([row for r in data for row in r.trajectory.signals])
    rows = np.array([row for r in data for row in r.trajectory.features])
    x, _, _ = standardised(np.concatenate([rows, signals], axis=1))
    theta = fit_balanced(np.clip(x, -5, 5), [label for r in data for label in r.labels(0.5)])
    assert network.rule.weight[0].tolist() == pytest.approx(theta[:-1].tolist(), abs=1e-3)
    rule = predict(network, data)
    assert np.corrcoef(rule, x.clip(-5, 5) @ theta[:-1] + theta[-1])[0, 1] > 0.99  # what a new head says comes on top
    found = iter([0.9, 0.2, 0.3])
    monkeypatch.setattr("bitroute.training.supervised.captured", lambda *_: next(found))
    train_supervised(network, data, data[:16], 0.5, SupervisedRecipe(epochs=2, batch=16), 0.3)
    assert predict(network, data) == pytest.approx(rule, abs=1e-5)


@pytest.mark.parametrize(("tau", "share"), [(100.0, "0%"), (-1.0, "100%")])
def test_a_tau_that_tells_nothing_apart_is_refused(data: list[LabelledTrajectory], tau: float, share: str) -> None:
    with pytest.raises(ConfigError, match=f"tau {tau:g}: {share} of the labelled steps"):
        train_supervised(make_network(), data, data, tau, QUICK, 0.3)


def test_the_loss_weighs_both_classes_the_same_and_adds_the_actions(data: list[LabelledTrajectory]) -> None:
    network, rows = make_network(), data[:6]
    labels = np.concatenate([r.divergences for r in rows]) >= 0.5
    share = float(labels.mean())
    weights = (0.5 / (1 - share), 0.5 / share)
    with torch.no_grad():
        logits, hidden = trajectory_logits(network, [r.trajectory for r in rows])
        alone = float(supervised_loss(network, rows, 0.5, weights, 0.0))
        both = float(supervised_loss(network, rows, 0.5, weights, 0.5))
        chances = torch.sigmoid(logits.double()).numpy()
        wanted = -0.5 * np.log(chances[labels]).mean() - 0.5 * np.log(1 - chances[~labels]).mean()
        assert alone == pytest.approx(float(wanted), rel=1e-5)
        tokens = [(r, i) for r in range(len(rows)) for i in rows[r].trajectory.actions]
        losses = [
            float(F.cross_entropy(network.backbone.logits(hidden[r, i - 1]), torch.tensor(rows[r].trajectory.tokens[i])))
            for r, i in tokens
        ]
    assert both - alone == pytest.approx(0.5 * float(np.mean(losses)), rel=1e-4)


def test_a_target_between_counts_for_both_classes_in_parts(data: list[LabelledTrajectory]) -> None:
    network, rows, weights = make_network(), data[:4], (0.7, 1.9)

    def loss(level: float) -> float:
        soft = [replace(r, targets=[level] * len(r.divergences)) for r in rows]
        with torch.no_grad():
            return float(supervised_loss(network, soft, 0.5, weights, 0.0))

    assert loss(0.25) == pytest.approx(0.75 * loss(0.0) + 0.25 * loss(1.0), rel=1e-5)


def test_targets_are_learned_in_place_of_divergences(data: list[LabelledTrajectory]) -> None:
    opposite = [replace(r, targets=[float(d < 0.5) for d in r.divergences]) for r in data]
    network = make_network()
    curve = train_supervised(network, opposite, opposite[:16], 0.5, QUICK, 2 / 3)
    easy = np.concatenate([r.divergences for r in data]) < 0.5
    assert auc(predict(network, data), easy) == 1.0
    assert curve[-1]["captured"] == pytest.approx(1.0, abs=0.03)


def test_predictions_do_not_depend_on_order_or_batch(data: list[LabelledTrajectory]) -> None:
    network = make_network()
    rows = [*data[:5], *labelled(500, 3)[1]]
    scores = predict(network, rows)
    assert len(scores) == sum(len(r.divergences) for r in rows)
    assert predict(network, rows, batch=1) == pytest.approx(scores, abs=1e-5)
    parts = [predict(network, [row]) for row in rows]
    assert np.concatenate(parts) == pytest.approx(scores, abs=1e-5)


def test_buckets_hold_every_episode_once(data: list[LabelledTrajectory]) -> None:
    groups = bucketed(data, 10, np.random.default_rng(0))
    assert sorted(i for g in groups for i in g) == list(range(96))
    assert sorted(map(len, groups)) == [6] + [10] * 9
