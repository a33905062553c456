"""Training from scratch: a language of known entropy is learned, and a run that was killed is as if it had not been."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bitroute.errors import ConfigError, DataError
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder, sequence_logits
from bitroute.nn.weighted import WeightedSequence
from bitroute.store import files
from bitroute.training import language_model
from bitroute.training.language_model import LanguageModelRecipe, batches, train_language_model
from support.networks import TINY as TWO_LAYERS

END, PAD, START = 3, 0, 1
PHRASES = 4
FREE, ECHO, COIN = range(3)  # of a phrase's tokens: one of four, its double, one of two
ENTROPY = (math.log(4) + math.log(2)) / 3  # nats a token
TINY = replace(TWO_LAYERS, num_hidden_layers=1)
QUICK = LanguageModelRecipe(tokens=3_000, batch_tokens=128, pool=16)
LONG = LanguageModelRecipe(tokens=20_000, batch_tokens=256, pool=64, muon_rate=0.03, adamw_rate=0.01)


def language(index: int) -> WeightedSequence:
    """A start token and phrases of three tokens: x of 4..7, then x + 10, then 20 or 21."""
    chance = random.Random(index)
    tokens = [START]
    for _ in range(chance.randint(2, PHRASES)):
        free = chance.randint(4, 7)
        tokens += [free, free + 10, chance.randint(20, 21)]
    return WeightedSequence(tokens, [1.0] * len(tokens))


def silent(part: int) -> Callable[[int], WeightedSequence]:
    """The language with weight 0 on one part of every phrase."""

    def source(index: int) -> WeightedSequence:
        sequence = language(index)
        weights = [0.0 if i and (i - 1) % 3 == part else 1.0 for i in range(len(sequence.tokens))]
        return WeightedSequence(sequence.tokens, weights)

    return source


def losses(model: Decoder) -> list[float]:
    """Mean cross entropy, nats, of each part of a phrase on sequences that were not trained on."""
    model.eval()
    totals: list[list[float]] = [[], [], []]
    with torch.inference_mode():
        for index in range(10_000, 10_060):
            tokens = torch.tensor([language(index).tokens])
            logprobs = torch.log_softmax(sequence_logits(model, tokens)[0], dim=-1)
            for i in range(1, tokens.shape[1]):
                totals[(i - 1) % 3].append(-float(logprobs[i - 1, tokens[0, i]]))
    return [sum(t) / len(t) for t in totals]


def fit(
    directory: Path, recipe: LanguageModelRecipe = QUICK, source: Callable[[int], WeightedSequence] = language, **options: Any
) -> Decoder:
    return train_language_model(TINY, recipe, source, directory, end_token=END, pad_token=PAD, **options)


def state(directory: Path) -> dict[str, torch.Tensor]:
    """All weights and optimizer states of a run."""
    (path,) = directory.glob("state-*.safetensors")
    return load_file(path)


def assert_same(left: Path, right: Path) -> None:
    a, b = state(left), state(right)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert (left / "model.safetensors").read_bytes() == (right / "model.safetensors").read_bytes()


class Killed(BaseException):
    """What a kill looks like from inside."""


def killed_at(index: int) -> Callable[[int], WeightedSequence]:
    def source(i: int) -> WeightedSequence:
        if i == index:
            raise Killed
        return language(i)

    return source


@pytest.mark.slow
def test_a_language_is_learned_to_its_entropy(tmp_path: Path) -> None:
    found = losses(fit(tmp_path, LONG))
    assert found[FREE] == pytest.approx(math.log(4), abs=0.04)
    assert found[ECHO] == pytest.approx(0, abs=0.02)
    assert found[COIN] == pytest.approx(math.log(2), abs=0.03)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert curve[0]["loss"] > 2 * ENTROPY
    assert curve[-1]["loss"] == pytest.approx(ENTROPY, abs=0.05)  # means over 20 steps


def test_tokens_of_weight_zero_are_not_learned(tmp_path: Path) -> None:
    recipe = replace(LONG, tokens=10_000)
    found = losses(fit(tmp_path, recipe, silent(ECHO)))
    assert found[ECHO] > 3  # ln 40 = 3.7 is a guess
    assert found[FREE] == pytest.approx(math.log(4), abs=0.05)
    progress = json.loads((tmp_path / "progress.json").read_text())["progress"]
    assert recipe.tokens <= progress["tokens"] < recipe.tokens + 64 * (1 + 2 * PHRASES)


def test_the_saved_checkpoint_is_the_trained_model_in_bfloat16(tmp_path: Path) -> None:
    trained, loaded = fit(tmp_path), load_model(tmp_path, torch.float32)
    assert loaded.config == TINY
    for name, parameter in trained.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter.detach().bfloat16().float())
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (END, PAD)


@pytest.mark.slow
@pytest.mark.parametrize("at", [5, 40, 100])
def test_a_run_that_was_killed_gives_the_same_bits(tmp_path: Path, at: int) -> None:
    fit(tmp_path / "whole")
    with pytest.raises(Killed):
        fit(tmp_path / "killed", source=killed_at(at), checkpoint_every=0)
    fit(tmp_path / "killed", checkpoint_every=0)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    told = [json.loads(line)["tokens"] for line in (tmp_path / "killed" / "curve.jsonl").read_text().splitlines()]
    assert told == sorted(set(told))


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path / "whole")
    written: list[str] = []

    def dying(path: Path, data: bytes | str) -> None:
        written.append(path.name)
        if written.count("model.safetensors") == 3:
            raise Killed
        files.write_atomic(path, data)

    monkeypatch.setattr(language_model, "write_atomic", dying)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", checkpoint_every=0)
    monkeypatch.undo()
    assert len(list((tmp_path / "killed").glob("state-*"))) == 2
    fit(tmp_path / "killed", checkpoint_every=0)
    assert_same(tmp_path / "whole", tmp_path / "killed")


def test_a_finished_run_is_not_trained_again_but_may_be_given_more_tokens(tmp_path: Path) -> None:
    fit(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    fit(tmp_path, source=killed_at(0))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    fit(tmp_path, replace(QUICK, tokens=2 * QUICK.tokens))
    assert json.loads((tmp_path / "progress.json").read_text())["progress"]["tokens"] >= 2 * QUICK.tokens


@pytest.mark.parametrize(
    ("change", "named"), [({"batch_tokens": 64}, "batch_tokens"), ({"seed": 1, "muon_rate": 0.1}, "muon_rate, seed")]
)
def test_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    fit(tmp_path)
    with pytest.raises(ConfigError, match=rf"progress\.json: was made with another {named};"):
        fit(tmp_path, replace(QUICK, **change))


def test_another_network_is_refused(tmp_path: Path) -> None:
    fit(tmp_path)
    with pytest.raises(ConfigError, match=r"another model\.embed_tokens\.weight"):
        train_language_model(replace(TINY, vocab_size=50), QUICK, language, tmp_path, end_token=END, pad_token=PAD)


@pytest.mark.parametrize("damage", ["no state", "cut state", "no json", "no recipe", "another layer"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    fit(tmp_path)
    (path,) = tmp_path.glob("state-*")
    progress = tmp_path / "progress.json"
    config = TINY
    match damage:
        case "no state":
            path.unlink()
        case "cut state":
            path.write_bytes(path.read_bytes()[:-100])
        case "no json":
            progress.write_text(progress.read_text()[:20])
        case "no recipe":
            progress.write_text(json.dumps({"progress": json.loads(progress.read_text())["progress"]}))
        case "another layer":
            config = replace(TINY, num_hidden_layers=2)
    with pytest.raises(DataError, match=r"progress\.json: cannot continue from this checkpoint") as caught:
        train_language_model(config, QUICK, language, tmp_path, end_token=END, pad_token=PAD)
    assert "\n" not in str(caught.value)


def test_a_source_without_weights_and_a_loss_that_is_no_number_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no token with a weight"):
        fit(tmp_path / "a", source=lambda i: WeightedSequence([1, 4, 14], [0.0] * 3))
    with pytest.raises(ConfigError, match="the loss is nan"):
        fit(tmp_path / "b", source=lambda i: WeightedSequence([1, 4, 14], [math.nan, math.nan, 1.0]))


def test_the_rate_warms_up_stays_and_cools_down() -> None:
    recipe = LanguageModelRecipe(tokens=100_000)
    assert [round(recipe.rate(n), 6) for n in (0, 450, 900, 60_000, 80_000, 100_000, 120_000)] == [0.1, 0.55, 1, 1, 0.5, 0, 0]


class TestBatches:
    def test_each_sequence_is_in_one_batch_padded_with_weight_zero(self) -> None:
        pool = [language(i) for i in range(50)]
        found = []
        for tokens, weights in batches(pool, QUICK, seed=3):
            assert tokens.shape == weights.shape
            assert tokens.numel() <= QUICK.batch_tokens
            for row, weight in zip(tokens.tolist(), weights.tolist(), strict=True):
                length = sum(w > 0 for w in weight)
                assert row[length:] == [0] * (len(row) - length)
                found.append(row[:length])
        assert sorted(found) == sorted(s.tokens for s in pool)

    def test_long_sequences_are_cut_and_a_longest_one_has_a_batch_of_its_own(self) -> None:
        long = WeightedSequence(list(range(1, 31)), [0.5] * 30)
        found = list(batches([long, language(0), long], replace(QUICK, max_length=20, batch_tokens=20), seed=0))
        assert sorted(tokens.shape for tokens, _ in found) == [(1, len(language(0).tokens)), (1, 20), (1, 20)]
        assert any(tokens[0].tolist() == long.tokens[:20] for tokens, _ in found)

    def test_the_order_is_the_seeds(self) -> None:
        pool = [language(i) for i in range(200)]

        def order(seed: int) -> list[tuple[int, ...]]:
            return [tuple(tokens.flatten().tolist()) for tokens, _ in batches(pool, QUICK, seed)]

        assert order(1) == order(1)
        assert order(1) != order(2)
        assert sorted(order(1)) == sorted(order(2))
