"""Labels along recorded trajectories against those that playing takes, and the way from traces to routers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bitroute.cli.main import main
from bitroute.episode import Decision, Episode, Step, Usage, View
from bitroute.errors import ConfigError, DataError
from bitroute.gateway.routing.loading import load_router
from bitroute.nn.tokenizer import Tokenizer, train_tokenizer
from bitroute.routers.encoder.dataset import TextReader, read_episode
from bitroute.routers.encoder.router import load_encoder
from bitroute.routers.features import FEATURES
from bitroute.routers.views import views_of
from bitroute.store.traces import TraceWriter, read_traces
from bitroute.training.recorded import high_of, router_tokenizer, split_episodes, train_on_labels, training_set
from support.chat import write_tokenizer
from support.checkpoint import write_checkpoint
from support.episodes import bare, played
from support.toy import toy_tokenizer

TOKENIZER = toy_tokenizer()


def test_a_step_is_learned_from_once() -> None:
    first, second = played(2)
    branch = replace(first, task_id="branch", steps=(*first.steps[:4], *second.steps[4:]))
    reader = TextReader(TOKENIZER)
    found = training_set(reader, [first, branch, first], "high", 4096)
    assert [len(row.divergences) for row in found.labelled] == [6, 2]
    whole, part = read_episode(reader, branch, "high"), found.labelled[1].trajectory
    assert part.tokens == whole.tokens
    assert part.decisions == whole.decisions[4:]
    assert part.signals == whole.signals[4:]
    assert part.actions == [at for at in whole.actions if at > whole.decisions[4]]
    assert found.rows.shape == (8, len(FEATURES))
    assert found.divergences.tolist() == [d for row in found.labelled for d in row.divergences]


def test_what_a_router_has_no_room_to_read_is_not_learned_from() -> None:
    (episode,), reader = played(1), TextReader(TOKENIZER)
    whole = read_episode(reader, episode, "high")
    room = whole.decisions[3] + 1  # the fourth message ends here; its action would not be read
    (found,) = training_set(reader, [episode], "high", room).labelled
    assert found.trajectory.tokens == whole.tokens[:room]
    assert found.trajectory.decisions == whole.decisions[:4]
    assert found.trajectory.actions == [at for at in whole.actions if at < room]
    assert len(found.divergences) == len(found.trajectory.signals) == 4
    assert training_set(reader, [episode], "high", 3).labelled == []


def test_episodes_that_begin_alike_are_held_out_together() -> None:
    episodes = [replace(e, task_id=f"{e.task_id}-{n}") for e in played(40) for n in range(2)]
    openings = [{e.steps[0].message for e in part} for part in split_episodes(episodes)]
    alike = len(set.union(*openings)) < 10
    assert alike  # the toy has six openings: its episodes are told apart by name
    own = [
        replace(e, steps=(replace(e.steps[0], message=f"{e.task_id[:-2]} {e.steps[0].message}"), *e.steps[1:]))
        for e in episodes
    ]
    first, second = ({e.steps[0].message for e in part} for part in split_episodes(own))
    assert first.isdisjoint(second)
    assert 0.1 < len(second) / 40 < 0.35
    with pytest.raises(DataError, match="too few"):
        split_episodes(episodes[:1])


def test_the_high_variant_shows_or_must_be_named() -> None:
    (episode,) = played(1, 1.0)
    assert high_of([episode], None) == "high"
    named = replace(episode, steps=tuple(replace(s, decision=Decision("w16")) for s in episode.steps))
    assert high_of([named], "w16") == "w16"
    with pytest.raises(ConfigError, match="hold the variants w16: say which is the high one by --high"):
        high_of([named], None)
    with pytest.raises(ConfigError, match=r"--high w61: no step of the traces was answered by it; they hold the variants w16$"):
        high_of([named], "w61")


def test_a_router_takes_over_small_tokenizers_of_ours_alone(tmp_path: Path, model: Path) -> None:
    assert router_tokenizer(model, []).vocab_size == Tokenizer.load(model).vocab_size == 766
    episodes = [conversation(number) for number in range(3)]
    for text in (None, "{}", (write_tokenizer(tmp_path / "chatml", "chatml") / "tokenizer.json").read_text()):
        if text is not None:
            (tmp_path / "tokenizer.json").write_text(text)
        made = router_tokenizer(tmp_path, episodes)
        assert len(made.encode(" kitchen")) == 1
        assert made.decode(made.encode("You see a κitchen.")) == "You see a κitchen."
        assert router_tokenizer(tmp_path, episodes[::-1]).encode("go to drawer") == made.encode("go to drawer")
    words = " ".join(f"word{chr(97 + a)}{chr(97 + b)}{c}" for a in range(26) for b in range(26) for c in "xyz")
    big = train_tokenizer([words], 3000)
    big.save(tmp_path)
    assert big.vocab_size > 2048
    assert router_tokenizer(tmp_path, episodes).vocab_size < 2048


@pytest.mark.slow
def test_both_routers_find_the_hard_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = train_on_labels(played(64), TOKENIZER, "high", ("low", "high"), "toy-model", tmp_path, quantiles=(0.7,))
    assert found["captured"] > 0.8  # a third of the steps is hard, more than the budget takes
    router = load_encoder(tmp_path / "kl-st", model="toy-model", variants=("low", "high"))
    fresh = played(8, first=500)
    decided = []
    for episode in fresh:
        state = router.begin(0)
        for t in range(len(episode.steps)):
            view = _view(episode, t)
            decided.append((router.decide([view], [state])[0].variant == "high", episode.steps[t].message.startswith("hard")))
    assert np.mean([said == is_hard for said, is_hard in decided]) > 0.9
    assert (tmp_path / "signals.json").exists()
    assert (tmp_path / "signals.calibration.json").exists()


def _view(episode: Episode, step: int) -> View:
    return views_of(bare(episode))[step]


# The command


def conversation(number: int, steps: int = 4) -> Episode:
    words = ["kitchen", "drawer", "lamp", "apple", "shelf", "mug"]
    told = [f"You see a {words[(number * 7 + t * 5) % 6]} {number} {t}." for t in range(steps)]
    did = [f"go to {words[(number + t) % 6]}" for t in range(steps)]
    return Episode(
        f"e{number}",
        "unknown",
        "gateway",
        "always(high)@1",
        0,
        tuple(Step(m, a, Decision("high"), None, Usage("high")) for m, a in zip(told, did, strict=True)),
        success=True,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def test_the_command_goes_from_traces_to_a_router_that_the_gateway_loads(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces, out = tmp_path / "traces.jsonl", tmp_path / "run"
    with TraceWriter(traces) as writer:
        for number in range(12):
            writer.write(conversation(number))
    command = ["train", "router", "--traces", str(traces), "--model", str(model), "--low", "w2g128-rtn", "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("48 steps of 12 episodes labelled; ")
    assert all(
        s.sensitivity and s.sensitivity.kl_sum > 0 for e in read_traces(out / "traces" / "labels.jsonl") for s in e.steps
    )
    for name in ("kl-st", "signals.json"):
        loaded = load_router(str(out / "routers" / name), ("low", "high"))
        assert [row.budget for row in loaded.calibration] == [0.1, 0.2, 0.3, 0.5]
    weights = (out / "routers" / "kl-st" / "network.safetensors").read_bytes()
    assert main(command) == 0  # nothing is labelled again, and the result is the same
    assert (out / "routers" / "kl-st" / "network.safetensors").read_bytes() == weights


def test_wrong_input_is_one_line(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traces = tmp_path / "traces.jsonl"
    with TraceWriter(traces) as writer:
        writer.write(conversation(0))
    (tmp_path / "text").write_text("nothing\n")
    given = ["--model", str(model), "--low", "w2g128-rtn", "--out", str(tmp_path / "run")]
    for arguments, code, message in [
        (["--traces", str(tmp_path / "none"), *given], 3, "cannot read"),
        (["--traces", str(tmp_path / "text"), *given], 3, "not a stored episode"),
        (["--traces", str(traces), "--out", str(tmp_path / "run")], 2, "needs --model and --low"),
        (["--traces", str(traces), "--config", "c.json", *given], 2, "use one of them"),
        (["--low", "w2g128-rtn"], 2, "go with --traces"),
        (["--traces", str(traces), *given[:2], "--low", "w9", *given[4:]], 2, "w9"),
        (["--traces", str(traces), *given], 3, "too few to hold some out"),
        (["--traces", str(traces), *given, "--high", "bf1"], 2, "--high bf1: no step of the traces was answered by it"),
        (["--traces", str(traces), *given, "--data", str(tmp_path)], 2, "--data and --cores go with what is played"),
        (["--traces", str(traces), *given, "--cores", "1"], 2, "--data and --cores go with what is played"),
        (["--traces", str(traces), "--model", str(tmp_path), *given[2:]], 3, "tokenizer.json"),
    ]:
        assert main(["train", "router", *arguments]) == code
        assert message in capsys.readouterr().err
