import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bitroute.engines import loading
from bitroute.engines.engine import CacheMode, Sampling
from bitroute.engines.loading import identity, load_torch, quantize, variant_path
from bitroute.engines.spec import EngineSpec
from bitroute.engines.torch import TorchEngine
from bitroute.errors import ConfigError, DataError
from bitroute.nn.checkpoint import load_model
from bitroute.nn.fingerprint import fingerprint
from bitroute.quantization.model import quantized_linears
from bitroute.quantization.store import load_variant, read_info
from support.checkpoint import LLAMA_CONFIG, TOKENIZER, write_checkpoint
from support.networks import plain_logprobs

END = 3


def host(
    model: Path, schemes: Sequence[str], variants: Path, mode: CacheMode = CacheMode.OWN, dtype: str = "float32"
) -> TorchEngine:
    spec = EngineSpec(model=model, schemes=tuple(schemes), variants=variants, cache_mode=mode, device="cpu", dtype=dtype)
    return load_torch(spec, END)


def no_calibration() -> tuple[Sequence[Tensor], str]:
    raise AssertionError("rounding to nearest needs no calibration")


def some_calibration() -> tuple[Sequence[Tensor], str]:
    return [torch.arange(1, 200).unsqueeze(0)], "counting"


def test_a_variant_is_made_once_and_knows_its_model(tiny_model: Path, tmp_path: Path) -> None:
    path = quantize(tiny_model, "w2g64-rtn", tmp_path / "deep", no_calibration)
    assert path == variant_path(tmp_path / "deep", "w2g64-rtn") == tmp_path / "deep" / "w2g64-rtn.safetensors"
    info = read_info(path)
    assert (str(info.scheme), info.model, info.calibration) == ("w2g64-rtn", identity(tiny_model), "")
    before = path.stat().st_mtime_ns
    assert quantize(tiny_model, "w2g64-rtn", tmp_path / "deep", no_calibration) == path
    assert path.stat().st_mtime_ns == before


def test_the_identity_is_that_of_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    assert identity(tiny_model) == fingerprint(load_model(tiny_model, torch.bfloat16).state_dict())
    assert identity(tiny_model) == identity(write_checkpoint(tmp_path / "same"))
    assert identity(tiny_model) != identity(write_checkpoint(tmp_path / "other", seed=1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alfworld-agent", "72531340ae9162428731c6b542fe2068eedaaefb10c81a349e72f3d736bbce72"),
        ("alfworld-router", "464404cae18aa4982234dbf85e6612b2bdb9ae295cc6e48fadff238a4d84396d"),
    ],
)
def test_the_identity_of_the_reference_models_is_the_one_that_routers_were_trained_for(name: str, expected: str) -> None:
    assert identity(TOKENIZER.parent / name) == expected


def test_the_identity_needs_no_model_and_is_read_again_only_when_a_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_checkpoint(tmp_path / "model")
    monkeypatch.setattr(loading, "load_model", None)
    first = identity(model)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "fingerprint", None)
        assert identity(model) == first
    write_checkpoint(model, seed=1)
    assert identity(model) != first


