"""Fine-tuning: a base that knows one language learns another one by its adapter, and a run that was killed is as if it had not
been."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bitroute.errors import ConfigError, DataError
from bitroute.nn.adapter import Adapter
from bitroute.nn.decoder import Decoder, sequence_logits
from bitroute.nn.lora import LoraShape, attach
from bitroute.nn.weighted import WeightedSequence
from bitroute.training.lora import SAMPLE, LoraRecipe, batches, train_adapter
from support.networks import LLAMA, network

BASE = ("base", "print")
QUICK = LoraRecipe(tokens=600, batch_tokens=64, shape=LoraShape(2, 4.0))
LONG = replace(QUICK, tokens=10_000, rate=0.02, whole=4, shape=LoraShape(8, 16.0))


def language(index: int) -> WeightedSequence:
    """A start token and phrases of three tokens: x of 4..7, then x + 10, then 20 or 21; what is free has little weight."""
    chance = random.Random(index)
    tokens, weights = [1], [0.0]
    for _ in range(chance.randint(2, 4)):
        free = chance.randint(4, 7)
        tokens += [free, free + 10, chance.randint(20, 21)]
        weights += [0.05, 1.0, 1.0]
    return WeightedSequence(tokens, weights)


def base() -> Decoder:
    """A random network whose head can be sure of a token."""
    model = network(0, LLAMA)
    with torch.no_grad():
        model.lm_head.weight.mul_(8)
    return model


def fit(directory: Path, recipe: LoraRecipe = QUICK, source: Any = language, **options: Any) -> Decoder:
    model = base()
    train_adapter(model, options.pop("of", BASE), recipe, source, directory, dtype=torch.float32, **options)
    return model


def state(directory: Path) -> dict[str, torch.Tensor]:
    (path,) = directory.glob("state-*.safetensors")
    return load_file(path)


def test_the_adapter_learns_what_has_a_weight_and_no_other_token_is_likely(tmp_path: Path) -> None:
    model = fit(tmp_path, LONG)
    totals: list[list[float]] = [[], [], []]
    with torch.inference_mode():
        for index in range(10_000, 10_030):
            tokens = torch.tensor([language(index).tokens])
            logprobs = torch.log_softmax(sequence_logits(model, tokens)[0], dim=-1)
            for i in range(1, tokens.shape[1]):
                totals[(i - 1) % 3].append(-float(logprobs[i - 1, tokens[0, i]]))
    _, echo, coin = (sum(t) / len(t) for t in totals)
    assert echo < 0.1
    assert coin == pytest.approx(math.log(2), abs=0.1)
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert rows[-1]["accuracy"] > rows[0]["accuracy"] and rows[-1]["own"] < 0.6 < rows[0]["own"]


def test_the_adapter_on_disk_is_the_trained_one(tmp_path: Path) -> None:
    trained = fit(tmp_path, replace(QUICK, tokens=900), command={"command": "train"})
    adapter = Adapter.load(tmp_path)
    assert (adapter.info.base, adapter.info.fingerprint, adapter.info.shape) == (*BASE, QUICK.shape)
    (phase,) = adapter.info.training["progress"]["phases"]
    assert (phase["command"], phase["begins"], phase["tokens"]) == ("train", 0, 900)
    again = base()
    matrices = attach(again, QUICK.shape, 0)
    with torch.no_grad():
        for name, matrix in matrices.items():
            matrix.copy_(adapter.matrices[name])
    tokens = torch.tensor([language(1).tokens])
    assert (sequence_logits(trained, tokens) - sequence_logits(again, tokens)).abs().max() < 0.1  # bfloat16


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    asked: list[int] = []

    def mortal(index: int) -> WeightedSequence:
        asked.append(index)
        if len(asked) > SAMPLE + 70:  # behind the sample that tells the ids in use
            raise KilledError
        return language(index)

    recipe = replace(QUICK, tokens=1500)
    with pytest.raises(KilledError):
        fit(tmp_path / "killed", recipe, mortal, checkpoint_every=0.0)
    assert 0 < json.loads((tmp_path / "killed" / "progress.json").read_text())["progress"]["tokens"] < 1000
    fit(tmp_path / "killed", recipe)
    fit(tmp_path / "whole", recipe)
    ours, theirs = state(tmp_path / "killed"), state(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    told = [
        [json.loads(line)["tokens"] for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
        for name in ("killed", "whole")
    ]
    assert told[0] == told[1]


def test_a_finished_run_goes_on_with_more_tokens_and_notes_the_phase(tmp_path: Path) -> None:
    fit(tmp_path, command={"command": "first"})
    steps = json.loads((tmp_path / "progress.json").read_text())["progress"]["steps"]
    fit(tmp_path, command={"command": "first"})
    assert json.loads((tmp_path / "progress.json").read_text())["progress"]["steps"] == steps
    fit(tmp_path, replace(QUICK, tokens=900), command={"command": "second"})
    progress = json.loads((tmp_path / "progress.json").read_text())["progress"]
    assert [phase["command"] for phase in progress["phases"]] == ["first", "second"]
    assert progress["phases"][1]["begins"] >= 600 and progress["tokens"] >= 900


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(ConfigError, match="was made with another rate"):
        fit(tmp_path, replace(QUICK, rate=0.5))
    with pytest.raises(ConfigError, match="was made with another base"):
        fit(tmp_path, of=("base", "other"))
    (tmp_path / "progress.json").write_text("{")
    with pytest.raises(DataError, match=r"progress\.json: cannot continue from this checkpoint"):
        fit(tmp_path)


def test_batches_hold_whole_sequences_and_no_prediction_across_two() -> None:
    stream = batches(language, 0, QUICK)
    seen = 0
    for _ in range(5):
        batch = next(stream)
        assert len(batch.tokens) == len(batch.weights) == sum(batch.lengths) <= QUICK.batch_tokens
        start = 0
        for length in batch.lengths:
            expected = language(seen)
            assert batch.tokens[start : start + length].tolist() == expected.tokens
            assert batch.weights[start] == 0 and batch.weights[start + 1] == pytest.approx(expected.weights[1])
            start, seen = start + length, seen + 1
    (first,) = next(batches(language, 0, replace(QUICK, batch_tokens=4, max_length=3))).lengths
    assert first == 3  # one at least, cut
