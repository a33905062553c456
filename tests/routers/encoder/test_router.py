"""The trained router: reading on equals reading anew, from wherever the view comes; its file; its memory."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitroute.envs.models import find_router
from bitroute.episode import Episode, Message, Signals, View
from bitroute.errors import ConfigError, DataError
from bitroute.nn.decoder import DecoderConfig
from bitroute.rollout.player import Player, play
from bitroute.routers.encoder.dataset import TextReader, read_episode, trajectory_logits
from bitroute.routers.encoder.network import EncoderNetwork
from bitroute.routers.encoder.router import EncoderRouter, EpisodeReading, load_encoder
from bitroute.routers.features import FEATURES
from bitroute.routers.registry import build_router
from bitroute.routers.router import Probe
from bitroute.routers.threshold import Scored
from bitroute.routers.views import views_of
from support.engine import FakeEngine
from support.toy import ToyAgent, ToyEnvironment, toy_task, toy_tokenizer

PAIR = ("low", "high")
TOKENIZER = toy_tokenizer()


def make_router(
    positions: int = 512,
    use_signals: bool = True,
    threshold: float = 0.0,
    *,
    use_probe: bool = False,
    features: Sequence[str] = FEATURES,
) -> EncoderRouter:
    """A small network with random weights large enough to matter."""
    torch.manual_seed(0)
    config = DecoderConfig(TOKENIZER.vocab_size, 32, 64, 2, 2, 1, 16, max_position_embeddings=positions)
    network = EncoderNetwork(config, use_signals=use_signals, use_probe=use_probe, features=features)
    torch.nn.init.normal_(network.backbone.model.embed_tokens.weight, std=1.0)
    for layer in (network.signals, network.rule, *([network.inform] if features else [])):
        torch.nn.init.normal_(layer.weight, std=0.5)
    return EncoderRouter(network, TOKENIZER, PAIR, threshold, model="toy-model", failures=("hard",))


def scores(router: EncoderRouter, views: Sequence[View]) -> list[float]:
    """Scores of unrelated views, each read from its beginning."""
    return router.scores(views, [router.begin(0) for _ in views])


@pytest.mark.parametrize("use_signals", [True, False])
def test_reading_on_equals_reading_the_whole_trajectory(episodes: list[Episode], use_signals: bool) -> None:
    router = make_router(use_signals=use_signals)
    states = [router.begin(i) for i in range(len(episodes))]
    incremental: list[list[float]] = [[] for _ in episodes]
    for step in range(8):
        rows = [i for i, e in enumerate(episodes) if step < len(e.steps)]
        views = [views_of(episodes[i])[step] for i in rows]
        for i, score in zip(rows, router.scores(views, [states[i] for i in rows]), strict=True):
            incremental[i].append(score)
    reader = TextReader(TOKENIZER, failures=("hard",))
    with torch.inference_mode():
        whole, _ = trajectory_logits(router.network, [read_episode(reader, e, "high") for e in episodes])
    flat = [score for row in incremental for score in row]
    assert flat == pytest.approx(whole.tolist(), abs=1e-4)
    assert max(flat) - min(flat) > 0.01  # the scores are not all alike


def test_only_new_tokens_are_read(episodes: list[Episode], monkeypatch: pytest.MonkeyPatch) -> None:
    router = make_router()
    read: list[int] = []
    forward = EncoderNetwork.score
    monkeypatch.setattr(
        EncoderNetwork, "score", lambda self, hidden, *beside: (read.append(len(hidden)), forward(self, hidden, *beside))[1]
    )
    original = router.network.backbone.forward

    def counted(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        read.append(len(tokens))
        return original(tokens, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(router.network.backbone, "forward", counted)
    state = router.begin(0)
    lengths = []
    for view in views_of(episodes[3]):
        read.clear()
        router.scores([view], [state])
        lengths.append(read[0])
    trajectory = read_episode(TextReader(TOKENIZER), episodes[3], "high")
    ends = [0, *(d + 1 for d in trajectory.decisions)]
    assert lengths == [b - a for a, b in pairwise(ends)]


def test_views_from_messages_score_as_in_the_rollout(episodes: list[Episode]) -> None:
    router = make_router()
    for episode in episodes[:4]:
        steps = episode.steps
        for t, view in enumerate(views_of(episode)):
            history = [Message("system", steps[0].message.split("\n")[0]), Message("user", steps[0].message.split("\n")[1])]
            for before, after in pairwise(steps[: t + 1]):
                history += [Message("assistant", before.action), Message("user", after.message)]
            rebuilt = View.from_messages(history, [s.decision.variant for s in steps[:t]], [s.signals for s in steps[:t]])
            assert scores(router, [rebuilt]) == scores(router, [view])


def test_a_router_that_reads_text_alone_ignores_the_signals(episodes: list[Episode]) -> None:
    view = views_of(episodes[2])[2]
    blind = View(view.messages, view.actions, view.variants, (None,) * len(view.actions))
    text, both = make_router(use_signals=False), make_router(use_signals=True)
    assert scores(text, [view]) == scores(text, [blind])
    assert abs(scores(both, [view])[0] - scores(both, [blind])[0]) > 1e-3
    other = View(view.messages, view.actions, tuple(PAIR[v == PAIR[0]] for v in view.variants), blind.signals)
    assert abs(scores(text, [other])[0] - scores(text, [blind])[0]) > 1e-3  # what it decided before is no secret


def test_batched_scores_equal_single_ones(episodes: list[Episode]) -> None:
    router = make_router()
    views = [v for e in episodes for v in views_of(e)]
    single = [scores(router, [v])[0] for v in views]
    assert scores(router, views) == pytest.approx(single, abs=1e-4)


def test_a_view_that_does_not_continue_what_was_read_is_read_anew(episodes: list[Episode]) -> None:
    router = make_router()
    one, other = views_of(episodes[0]), views_of(episodes[1])
    state = router.begin(0)
    for view in (one[1], one[1], one[0], one[2], other[1], other[2], one[2]):
        assert router.scores([view], [state]) == pytest.approx(scores(router, [view]), abs=1e-5)
    edited = View(one[2].messages, ("press blue", "press blue"), one[2].variants, one[2].signals)
    assert router.scores([edited], [state]) == pytest.approx(scores(router, [edited]), abs=1e-5)


@pytest.mark.slow
def test_the_memory_of_a_rollout_is_bounded_by_its_batch() -> None:
    alive: list[int] = []

    class Counting(EncoderRouter):
        def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
            alive.append(sum(type(thing) is EpisodeReading for thing in gc.get_objects()))
            return super().scores(views, states)

    router = make_router()
    counting = Counting(router.network, TOKENIZER, PAIR, model="toy-model")
    gc.collect()
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), counting)
    episodes = list(play(player, [(toy_task(i, steps=1 + i % 4), 0) for i in range(40)], "encoder", batch=5))
    assert len(episodes) == 40
    assert max(alive) == 5  # what an ended episode read is forgotten before the next one starts


def test_in_a_rollout_it_plays_what_it_would_play_from_stored_views() -> None:
    router = make_router(threshold=0.05)
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), router)
    for episode in play(player, [(toy_task(i), 0) for i in range(6)], "encoder"):
        stored = scores(router, views_of(episode))
        played = [s.decision.score for s in episode.steps]
        assert played == pytest.approx(stored, abs=1e-4)
        assert [s.decision.variant for s in episode.steps] == [PAIR[score > 0.05] for score in stored]


def test_an_episode_beyond_its_positions_is_refused() -> None:
    router = make_router(positions=16)
    with pytest.raises(ConfigError, match="exceeds the router's 16 positions"):
        scores(router, [View(("easy red " * 12,))])


def test_saved_and_loaded_it_scores_identically(episodes: list[Episode], tmp_path: Path) -> None:
    router = make_router(threshold=0.25)
    router.save(tmp_path / "router")
    loaded = load_encoder(tmp_path / "router", model="toy-model", variants=PAIR)
    views = [v for e in episodes for v in views_of(e)]
    assert scores(loaded, views) == scores(router, views)
    assert loaded.thresholds == (0.25,)
    assert build_router(str(tmp_path / "router"), PAIR, "toy-model").name == "encoder"
    assert sorted(p.name for p in (tmp_path / "router").iterdir()) == [
        "network.safetensors",
        "router.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_router_of_another_model_or_ladder_is_refused_with_one_line(tmp_path: Path) -> None:
    make_router().save(tmp_path)
    with pytest.raises(DataError, match=r"router\.json: was trained for model toy-model, this is another-mode; train it again"):
        load_encoder(tmp_path, model="another-model", variants=PAIR)
    with pytest.raises(DataError, match=r"router\.json: was trained for the variants low, high, not w4, high"):
        load_encoder(tmp_path, model="toy-model", variants=("w4", "high"))


def damage(directory: Path, what: str) -> None:
    match what:
        case "truncated network":
            path = directory / "network.safetensors"
            path.write_bytes(path.read_bytes()[:-100])
        case "truncated json":
            path = directory / "router.json"
            path.write_text(path.read_text()[:40])
        case "another shape":
            path = directory / "router.json"
            path.write_text(path.read_text().replace('"intermediate_size": 64', '"intermediate_size": 96'))
        case "missing tensor" | "narrow tensor":
            state = load_file(directory / "network.safetensors")
            narrow = state.pop("signals.weight")[:, :3].contiguous()
            save_file(
                state | ({"signals.weight": narrow} if what == "narrow tensor" else {}), directory / "network.safetensors"
            )
        case "no rule":
            state = load_file(directory / "network.safetensors")
            del state["rule.weight"]
            save_file(state, directory / "network.safetensors")
        case "missing field":
            path = directory / "router.json"
            meta = json.loads(path.read_text())
            del meta["variants"]
            path.write_text(json.dumps(meta))
        case _:
            (directory / what).unlink()


@pytest.mark.parametrize(
    "what",
    [
        "truncated network",
        "truncated json",
        "another shape",
        "missing tensor",
        "narrow tensor",
        "no rule",
        "missing field",
        "router.json",
        "network.safetensors",
        "tokenizer.json",
    ],
)
def test_a_damaged_router_is_refused_with_one_line(tmp_path: Path, what: str) -> None:
    make_router().save(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(DataError, match=tmp_path.name) as caught:
        load_encoder(tmp_path, model="toy-model", variants=PAIR)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("with_features", [True, False])
def test_a_router_of_an_earlier_version_scores_as_it_did(tmp_path: Path, with_features: bool) -> None:
    """It knew 12 signal features, of which none reached the score directly; without features it had no rule at all."""
    router = make_router(use_probe=True, features=FEATURES if with_features else ())
    count = len(router.network.features)
    with torch.no_grad():
        router.network.rule.weight[:, count:] = 0.0
        router.network.signals.weight[:, 12:] = 0.0
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), router)
    played = list(play(player, [(toy_task(i), 0) for i in range(4)], "encoder"))
    wanted = [s.decision.score for e in played for s in e.steps]
    router.save(tmp_path)
    state = load_file(tmp_path / "network.safetensors")
    state["signals.weight"] = state["signals.weight"][:, :12].contiguous()
    for name in ("rule.weight", "feature_mean", "feature_scale"):
        known = state.pop(name)[..., :count].contiguous()
        if with_features:
            state[name] = known
    save_file(state, tmp_path / "network.safetensors")
    loaded = load_encoder(tmp_path, model="toy-model", variants=PAIR)
    assert scores(loaded, [view for e in played for view in views_of(e)]) == pytest.approx(wanted, abs=1e-5)


def test_the_bundled_router_scores_as_when_it_was_trained() -> None:
    router = load_encoder(Path(find_router("alfworld-router-trained")), variants=PAIR)
    opening = "You are in the middle of a room.\n\nYour task is to: put a mug in drawer.\nGoal: put mug in drawer"
    views = [View((opening,)), View((opening, "On the desk 1, you see a mug 1."), ("go to desk 1",), ("low",), (None,))]
    assert scores(router, views) == pytest.approx([-0.02051, -0.09453], abs=1e-4)


def test_with_a_probe_it_also_reads_what_low_would_do(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = DecoderConfig(TOKENIZER.vocab_size, 32, 64, 1, 2, 1, 16)
    network = EncoderNetwork(config, use_signals=False, use_probe=True)
    torch.nn.init.normal_(network.signals.weight, std=0.5)
    router = EncoderRouter(network, TOKENIZER, PAIR, model="toy-model")
    assert router.probes == {Probe.LOW_GENERATION}
    router.save(tmp_path)
    assert load_encoder(tmp_path, model="toy-model", variants=PAIR).probes == {Probe.LOW_GENERATION}
    player = Player(ToyEnvironment, ToyAgent(), FakeEngine(), router, label=True)
    for episode in play(player, [(toy_task(i), 0) for i in range(4)], "encoder"):
        # What was played with the probe, and what the label says that a probe would have seen, score the same.
        unprobed = dataclasses.replace(episode, steps=tuple(dataclasses.replace(s, probe=None) for s in episode.steps))
        assert [s.decision.score for s in episode.steps] == pytest.approx(scores(router, views_of(unprobed)), abs=1e-4)
        easy, hard = ([s.decision.score for s in episode.steps if s.message.startswith(w)] for w in ("easy", "hard"))
        assert not easy or not hard or abs(easy[0] - hard[0]) > 1e-3  # type: ignore[operator]


def test_signals_missing_from_a_server_are_zeros() -> None:
    known, none = Signals((-1.0,), (-0.5,), (0.6,), (0.3,)), None
    views = [View(("a", "b"), ("x",), ("low",), (s,)) for s in (known, none)]
    router = make_router()
    one, two = scores(router, views)
    assert one != two