def test_a_known_fingerprint_is_not_computed_again(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(tiny_model, "w2g64-rtn", tmp_path, no_calibration)
    spec = EngineSpec(model=tiny_model, schemes=("w2g64-rtn",), variants=tmp_path, device="cpu", dtype="float32")
    name = identity(tiny_model)
    monkeypatch.setattr(loading, "identity", None)
    assert load_torch(replace(spec, fingerprint=name), END).fingerprint == name
    with pytest.raises(DataError, match="made from another model"):
        load_torch(replace(spec, fingerprint="another"), END)


def test_gptq_is_calibrated_and_says_on_what(tiny_model: Path, tmp_path: Path) -> None:
    path = quantize(tiny_model, "w3g64-gptq", tmp_path, some_calibration)
    assert read_info(path).calibration == "counting"


def test_a_llama_is_quantized_and_hosted_like_any_other(tmp_path: Path) -> None:
    model, schemes = write_checkpoint(tmp_path / "llama", config=LLAMA_CONFIG), ("w3g64-gptq", "w8n4g64-rtn")
    for scheme in schemes:
        quantize(model, scheme, tmp_path / "run", some_calibration)
    base = load_model(model, torch.float32)
    variant = load_variant(variant_path(tmp_path / "run", "w3g64-gptq"), base)
    assert len(quantized_linears(variant)) == 2 * 7
    assert torch.equal(
        variant.get_submodule("model.layers.0.self_attn.q_proj").bias, base.model.layers[0].self_attn.q_proj.bias
    )
    engine = host(model, schemes, tmp_path / "run")
    assert (engine.ladder, engine.max_length) == ((*schemes, "bf16"), 2048)
    context = engine.open()
    engine.extend(context, range(4, 40))
    rows = [engine.score([context], [[5, 6, END]], name)[0] for name in engine.ladder]
    assert all(0 < abs(rows[-1] - row).max() < 3 for row in rows[:-1])


def test_a_variant_that_lies_with_the_model_is_copied(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "model")
    stored = quantize(model, "w4g64-gptq", model, some_calibration)
    copy = quantize(model, "w4g64-gptq", tmp_path / "run", no_calibration)
    assert copy.parent == tmp_path / "run"
    assert copy.read_bytes() == stored.read_bytes()


def test_a_variant_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", seed=1)
    quantize(other, "w2g64-rtn", tmp_path / "run", no_calibration)
    with pytest.raises(DataError, match=r"w2g64-rtn\.safetensors: was made from another model than .*; remove it"):
        quantize(tiny_model, "w2g64-rtn", tmp_path / "run", no_calibration)
    with pytest.raises(DataError, match=r"w2g64-rtn\.safetensors: made from another model"):
        host(tiny_model, ["w2g64-rtn"], tmp_path / "run")


def test_bad_schemes_and_damaged_files_leave_nothing(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown scheme 'int4'"):
        quantize(tiny_model, "int4", tmp_path / "run", no_calibration)
    cut = tmp_path / "cut"
    shutil.copytree(tiny_model, cut)
    (cut / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"cut/model\.safetensors: not a readable safetensors file"):
        quantize(cut, "w2g64-rtn", tmp_path / "run", no_calibration)
    assert not (tmp_path / "run").exists()
    path = quantize(tiny_model, "w2g64-rtn", tmp_path / "run", no_calibration)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"w2g64-rtn\.safetensors: not a whole variant file"):
        quantize(tiny_model, "w2g64-rtn", tmp_path / "run", no_calibration)


def test_a_ladder_is_hosted_cheapest_first_with_the_checkpoint_on_top(tiny_model: Path, tmp_path: Path) -> None:
    schemes = ["w2g64-rtn", "w8g64-rtn"]
    for scheme in schemes:
        quantize(tiny_model, scheme, tmp_path, no_calibration)
    engine = host(tiny_model, schemes, tmp_path, CacheMode.SHARED)
    assert engine.ladder == ("w2g64-rtn", "w8g64-rtn", "bf16")
    assert (engine.fingerprint, engine.cache_mode) == (identity(tiny_model), CacheMode.SHARED)
    context = engine.open()
    engine.extend(context, [1, 2, 3])
    (generation,) = engine.generate([context], ["w2g64-rtn"], [None], Sampling(max_tokens=2))
    assert generation.usage.prefill == 3
    logits = {name: engine.score([context], [[5]], name)[0] for name in engine.ladder}
    error = {name: float(abs(logits[name] - logits["bf16"]).max()) for name in schemes}
    assert 0 < error["w8g64-rtn"] < error["w2g64-rtn"] / 10


def test_a_nested_scheme_stands_for_its_slice(tiny_model: Path, tmp_path: Path) -> None:
    quantize(tiny_model, "w8n4g64-rtn", tmp_path, no_calibration)
    engine = host(tiny_model, ["w8n4g64-rtn"], tmp_path)
    base = load_model(tiny_model, torch.float32)
    sliced = load_variant(variant_path(tmp_path, "w8n4g64-rtn"), base, 4)
    for layer in quantized_linears(sliced).values():
        assert all(len(group.unique()) <= 16 for group in layer.dequantize().view(-1, 64))
    context = engine.open()
    engine.extend(context, [5, 6, 7])
    (rows,) = engine.score([context], [[8]], "w8n4g64-rtn")
    assert np.abs(rows[0] - plain_logprobs(sliced, [5, 6, 7])[-1]).max() < 1e-4


def test_arithmetic_may_be_bfloat16(tiny_model: Path, tmp_path: Path) -> None:
    quantize(tiny_model, "w2g64-rtn", tmp_path, no_calibration)
    engine = host(tiny_model, ["w2g64-rtn"], tmp_path, dtype="bfloat16")
    embeddings = [network.embedding for network in engine.networks.values()]
    assert {weight.dtype for weight in embeddings} == {torch.bfloat16}
    assert len({weight.data_ptr() for weight in embeddings}) == 1  # held once
    assert engine.fingerprint == identity(tiny_model)


def test_a_missing_variant_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"w4g64-rtn\.safetensors: no such file"):
        host(tiny_model, ["w4g64-rtn"], tmp_path)
