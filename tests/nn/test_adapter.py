"""Adapters on disk: what comes back, what a merged checkpoint holds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bitroute.errors import DataError
from bitroute.nn.adapter import Adapter, AdapterInfo
from bitroute.nn.checkpoint import load_model, write_weights
from bitroute.nn.decoder import sequence_logits
from bitroute.nn.lora import LoraShape, attach

SHAPE = LoraShape(rank=2, alpha=3.0)


def adapter_of(model: Path, seed: int = 0) -> Adapter:
    """A random adapter; its values are bfloat16's, so that they are the same on disk."""
    matrices = attach(load_model(model, torch.float32), SHAPE, seed)
    generator = torch.Generator().manual_seed(seed)
    values = {name: (torch.randn(m.shape, generator=generator) * 0.1).bfloat16().float() for name, m in matrices.items()}
    return Adapter(AdapterInfo("base", "print", SHAPE, {"tokens": 7}), values)


def test_an_adapter_comes_back_in_half_the_bytes(tiny_model: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tiny_model)
    adapter.save(tmp_path)
    loaded = Adapter.load(tmp_path)
    assert loaded.info == adapter.info
    assert loaded.matrices.keys() == adapter.matrices.keys()
    for name, matrix in loaded.matrices.items():
        assert matrix.dtype == torch.bfloat16
        assert torch.equal(matrix.float(), adapter.matrices[name])


def test_a_merged_checkpoint_computes_what_base_and_adapter_do(tiny_model: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tiny_model)
    adapter.merge(tiny_model, tmp_path)
    model = load_model(tiny_model, torch.float32)
    matrices = attach(model, SHAPE, 0)
    with torch.no_grad():
        for name, matrix in matrices.items():
            matrix.copy_(adapter.matrices[name])
    tokens = torch.tensor([[9, 8, 7, 6]])
    merged = load_model(tmp_path, torch.float32)
    difference = sequence_logits(merged, tokens) - sequence_logits(model, tokens)
    assert difference.abs().max() < 0.05  # the merged weights are rounded to bfloat16
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_another_networks_adapter_and_damaged_files_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tiny_model)
    odd = Adapter(adapter.info, {"model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(2, 2)})
    with pytest.raises(DataError, match=r"is for model\.layers\.9\.mlp\.up_proj\.weight, which .* has not"):
        odd.merge(tiny_model, tmp_path / "out")
    with pytest.raises(DataError, match=r"adapter\.json: cannot be read as an adapter"):
        Adapter.load(tmp_path)
    adapter.save(tmp_path)
    info = json.loads((tmp_path / "adapter.json").read_text())
    del info["rank"]
    whole = (tmp_path / "adapter.safetensors").read_bytes()
    (tmp_path / "adapter.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"adapter\.safetensors: not a readable safetensors file"):
        Adapter.load(tmp_path)
    (tmp_path / "adapter.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match="'rank'"):
        Adapter.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_written_one_by_one_as_safetensors_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    values = {"b": torch.randn(3, 5), "a": torch.randn(7), "empty": torch.zeros(0, 4)}
    asked: list[str] = []

    def tensor(name: str) -> torch.Tensor:
        asked.append(name)
        return values[name]

    write_weights(tmp_path / "x.safetensors", {name: tuple(v.shape) for name, v in values.items()}, dtype, tensor)
    found = load_file(tmp_path / "x.safetensors")
    assert asked == ["b", "a", "empty"]
    assert all(torch.equal(found[name], values[name].to(dtype)) for name in values)
    with pytest.raises(ValueError, match="a: has the shape"):
        write_weights(tmp_path / "y.safetensors", {"a": (2,)}, dtype, tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
