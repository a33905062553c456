"""Any suite goes through the whole method: here the toy, by the commands that people type, from a model to a report."""

import json
from pathlib import Path

import pytest
import torch

from bitroute.cli.main import main
from bitroute.nn.decoder import DecoderConfig
from bitroute.store.traces import read_traces
from bitroute.training.language_model import LanguageModelRecipe, train_language_model
from support.toy import toy_tokenizer
from support.toy_suite import ToySuite

SUITE = "support.toy_suite:ToySuite"
CONFIG = {
    "suite": SUITE,
    "backbone": None,
    "seeds": [0],
    "label_tasks": 32,
    "holdout_tasks": 16,
    "calibration_tasks": 24,
    "quantiles": [0.6],
    "splits": {"performance": 32},
    "supervised": {"epochs": 2},
    "branches": 40,
    "grpo": {"iterations": 2, "tasks": 4, "group": 4, "screen": 24, "outcome": "score"},
    "probe": False,
    "baselines": ["random", "signals", "oracle"],
    "ablations": [],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can play the toy, trained for seconds on the suite's demonstrations."""
    directory = tmp_path_factory.mktemp("toy") / "model"
    suite, tokenizer = ToySuite(), toy_tokenizer()
    tokenizer.save(directory)
    shape = DecoderConfig(tokenizer.vocab_size, 32, 64, 1, 2, 1, 16)
    source = suite.demonstrations(suite.agent(tokenizer), seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = LanguageModelRecipe(tokens=10_500, batch_tokens=1024, pool=32)
    train_language_model(shape, recipe, source, directory, end_token=tokenizer.end, pad_token=tokenizer.pad)
    torch.set_num_threads(threads)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("free", [False, True])
def test_from_labels_to_the_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], free: bool) -> None:
    config, out = tmp_path / "toy.json", tmp_path / "run"
    config.write_text(json.dumps(CONFIG | {"model": str(model), "free": free}))
    assert main(["train", "router", "--config", str(config), "--out", str(out), "--cores", "1"]) == 0
    assert main(["evaluate", str(out), "--cores", "1"]) == 0
    assert "dmr@0.4" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    (evaluation,) = report["evaluations"]
    rows = {row["policy"]: row for row in evaluation["policies"] if row["kind"] == "all"}
    assert evaluation["environment"] == "Toy" and report["meta"]["title"] == "bitroute on Toy"
    assert set(rows) == {"all-high", "all-low", "all-w2g32-gptq", "random@0.4", "signals@0.4", "oracle@0.4", "dmr@0.4"}
    assert {row["n"] for row in rows.values()} == {32}
    assert rows["all-high"]["success"] >= rows["all-low"]["success"]
    episodes = list(read_traces(out / "traces" / "performance" / "all-high-0.jsonl"))
    assert [e.task_id for e in episodes] == [f"performance-{i}" for i in range(32)]
    assert all(e.score == float(e.success) for e in episodes)
    played = [s for path in (out / "traces").rglob("*.jsonl") for e in read_traces(path) for s in e.steps]
    choices = [len(s.signals.entropy) for s in played]
    assert set(choices) == {1} if not free else min(choices) > 1  # free: every token is one, wherever it was played
    labels = [s.sensitivity for s in played if s.sensitivity]
    assert len(labels) > 32 and all(label.kl_sum == label.raw_sum for label in labels) is free
    assert json.loads((out / "config.json").read_text())["low"] == ToySuite.defaults.low


@pytest.mark.slow
def test_play_and_sensitivity_take_the_suites_splits(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ["--suite", SUITE, "--model", str(model), "--tasks", "4", "--cores", "1"]
    assert main(["play", *common, "--out", "played"]) == 0
    assert "always:high on rehearsal: success " in capsys.readouterr().out
    assert main(["sensitivity", *common, "--out", "labelled"]) == 0
    assert "press" in capsys.readouterr().out
    assert {e.split for e in read_traces(tmp_path / "labelled" / "traces.jsonl")} == {"practice"}


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("nowhere", "unknown suite 'nowhere'; want one of alfworld, alfworld-2, alfworld-3, or module:attribute"),
        ("support.nowhere:Suite", "suite 'support.nowhere:Suite' cannot be imported (ModuleNotFoundError: No module"),
        ("support.toy_suite:Nothing", "suite 'support.toy_suite:Nothing' cannot be imported (AttributeError: module"),
    ],
)
def test_a_suite_that_is_not_there_is_named(suite: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", "--suite", suite]) == 2
    assert capsys.readouterr().err.startswith(f"bitroute: {message}")


def test_a_suite_without_demonstrations_trains_no_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "train",
        "lm",
        "--suite",
        "support.toy_suite:SilentToySuite",
        "--tokenizer",
        "alfworld-agent",
        "--out",
        str(tmp_path / "lm"),
    ]
    assert main(command) == 4
    assert "suite toy has no demonstrations" in capsys.readouterr().err
    assert not (tmp_path / "lm").exists()
