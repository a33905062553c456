from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitroute.cli.main import main
from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.models import find_model
from bitroute.episode import Message
from bitroute.errors import ConfigError, DataError
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder, DecoderConfig, sequence_logits
from bitroute.nn.tokenizer import CHAT_TEMPLATE, SPECIAL, Tokenizer
from bitroute.quantization.model import block_linears, materialize, quantized_linears
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from support.checkpoint import LLAMA_CONFIG, save_network, write_checkpoint
from support.networks import network

pytest.importorskip("gguf", reason="needs the extra serve-demo")

from gguf import GGMLQuantizationType, GGUFReader, TokenType, quants

from bitroute.quantization.gguf import GgufScheme, export_gguf, gguf_path, read_fingerprint

MODEL = find_model("alfworld-agent")
BLOCK = {"model.layers.0.self_attn.o_proj": "blk.0.attn_output", "model.layers.0.mlp.down_proj": "blk.0.ffn_down"}


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name.removesuffix(".weight"): tensor for tensor in GGUFReader(path).tensors}


def values(tensor: Any) -> Any:
    return quants.dequantize(tensor.data, tensor.tensor_type)


@pytest.fixture(scope="module")
def high(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_gguf(tiny_model, "gguf-f16", tmp_path_factory.mktemp("gguf"))


def test_f16_holds_every_weight_once_under_llama_cpps_names(tiny_model: Path, high: Path) -> None:
    state, found = load_model(tiny_model, torch.float32).state_dict(), tensors(high)
    del state["lm_head.weight"]  # tied
    assert len(found) == len(state) == 13
    for name, theirs in {**BLOCK, "model.embed_tokens": "token_embd"}.items():
        assert found[theirs].tensor_type == GGMLQuantizationType.F16
        np.testing.assert_array_equal(values(found[theirs]), state[f"{name}.weight"].half().numpy())
    for name, theirs in (("model.norm", "output_norm"), ("model.layers.0.self_attn.k_norm", "blk.0.attn_k_norm")):
        assert found[theirs].tensor_type == GGMLQuantizationType.F32
        np.testing.assert_array_equal(values(found[theirs]), state[f"{name}.weight"].numpy())


@pytest.mark.parametrize(("scheme", "bits", "steps"), [("gguf-q8_0", 8.5, 127), ("gguf-q4_0", 4.5, 8)])
def test_block_layers_alone_are_rounded_and_within_the_steps_of_their_blocks(
    tiny_model: Path, tmp_path: Path, scheme: str, bits: float, steps: int
) -> None:
    assert GgufScheme.parse(scheme).bits_per_weight == bits
    network, found = load_model(tiny_model, torch.float32), tensors(export_gguf(tiny_model, scheme, tmp_path))
    for name, theirs in BLOCK.items():
        blocks = network.get_submodule(name).get_parameter("weight").detach().numpy().reshape(-1, 32)
        error = np.abs(values(found[theirs]).reshape(-1, 32) - blocks).max(axis=1)
        step = np.abs(blocks).max(axis=1) / steps
        # Half a step; 4 bits have -8 but no 8, where the error may be a whole one. The scale is rounded to float16.
        assert (error <= step * (0.5 if steps == 127 else 1.0) * 1.01 + 127 * step * 2**-11).all()
    low = {name for name, tensor in found.items() if tensor.tensor_type == GgufScheme.parse(scheme).kind}
    assert len(low) == len(block_linears(network)) == 7


@pytest.mark.parametrize("scheme", ["w2g128-rtn", "w3g32-rtn", "w4g64-rtn"])
def test_our_own_schemes_are_held_exactly(tiny_model: Path, tmp_path: Path, scheme: str) -> None:
    path = export_gguf(tiny_model, f"gguf-{scheme}", tmp_path)
    assert path.name == f"{tiny_model.name}-{scheme}.gguf"
    found, variant = tensors(path), quantize_model(load_model(tiny_model, torch.float32), Scheme.parse(scheme))
    for name, theirs in BLOCK.items():
        assert found[theirs].tensor_type == GGMLQuantizationType.Q4_1
        np.testing.assert_array_equal(values(found[theirs]), quantized_linears(variant)[name].dequantize().numpy())


def test_tokenizer_template_and_shape_travel_with_the_weights(tiny_model: Path, high: Path) -> None:
    reader = GGUFReader(high)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tokenizer = Tokenizer.load(tiny_model)
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == fields["qwen3.vocab_size"] == 768 > tokenizer.vocab_size
    assert [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL] == list(SPECIAL)
    assert kinds[tokenizer.vocab_size :] == [TokenType.UNUSED] * 2
    assert tokens[tokenizer.encode(" dresser")[0]] == "Ġdresser"
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.end
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == CHAT_TEMPLATE
    assert (fields["general.name"], fields["general.architecture"]) == (tiny_model.name, "qwen3")
    assert (fields["qwen3.attention.head_count"], fields["qwen3.attention.head_count_kv"]) == (2, 1)


def test_equal_checkpoints_give_equal_files_and_a_file_that_is_there_stays(
    tiny_model: Path, tmp_path: Path, high: Path
) -> None:
    again = export_gguf(tiny_model, "gguf-f16", tmp_path)
    assert again.read_bytes() == high.read_bytes()
    written = again.stat().st_mtime_ns
    assert export_gguf(tiny_model, "gguf-f16", tmp_path) == again
    assert again.stat().st_mtime_ns == written


def test_files_of_another_model_and_damaged_ones_are_refused(tiny_model: Path, tmp_path: Path, high: Path) -> None:
    other = write_checkpoint(tmp_path / tiny_model.name, seed=1)
    path = export_gguf(other, "gguf-f16", tmp_path)
    assert read_fingerprint(path) != read_fingerprint(high)
    with pytest.raises(DataError, match="made from another model"):
        export_gguf(tiny_model, "gguf-f16", tmp_path)
    path.write_bytes(high.read_bytes()[:5000])
    with pytest.raises(DataError, match="not a whole GGUF file"):
        export_gguf(tiny_model, "gguf-f16", tmp_path)


@pytest.mark.parametrize("scheme", ["gguf-q5_0", "q4_0", "gguf-w8g64-rtn", "gguf-w2g128-gptq", "gguf-w4n2g64-rtn", "gguf-wide"])
def test_other_schemes_are_refused(tiny_model: Path, tmp_path: Path, scheme: str) -> None:
    with pytest.raises(ConfigError, match="unknown scheme"):
        export_gguf(tiny_model, scheme, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["gguf-q3_k", "gguf-q2_k"])
def test_rows_that_do_not_divide_into_k_quants_take_a_type_of_small_blocks(
    tiny_model: Path, tmp_path: Path, scheme: str
) -> None:
    found = tensors(export_gguf(tiny_model, scheme, tmp_path))
    assert {found[theirs].tensor_type for theirs in BLOCK.values()} == {GGMLQuantizationType.Q4_0}


def test_a_pre_tokenizer_that_parts_digits_is_smollms(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    spec = json.loads((model / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, spec["pre_tokenizer"]]}
    (model / "tokenizer.json").write_text(json.dumps(spec))
    field = GGUFReader(export_gguf(model, "gguf-f16", tmp_path / "out")).get_field("tokenizer.ggml.pre")
    assert field is not None and field.contents() == "smollm"


def test_another_pre_tokenizer_is_refused_and_nothing_is_left_behind(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    spec = json.loads((model / "tokenizer.json").read_text())
    spec["pre_tokenizer"]["add_prefix_space"] = True
    (model / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(DataError, match="not byte-level BPE"):
        export_gguf(model, "gguf-f16", tmp_path / "out")
    spec["pre_tokenizer"] = None
    (model / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(DataError, match="tokenizer's files"):
        export_gguf(model, "gguf-f16", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_command_writes_gguf_files_and_prints_their_sizes(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "gguf-q4_0", "gguf-w2g128-rtn", "--model", str(tiny_model), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for scheme, bits in (("gguf-q4_0", "4.5"), ("gguf-w2g128-rtn", "5")):
        path = gguf_path(tmp_path, tiny_model, scheme)
        row = next(line for line in out.splitlines() if line.startswith(scheme))
        assert row.split() == [scheme, "(all", "weights)", bits, f"{path.stat().st_size:,}", str(path)]
    assert main(["quantize", "gguf-q5", "--model", str(tiny_model)]) == 2


# What llama.cpp makes of it.


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module", params=["gguf-f16", "gguf-w2g128-rtn"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Decoder, float]]:
    """A llama-server's URL, the same variant in torch, and by how many nats a log-probability may differ.

    float16 weights differ from the checkpoint's by at most 2**-11 of themselves; under a 4-bit type llama.cpp also rounds
    activations to 8 bits.
    """
    pytest.importorskip("xllamacpp", reason="needs the extra serve-demo")
    from bitroute.engines.llama_server import llama_server  # noqa: PLC0415

    scheme: str = request.param
    network, tolerance = load_model(MODEL, torch.float32), 0.02
    if scheme != "gguf-f16":
        network, tolerance = quantize_model(network, Scheme.parse(scheme.removeprefix("gguf-"))), 0.1
        materialize(network, torch.float32)
    with llama_server(export_gguf(MODEL, scheme, tmp_path_factory.mktemp("gguf")), "model") as url:
        yield url, network, tolerance


def test_log_probabilities_are_those_of_the_torch_engine(served: tuple[str, Decoder, float]) -> None:
    url, network, tolerance = served
    agent = AlfworldAgent(Tokenizer.load(MODEL))
    episode = demonstrate(splits.task("validation", 1), seed=0, noise=0.1)
    tokens: list[int] = []
    differences = []
    for number, action in enumerate(episode.actions):
        tokens += agent.prompt(agent.message(episode.observations[: number + 1]), first=not tokens)
        answer = ask(f"{url}/completion", {"prompt": tokens, "n_predict": 1, "n_probs": 10, "temperature": 0})
        with torch.no_grad():
            logprobs = sequence_logits(network, torch.tensor([tokens]))[0, -1].log_softmax(-1)
        top = answer["completion_probabilities"][0]["top_logprobs"]
        likely = [entry for entry in top if entry["logprob"] > -8]
        assert likely[0]["id"] == int(logprobs.argmax())
        differences += [abs(entry["logprob"] - float(logprobs[entry["id"]])) for entry in likely]
        tokens += agent.completion(action)
    assert len(differences) > 15
    assert max(differences) < tolerance


@pytest.mark.parametrize(
    ("scheme", "config", "tolerance"),
    [
        ("gguf-f16", LLAMA_CONFIG, 0.02),
        ("gguf-w4g64-rtn", LLAMA_CONFIG, 0.2),
        ("gguf-f16", replace(LLAMA_CONFIG, tie_word_embeddings=True, rope_scaling=None, mlp_bias=True), 0.02),
    ],
    ids=["scaled", "four-bits", "tied"],
)
def test_a_llama_says_the_same_in_llama_cpp(tmp_path: Path, scheme: str, config: DecoderConfig, tolerance: float) -> None:
    pytest.importorskip("xllamacpp", reason="needs the extra serve-demo")
    from bitroute.engines.llama_server import llama_server  # noqa: PLC0415

    Tokenizer.load(MODEL).save(tmp_path / "model")
    path = export_gguf(save_network(network(0, config), tmp_path / "model"), scheme, tmp_path)
    ours = load_model(tmp_path / "model", torch.float32)
    if scheme != "gguf-f16":
        ours = quantize_model(ours, Scheme.parse(scheme.removeprefix("gguf-")))
    tokens = torch.randint(
        4, 700, (400,), generator=torch.Generator().manual_seed(0)
    ).tolist()  # beyond the first 256 positions
    with torch.no_grad():
        logprobs = sequence_logits(ours, torch.tensor([tokens]))[0].log_softmax(-1)
    with llama_server(path, "model") as url:
        for length in (1, 7, 100, 400):
            body = {"prompt": tokens[:length], "n_predict": 1, "n_probs": 10, "temperature": 0}
            top = ask(f"{url}/completion", body)["completion_probabilities"][0]["top_logprobs"]
            assert max(abs(entry["logprob"] - float(logprobs[length - 1, entry["id"]])) for entry in top) < tolerance


def test_a_qwen3_that_llama_cpp_does_not_compute_is_refused(tmp_path: Path) -> None:
    Tokenizer.load(MODEL).save(tmp_path / "model")
    save_network(network(0, replace(LLAMA_CONFIG, qk_norm=True)), tmp_path / "model")
    with pytest.raises(DataError, match=r"config\.json: llama\.cpp's qwen3 has neither biases nor scaled"):
        export_gguf(tmp_path / "model", "gguf-f16", tmp_path)


def test_text_is_tokenized_and_histories_are_rendered_as_in_training(served: tuple[str, Decoder, float]) -> None:
    url, _, _ = served
    agent = AlfworldAgent(Tokenizer.load(MODEL))
    episode = demonstrate(splits.task("validation", 2), seed=0, noise=0.1)
    messages = agent.messages(episode.observations, episode.actions[:-1])
    trained: list[int] = []
    for message in messages:
        text = message.content
        trained += agent.prompt(text, first=not trained) if message.role == "user" else agent.completion(text)
    system, user = messages[0].content.split("\n\n")
    for history in (messages, [Message("system", f"{system}\n"), Message("user", user), *messages[1:]]):
        spelled = [{"role": message.role, "content": message.content} for message in history]
        rendered = ask(f"{url}/apply-template", {"messages": spelled})["prompt"]
        assert ask(f"{url}/tokenize", {"content": rendered, "parse_special": True})["tokens"] == trained
    strange = "Grüße, 東京!  It's 7pm\n\n\t<3 `go to` \\ 'x' don't 12345 e\u0301"
    assert ask(f"{url}/tokenize", {"content": strange})["tokens"] == agent.tokenizer.encode(strange)
