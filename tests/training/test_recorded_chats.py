"""From recorded tool-calling traffic of a small Qwen3 with ChatML, and of a small Llama with Llama 3's format, to routers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra transformers")

from transformers import AutoTokenizer

from bitroute.agents.chat import ChatAgent
from bitroute.agents.messages import conversation as read_chat
from bitroute.agents.template import ChatTemplate
from bitroute.cli.main import main
from bitroute.episode import Decision, Episode, Step, Usage, View
from bitroute.gateway.routing.loading import load_router
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import sequence_logits
from bitroute.nn.tokenizer import Tokenizer
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.routers.registry import build_router
from bitroute.store.traces import TraceWriter, read_traces
from bitroute.training.recorded import calibration
from support.chat import TOOLS, write_chat_model

pytestmark = pytest.mark.slow  # all share a training for each family of models

LOW = "w2g128-rtn"
FAMILIES = ("chatml", "llama3")
CITIES = ("Paris", "Oslo", "Rome", "Lima", "Quito", "Kyoto")
TOLD: list[tuple[str, str]] = [  # what a gateway records of one conversation
    ("You are brief.\nWeather in {city} at {hour}?", 'get_weather {{"city":"{city}"}}'),
    ('{{"sky": "clear", "degrees": {hour}}}', "Clear, {hour} degrees in {city}."),
    ("And the time?", 'Let me look.\nget_time {{"city":"{city}"}}'),
    ("{hour}:00", "It is {hour}."),
]


def conversation(number: int) -> Episode:
    """Every third step was answered by low."""
    chance = random.Random(number)
    facts = {"city": chance.choice(CITIES), "hour": f"{chance.randrange(24):02d}"}
    steps = [
        Step(message.format(**facts), action.format(**facts), Decision(variant), None, Usage(variant))
        for at, (message, action) in enumerate(TOLD)
        for variant in ["low" if (number + at) % 3 == 0 else "high"]
    ]
    return Episode(f"e{number}", "unknown", "gateway", "random@1", 0, tuple(steps), success=True)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("models") / family, family)


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on 12 conversations."""
    folder = tmp_path_factory.mktemp("run")
    with TraceWriter(folder / "traces.jsonl") as writer:
        for number in range(12):
            writer.write(conversation(number))
    (folder / "tools.json").write_text(json.dumps(TOOLS))
    given = [
        "--traces",
        f"{folder / 'traces.jsonl'}",
        "--tools",
        f"{folder / 'tools.json'}",
        "--model",
        str(model),
        "--low",
        LOW,
    ]
    assert main(["train", "router", *given, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_labels_are_taken_over_what_the_template_renders(model: Path, run: Path) -> None:
    spell = AutoTokenizer.from_pretrained(str(model))
    high = load_model(model, torch.float32)
    variants = [high, quantize_model(high, Scheme.parse(LOW))]
    for number in (0, 4, 5):
        facts = random.Random(number)
        city, hour = facts.choice(CITIES), f"{facts.randrange(24):02d}"
        calls = [
            {"type": "function", "function": {"name": name, "arguments": {"city": city}}}
            for name in ("get_weather", "get_time")
        ]
        chat = [
            {"role": "user", "content": f"You are brief.\nWeather in {city} at {hour}?"},
            {"role": "assistant", "content": "", "tool_calls": calls[:1]},
            {"role": "tool", "content": f'{{"sky": "clear", "degrees": {hour}}}'},
            {"role": "assistant", "content": f"Clear, {hour} degrees in {city}."},
            {"role": "user", "content": "And the time?"},
            {"role": "assistant", "content": "Let me look.", "tool_calls": calls[1:]},
            {"role": "tool", "content": f"{hour}:00"},
            {"role": "assistant", "content": f"It is {hour}."},
        ]
        (found,) = [e for e in read_traces(run / "traces" / "labels.jsonl") if e.task_id == f"e{number}"]
        assert len(found.steps) == 4
        for at, step in enumerate(found.steps):
            if (number + at) % 3 == 0:
                continue  # low's: high answers something else
            options = {"tools": TOOLS, "tokenize": False}
            prompt = spell.apply_chat_template(chat[: 2 * at + 1], add_generation_prompt=True, **options)
            whole = spell.apply_chat_template(chat[: 2 * at + 2], **options).rstrip("\n")
            tokens, first = (spell.encode(text, add_special_tokens=False) for text in (whole, prompt))
            with torch.no_grad():
                p, q = (sequence_logits(m, torch.tensor([tokens]))[0, len(first) - 1 : -1].log_softmax(-1) for m in variants)
            assert step.sensitivity
            assert step.sensitivity.kl_sum == pytest.approx(float((p.exp() * (p - q)).sum()), rel=2e-3)
            assert step.sensitivity.action == step.action
            assert step.sensitivity.agrees == (q.argmax(-1).tolist() == tokens[len(first) :])


def test_low_steps_are_labelled_over_what_high_generates(run: Path) -> None:
    for episode in read_traces(run / "traces" / "labels.jsonl"):
        for step in episode.steps:
            assert step.sensitivity
            assert step.sensitivity.kl_sum > 0
            assert (step.sensitivity.action == step.action) == (step.decision.variant == "high")


def test_the_routers_load_in_the_gateway_and_have_a_tokenizer_of_their_own(run: Path, model: Path) -> None:
    for name in ("kl-st", "signals.json"):
        loaded = load_router(str(run / "routers" / name), ("low", "high"))
        assert [row.budget for row in loaded.calibration] == [0.1, 0.2, 0.3, 0.5]
        router = loaded.at(0.3)
        view = View(("Weather?", "21"), ('get_weather {"city":"Paris"}',), ("low",), (None,))
        (decision,) = router.decide([view], [router.begin(0)])
        assert decision.variant in ("low", "high")
        assert decision.score is not None
    own = Tokenizer.load(run / "routers" / "kl-st")
    stored = json.loads((run / "routers" / "kl-st" / "router.json").read_text())
    assert own.vocab_size == stored["config"]["vocab_size"] <= 2048
    assert len(own.encode(" degrees")) == 1
    assert stored["variants"] == [LOW, "bf16"]
    build_router(str(run / "routers" / "kl-st"), (LOW, "bf16"), stored["model"])


def test_a_run_with_another_template_is_another_run(run: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--traces", str(run.parent / "traces.jsonl"), "--model", str(model), "--low", LOW, "--out", str(run)]
    assert main(["train", "router", *given]) == 2
    assert "template" in capsys.readouterr().err


def test_gptq_is_calibrated_on_whole_chats(model: Path) -> None:
    agent = ChatAgent(ChatTemplate.load(model))
    batches, source = calibration(agent, [conversation(number) for number in range(70)])
    assert (len(batches), source) == (64, "64 recorded episodes")
    steps = conversation(3).steps
    chat = read_chat([step.message for step in steps], [step.action for step in steps], tools=True)
    assert batches[3].tolist() == [agent.template.encode(agent.template.text(chat).rstrip("\n"))]
