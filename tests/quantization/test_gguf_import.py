"""From GGUF to a checkpoint and back: weights, shape and tokens are those that were written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitroute.errors import DataError
from bitroute.nn.checkpoint import load_model, read_config
from bitroute.nn.decoder import DecoderConfig
from bitroute.nn.tokenizer import Tokenizer
from support.checkpoint import CONFIG, LLAMA_CONFIG, save_network, write_checkpoint
from support.networks import network
from support.text_tokenizer import END, TEMPLATE, save_text_tokenizer

pytest.importorskip("gguf", reason="needs the extra smollm2")

from bitroute.quantization.gguf import export_gguf
from bitroute.quantization.gguf_import import import_gguf

PLAIN = replace(LLAMA_CONFIG, vocab_size=300, rope_scaling=None, rope_theta=100_000.0, rms_norm_eps=1e-5)
TEXT = "Here a mug 12 > go to desk 3\n\n¡Año!"


def converted(config: DecoderConfig, folder: Path, scheme: str = "gguf-f16") -> Path:
    """A random network through GGUF: the directory `folder / "back"`."""
    save_text_tokenizer(folder / "model")
    save_network(network(0, config), folder / "model")
    import_gguf(export_gguf(folder / "model", scheme, folder), folder / "back")
    return folder / "back"


@pytest.mark.parametrize(
    "config",
    [PLAIN, replace(PLAIN, attention_bias=False, tie_word_embeddings=True), replace(PLAIN, mlp_bias=True)],
    ids=["biases", "tied", "more-biases"],
)
def test_weights_and_shape_come_back(tmp_path: Path, config: DecoderConfig) -> None:
    back = converted(config, tmp_path)
    assert read_config(back) == config
    before, after = (load_model(path, torch.float32).state_dict() for path in (tmp_path / "model", back))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.half().float())


def test_four_bit_blocks_are_unpacked(tmp_path: Path) -> None:
    back = converted(PLAIN, tmp_path, "gguf-w4g64-rtn")
    name = "model.layers.0.self_attn.q_proj.weight"  # whose rows are permuted in the file
    before, after = (load_model(path, torch.float32).state_dict()[name] for path in (tmp_path / "model", back))
    groups = before.reshape(len(before), -1, 64)
    step = (groups.amax(-1) - groups.amin(-1)).clamp(min=0) / 15
    assert ((after - before).reshape(groups.shape).abs() <= 0.51 * step.unsqueeze(-1) + 1e-3).all()


def test_tokens_and_template_come_back(tmp_path: Path) -> None:
    back = converted(PLAIN, tmp_path)
    ours, theirs = Tokenizer.load(back), Tokenizer.load(tmp_path / "model")
    for text in (TEXT, f"{END}{TEXT}", " 007"):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == text
    settings = json.loads((back / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["chat_template"]) == (END, TEMPLATE)


def test_equal_files_give_equal_directories(tmp_path: Path) -> None:
    back = converted(PLAIN, tmp_path)
    import_gguf(next(tmp_path.glob("*.gguf")), tmp_path / "again")
    for path in back.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_what_it_does_not_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(b"GGUF" + bytes(8))
    with pytest.raises(DataError, match=r"half\.gguf: not a whole GGUF file"):
        import_gguf(tmp_path / "half.gguf", tmp_path / "out")
    (tmp_path / "model").mkdir()
    qwen3 = export_gguf(write_checkpoint(tmp_path / "model", config=CONFIG), "gguf-f16", tmp_path)
    with pytest.raises(DataError, match="architecture 'qwen3'; only llama is read"):
        import_gguf(qwen3, tmp_path / "out")
    (tmp_path / "scaled").mkdir()
    scaled = export_gguf(write_checkpoint(tmp_path / "scaled", config=LLAMA_CONFIG), "gguf-f16", tmp_path)
    with pytest.raises(DataError, match="scaled rotary positions"):
        import_gguf(scaled, tmp_path / "out")
    assert not (tmp_path / "out").exists()
