"""Reading checkpoint directories: what is understood, and what is refused in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitroute.errors import DataError
from bitroute.nn.checkpoint import config_json, load_model, read_config
from bitroute.nn.decoder import DecoderConfig
from support.checkpoint import save_network
from support.networks import LLAMA, TINY, network


def change(checkpoint: Path, **fields: object) -> None:
    """Set fields of config.json; None removes one."""
    path = checkpoint / "config.json"
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_network(network(0), tmp_path / "model")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_network(network(0, LLAMA), tmp_path / "llama")


def test_loaded_networks_are_in_the_wanted_dtype_and_in_eval_mode(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "shape",
    [TINY, LLAMA, dataclasses.replace(LLAMA, attention_bias=True, mlp_bias=True), dataclasses.replace(TINY, head_dim=16)],
)
def test_the_configuration_survives_a_round_trip(tmp_path: Path, shape: DecoderConfig) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_json(shape, end_token=3, pad_token=0)))
    assert read_config(tmp_path) == shape


def test_a_plain_qwen3_is_written_as_ever() -> None:
    written = config_json(TINY, end_token=3, pad_token=0)
    assert set(written) & {"qk_norm", "mlp_bias", "rope_scaling"} == set()
    assert list(written)[:11] == [field.name for field in dataclasses.fields(TINY)][:11]
    assert written["rope_parameters"] == {"rope_type": "default", "rope_theta": 10_000.0}
    assert set(TINY.to_json()) == {field.name for field in dataclasses.fields(TINY)[:11]}


def test_a_rope_base_under_rope_parameters_is_found(checkpoint: Path) -> None:
    change(checkpoint, rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 77.0})
    assert read_config(checkpoint).rope_theta == 77.0
    change(checkpoint, rope_parameters=None)
    assert read_config(checkpoint).rope_theta == 10_000.0


def test_a_configuration_in_the_older_spelling_reads_the_same(llama: Path) -> None:
    assert LLAMA.rope_scaling is not None
    scaling = {"rope_type": "llama3", **dataclasses.asdict(LLAMA.rope_scaling)}
    change(llama, rope_parameters=None, rope_scaling=scaling, rope_theta=500.0)
    assert read_config(llama) == LLAMA
    change(llama, rope_scaling={"type": "default"})
    assert read_config(llama) == dataclasses.replace(LLAMA, rope_scaling=None)


def test_what_a_llama_leaves_out_is_what_transformers_takes_it_to_be(llama: Path) -> None:
    change(llama, head_dim=None, num_key_value_heads=None, tie_word_embeddings=None, attention_bias=None, architectures=None)
    assert read_config(llama) == dataclasses.replace(LLAMA, head_dim=8, num_key_value_heads=4)
    change(llama, model_type=None, architectures=["LlamaForCausalLM"])
    assert not read_config(llama).qk_norm


def test_shards_are_read_as_their_index_names_them(checkpoint: Path) -> None:
    whole = load_model(checkpoint, torch.float32).state_dict()
    weights = load_file(checkpoint / "model.safetensors")
    names = sorted(weights)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, checkpoint / file)
    (checkpoint / "model.safetensors").unlink()
    save_file({"stray": torch.zeros(1)}, checkpoint / "model-old.safetensors")  # the index does not name it
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    found = load_model(checkpoint, torch.float32).state_dict()
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match=r"index\.json: names model-00002-of-00002\.safetensors, which is not"):
        load_model(checkpoint)
    for damaged in ("{", "[]", "{}", '{"weight_map": 1}'):
        (checkpoint / "model.safetensors.index.json").write_text(damaged)
        with pytest.raises(DataError, match=r"index\.json: cannot read which files"):
            load_model(checkpoint)


def test_frequencies_that_old_checkpoints_store_are_computed_anyway(llama: Path) -> None:
    path = llama / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}, path)
    assert torch.equal(load_model(llama, torch.float32).cos, network(0, LLAMA).cos)


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: cannot read"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"qwen3"'])
def test_a_configuration_that_is_no_json_object_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model_type": "gemma3", "architectures": None}, r"model_type is 'gemma3'"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, r"\['Qwen3ForSequenceClassification'\], model_type is 'qwen3'"),
        ({"model_type": "llama"}, r"\['Qwen3ForCausalLM'\], model_type is 'llama'"),
        ({"model_type": None, "architectures": None}, r"model_type is None"),
        ({"model_type": ["llama"], "architectures": "LlamaForCausalLM"}, r"model_type is \['llama'\]"),
    ],
)
def test_another_architecture_is_refused(checkpoint: Path, fields: dict[str, object], told: str) -> None:
    change(checkpoint, **fields)
    runs = r"this engine runs LlamaForCausalLM \(llama\) and Qwen3ForCausalLM \(qwen3\)$"
    with pytest.raises(DataError, match=rf"config\.json: .*{told}; {runs}"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_parameters", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_parameters", {"rope_type": "default", "partial_rotary_factor": 0.5}),
        ("rope_parameters", {"rope_type": ["llama3"]}),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
        ("rope_scaling", "llama3"),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("partial_rotary_factor", 0.5),
        ("hidden_act", "gelu"),
    ],
)
def test_a_feature_that_is_not_computed_here_is_refused(checkpoint: Path, field: str, value: object) -> None:
    change(checkpoint, **{field: value})
    with pytest.raises(DataError, match=field):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"factor": None}, "rope_parameters lacks factor"),
        ({"factor": 0}, "rope_parameters.factor is 0, which is no positive float"),
        ({"original_max_position_embeddings": 64.5}, "original_max_position_embeddings is 64.5, which is no positive int"),
        ({"low_freq_factor": 4.0}, "low_freq_factor is not below high_freq_factor"),
    ],
)
def test_scaling_that_makes_no_sense_is_refused(llama: Path, fields: dict[str, object], told: str) -> None:
    rope = json.loads((llama / "config.json").read_text())["rope_parameters"] | fields
    change(llama, rope_parameters={name: value for name, value in rope.items() if value is not None})
    with pytest.raises(DataError, match=told):
        load_model(llama)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("hidden_size", value) for value in (None, "32", 0, -1, 2.5, True)],
        ("head_dim", 7),
        ("attention_bias", "no"),
        ("rope_theta", "10000"),
        ("rms_norm_eps", 0.0),
        ("tie_word_embeddings", 1),
        ("num_key_value_heads", 3),
    ],
)
def test_a_value_that_makes_no_network_is_named(checkpoint: Path, field: str, value: object) -> None:
    change(checkpoint, **{field: value})
    with pytest.raises(DataError, match=field):
        load_model(checkpoint)


def test_a_missing_field_is_named(checkpoint: Path) -> None:
    change(checkpoint, num_key_value_heads=None)
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
    "fields",
    [
        {"hidden_size": 64},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"tie_word_embeddings": False},
        {"attention_bias": True},
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    ],
)
def test_weights_of_another_shape_are_one_line(checkpoint: Path, fields: dict[str, object]) -> None:
    change(checkpoint, **fields)
    with pytest.raises(DataError, match=r"weights do not fit config\.json") as caught:
        load_model(checkpoint)
    assert "\n" not in str(caught.value)
