"""The network against transformers, and what is refused when a checkpoint is loaded."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitroute.errors import DataError
from bitroute.nn.checkpoint import config_json, load_model, read_config
from bitroute.nn.decoder import Decoder, sequence_logits
from support.networks import TINY, network


def save(model: Decoder, directory: Path) -> Path:
    """The checkpoint directory of a network; a tied head is not stored twice."""
    directory.mkdir(exist_ok=True)
    config = config_json(model.config, end_token=3, pad_token=0)
    (directory / "config.json").write_text(json.dumps(config))
    weights = {name: tensor.detach().contiguous() for name, tensor in model.named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(network(0), tmp_path / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_computes_the_same_logits(tmp_path: Path, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    directory = save(network(1, dataclasses.replace(TINY, tie_word_embeddings=tied, rope_theta=500.0)), tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ours = load_model(directory, torch.float32)
    tokens = torch.randint(0, TINY.vocab_size, (3, 50), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = theirs(tokens).logits
        found = sequence_logits(ours, tokens)
    assert expected.std() > 0.3  # there is something to compare
    assert (found - expected).abs().max() < 1e-4


def test_loaded_networks_are_in_the_wanted_dtype_and_in_eval_mode(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_wanted_rows_are_those_of_the_whole(checkpoint: Path) -> None:
    model = load_model(checkpoint, torch.float32)
    tokens = torch.arange(12)
    rows = torch.tensor([3, 11])

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert len(k) == len(v) == 12
        groups = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q, keys) / q.shape[2] ** 0.5
        reach = tokens if len(q) == 12 else rows
        scores = scores.masked_fill(tokens > reach.unsqueeze(1), float("-inf"))
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)

    with torch.inference_mode():
        whole, some = model(tokens, tokens, attend), model(tokens, tokens, attend, rows)
        assert torch.allclose(some, whole[rows], atol=1e-5)
        assert torch.allclose(model.logits(whole), sequence_logits(model, tokens.unsqueeze(0))[0], atol=1e-4)


def test_the_configuration_survives_a_round_trip(checkpoint: Path) -> None:
    assert read_config(checkpoint) == TINY


def test_a_rope_base_under_rope_parameters_is_found(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    del values["rope_theta"]
    values["rope_parameters"]["rope_theta"] = 77.0
    path.write_text(json.dumps(values))
    assert read_config(checkpoint).rope_theta == 77.0
    del values["rope_parameters"]
    path.write_text(json.dumps(values))
    assert read_config(checkpoint).rope_theta == 10_000.0


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: cannot read"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"qwen3"'])
def test_a_configuration_that_is_no_json_object_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        load_model(checkpoint)


def test_another_architecture_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))
    with pytest.raises(DataError, match=r"model_type is 'llama'"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("attention_bias", True),
        ("use_sliding_window", True),
        ("hidden_act", "gelu"),
    ],
)
def test_a_feature_that_is_not_computed_here_is_refused(checkpoint: Path, field: str, value: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DataError, match=field):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("hidden_size", value) for value in (None, "32", 0, -1, 2.5, True)],
        ("rope_theta", "10000"),
        ("rms_norm_eps", 0.0),
        ("tie_word_embeddings", 1),
        ("num_key_value_heads", 3),
    ],
)
def test_a_value_that_makes_no_network_is_named(checkpoint: Path, field: str, value: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DataError, match=field):
        load_model(checkpoint)


def test_a_missing_field_is_named(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    del values["num_key_value_heads"]
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match="lacks num_key_value_heads"):
        load_model(checkpoint)


def test_missing_weights_are_named(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"no model\*\.safetensors"):
        load_model(checkpoint)


@pytest.mark.parametrize("kept", [0, 4, 200, 5000])
def test_a_truncated_file_is_named(checkpoint: Path, kept: int) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"model\.safetensors: not a readable safetensors file"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    "change", [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"tie_word_embeddings": False}]
)
def test_weights_of_another_shape_are_one_line(checkpoint: Path, change: dict[str, object]) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"weights do not fit config\.json") as caught:
        load_model(checkpoint)
    assert "\n" not in str(caught.value)
