"""The agent that speaks a model's chat template: played, turn after turn, and recorded."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="needs the extra transformers")

from transformers import AutoTokenizer

from bitroute.agents.chat import ChatAgent
from bitroute.agents.template import ChatTemplate
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.envs.alfworld.splits import tasks
from bitroute.envs.models import find_model
from bitroute.episode import Observation
from bitroute.nn.tokenizer import Tokenizer
from support.chat import FORMATS, TOOLS, write_tokenizer

MODEL = find_model("alfworld-agent")


@cache
def directory(name: str) -> Path:
    return MODEL if name == "ours" else write_tokenizer(Path(mkdtemp()) / name, name)


@cache
def agent(name: str, system: str | None = None, tools: bool = False) -> ChatAgent:
    return ChatAgent(ChatTemplate.load(directory(name), TOOLS if tools else []), system)


@cache
def tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(str(directory(name)))


messages = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
actions = messages.map(str.strip)  # an answer that begins with white space is tokenized behind its prompt, not with it


@pytest.mark.parametrize("name", ["chatml", "llama3", "instructed", "ours"])
@pytest.mark.parametrize("system", [None, "Be brief."])
@settings(max_examples=30, deadline=None)
@given(turns=st.lists(st.tuples(messages, actions), min_size=1, max_size=4), newest=messages)
def test_prompts_and_completions_are_what_the_template_renders_of_the_whole(
    name: str, system: str | None, turns: list[tuple[str, str]], newest: str
) -> None:
    if system is not None and name == "instructed":
        return  # it has no system messages
    ours, tokens = agent(name, system), []
    chat = [] if system is None else [{"role": "system", "content": system}]
    for number, (message, action) in enumerate([*turns, (newest, "")]):
        tokens += ours.prompt(message, first=number == 0)
        chat.append({"role": "user", "content": message})
        assert tokens == tokenizer(name).apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        tokens += ours.completion(action)
        chat.append({"role": "assistant", "content": action})


def test_the_reference_agents_tokens_are_those_of_its_own_agent() -> None:
    own, ours = AlfworldAgent(Tokenizer.load(MODEL)), agent("ours")
    assert ours.end == own.tokenizer.end
    assert ours.vocab_size == own.tokenizer.vocab_size
    for task, _ in zip(tasks("validation"), range(5), strict=False):
        episode = demonstrate(task, seed=0, noise=0.2)
        told = [own.message(episode.observations[: number + 1]) for number in range(len(episode.actions))]
        kept = 0
        for number, step in enumerate(ours.steps(told, episode.actions)):
            assert step.kept == kept
            assert step.prompt == own.prompt(told[number], first=number == 0) == ours.prompt(told[number], first=number == 0)
            assert step.completion == own.completion(episode.actions[number]) == ours.completion(episode.actions[number])
            assert ours.parse(step.completion) == own.parse(step.completion) == episode.actions[number]
            kept += len(step.prompt) + len(step.completion)
        assert number + 1 == len(episode.actions)


def test_a_recorded_call_is_written_as_the_template_writes_calls() -> None:
    told, did = ["Weather in Oslo?", "3 degrees", "Thanks"], ['Wait.\nget_weather {"city":"Oslo"}', "Cold.", "Bye"]
    ours, spell = agent("chatml", tools=True), tokenizer("chatml").decode
    first, second, third = ours.steps(told, did)
    assert '"description": "The weather of a city."' in spell(first.prompt)
    assert spell(first.completion) == (
        'Wait.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call><|im_end|>'
    )
    assert ours.completion(did[0]) == first.completion
    assert spell(second.prompt) == (
        "\n<|im_start|>user\n<tool_response>\n3 degrees\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert spell(third.prompt) == "\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n"
    ours, spell = agent("llama3", tools=True), tokenizer("llama3").decode
    first, second, _ = ours.steps(told, [did[0].partition("\n")[2], *did[1:]])
    assert spell(first.completion) == '{"name": "get_weather", "parameters": {"city": "Oslo"}}<|eot_id|>'
    assert '<|start_header_id|>ipython<|end_header_id|>\n\n"3 degrees"<|eot_id|>' in spell(second.prompt)


def test_a_template_without_calls_reads_them_as_text() -> None:
    told, did = ["Weather?", "3 degrees"], ['get_weather {"city":"Oslo"}', "Cold."]
    ours, spell = agent("instructed"), tokenizer("instructed").decode
    first, second = ours.steps(told, did)
    assert spell(first.completion) == ' get_weather {"city":"Oslo"}</s>'
    assert spell(second.prompt) == "[INST] 3 degrees [/INST]"


def test_turns_that_the_template_would_write_anew_stay_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    ours, spell = ChatAgent(ChatTemplate.load(directory("reasoning"))), tokenizer("reasoning").decode
    with caplog.at_level(logging.WARNING):
        opening = spell([*ours.prompt("Hi", first=True), *ours.completion("Hello.")])
        assert not caplog.records
        later = [spell(ours.prompt(text, first=False)) for text in ("Bye", "Quagga.")]
    assert opening == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nHello.<|im_end|>"
    for text, found in zip(("Bye", "Quagga."), later, strict=True):
        assert found == f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert len(caplog.records) == 1
    assert "writes earlier turns anew" in caplog.text


@pytest.mark.parametrize("name", FORMATS)
def test_admissible_commands_are_a_trie_of_their_completions(name: str) -> None:
    ours, commands = agent(name), ("go to shelf 1", "go to shelf 2", "look", "go")
    trie = ours.constraint(commands)
    for command in commands:
        assert len(list(trie.walk(ours.completion(command)))) == len(ours.completion(command))
    assert ours.constraint(commands) is trie
    assert ours.message([Observation("opening"), Observation("seen")]) == "seen"
