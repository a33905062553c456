"""Chat templates, run step by step, against what transformers renders of the whole chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="needs the extra transformers")

from transformers import AutoTokenizer

from bitroute.agents.messages import ChatMessage, ToolCall
from bitroute.agents.template import ChatTemplate, read_tools
from bitroute.envs.models import find_model
from bitroute.errors import DataError
from support.chat import FORMATS, TOOLS, write_tokenizer

MODEL = find_model("alfworld-agent")


@cache
def directory(name: str) -> Path:
    return MODEL if name == "ours" else write_tokenizer(Path(mkdtemp()) / name, name)


@cache
def template(name: str, tools: bool = False) -> ChatTemplate:
    return ChatTemplate.load(directory(name), TOOLS if tools else [])


@cache
def tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(str(directory(name)))


def expected(name: str, messages: Sequence[ChatMessage], tools: bool, **options: Any) -> list[int]:
    """What transformers makes of the chat, written here once more from its documentation."""
    told: list[dict[str, Any]] = []
    for message in messages:
        value: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            functions = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in message.calls]
            value["tool_calls"] = [{"type": "function", "function": function} for function in functions]
        told.append(value)
    options = {"add_generation_prompt": True, "enable_thinking": False} | options
    found: list[int] = tokenizer(name).apply_chat_template(told, tools=TOOLS if tools else None, return_dict=False, **options)
    return found


def rewritten(tmp_path: Path, jinja: str, **config: Any) -> Path:
    path = write_tokenizer(tmp_path / "model", "chatml")
    (path / "chat_template.jinja").write_text(jinja)
    stored = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(stored | config))
    return path


words = st.sampled_from(
    ["sunny", "Rome", " in", "21", "degrees?", "\n", "  ", "é", "東京", '{"a": 1}', "<think>", "'s", "\t", "."]
)
texts = st.lists(words, max_size=6).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.dictionaries(st.sampled_from(["city", "unit", "n"]), texts | st.integers(0, 99), max_size=2)
made = st.builds(ToolCall, st.sampled_from(["get_weather", "get_time"]), values.map(json.dumps))
calls = st.lists(made, min_size=1, max_size=2).map(tuple)


@st.composite
def chats(draw: st.DrawFn, *, system: bool = True, most_calls: int = 2) -> list[ChatMessage]:
    """A chat that ends with an answer; results follow calls, one message for each."""
    messages = [ChatMessage("system", draw(texts))] if system and draw(st.booleans()) else []
    waiting = 0
    for _ in range(draw(st.integers(1, 5))):
        messages += [ChatMessage("tool", draw(texts)) for _ in range(waiting)] or [ChatMessage("user", draw(texts))]
        answer = ChatMessage("assistant", draw(texts), draw(calls)[:most_calls] if most_calls and draw(st.booleans()) else ())
        waiting = len(answer.calls)
        messages.append(answer)
    return messages


def check(name: str, messages: Sequence[ChatMessage], tools: bool) -> None:
    """At every decision the tokens are those of the whole; every answer ends with an end token and says what it should."""
    ours, tokens = template(name, tools), []
    answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
    steps = list(ours.steps(messages))
    assert len(steps) == len(answers)
    for number, step in zip(answers, steps, strict=True):
        before = tokens
        tokens = [*tokens[: step.kept], *step.prompt]
        whole = tokenizer(name).decode(expected(name, messages[: number + 1], tools, add_generation_prompt=False))
        told = expected(name, messages[:number], tools)
        if "</think>" in messages[number].content:  # reasoning as text: the prompt asks for it
            told = expected(name, messages[:number], tools, enable_thinking=True)
        assert tokens == told
        assert step.kept == len(before) or not ours.incremental or messages[number - 2].content[:1].isspace()
        tokens = [*tokens, *step.completion]
        assert step.completion[-1] in ours.ends
        assert not ours.ends & set(step.completion[:-1])
        assert whole.startswith(tokenizer(name).decode(tokens))


@settings(max_examples=60, deadline=None)
@given(chats(), st.booleans())
def test_chatml_is_followed_step_by_step(messages: list[ChatMessage], tools: bool) -> None:
    assert template("chatml", tools).incremental
    assert template("chatml", tools).renders_calls
    check("chatml", messages, tools)


@settings(max_examples=60, deadline=None)
@given(chats(most_calls=1), st.booleans())
def test_llama_3_is_followed_step_by_step(messages: list[ChatMessage], tools: bool) -> None:
    assert template("llama3", tools).incremental
    assert template("llama3", tools).renders_calls
    check("llama3", messages, tools)


@settings(max_examples=60, deadline=None)
@given(chats(), st.booleans())
def test_a_template_that_drops_reasoning_is_followed_step_by_step(messages: list[ChatMessage], tools: bool) -> None:
    assert not template("reasoning", tools).incremental
    assert template("reasoning", tools).renders_calls
    check("reasoning", messages, tools)


@settings(max_examples=40, deadline=None)
@given(chats(system=False, most_calls=0), st.booleans())
def test_a_template_that_moves_the_tools_is_followed_step_by_step(messages: list[ChatMessage], tools: bool) -> None:
    assert template("instructed", tools).incremental is not tools
    assert not template("instructed", tools).renders_calls
    check("instructed", messages, tools)


@settings(max_examples=40, deadline=None)
@given(chats(most_calls=0))
def test_the_reference_agents_template_is_followed_step_by_step(messages: list[ChatMessage]) -> None:
    assert template("ours").incremental
    assert not template("ours").renders_calls
    check("ours", messages, tools=False)


def test_reasoning_is_kept_where_the_answer_has_it_and_dropped_later() -> None:
    chat = [
        ChatMessage("user", "Weather?"),
        ChatMessage("assistant", "<think>\nParis?\n</think>\n\nSunny."),
        ChatMessage("user", "Thanks"),
        ChatMessage("assistant", "Welcome."),
    ]
    ours = template("reasoning")
    first, second = ours.steps(chat)
    spell = tokenizer("reasoning").decode
    assert spell(first.prompt) == "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n"
    assert spell(first.completion) == "<think>\nParis?\n</think>\n\nSunny.<|im_end|>"
    assert spell([*first.prompt, *first.completion][: second.kept]) + spell(second.prompt) == (
        "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\nSunny.<|im_end|>\n"
        "<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert spell(second.completion) == "Welcome.<|im_end|>"


def test_reasoning_that_the_prompt_forces_is_left_out_before_answers_without() -> None:
    chat = [
        ChatMessage("user", "Hi"),
        ChatMessage("assistant", "<ok>"),
        ChatMessage("user", "?"),
        ChatMessage("assistant", "!"),
    ]
    steps = list(template("forced").steps(chat))
    assert [tokenizer("forced").decode(step.prompt) for step in steps] == [
        "<|bos|><|user|>Hi<|assistant|>",
        "<|user|>?<|assistant|>",
    ]
    assert [tokenizer("forced").decode(step.completion) for step in steps] == ["<ok><|im_end|>", "!<|im_end|>"]


@pytest.mark.parametrize(
    ("name", "end", "ends"),
    [
        ("chatml", "<|im_end|>", {"<|im_end|>", "<|endoftext|>"}),
        ("llama3", "<|eot_id|>", {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"}),
        ("forced", "<|im_end|>", {"<|im_end|>", "<|endoftext|>"}),  # the tokenizer's eos is not what ends an answer
        ("instructed", "</s>", {"</s>"}),
        ("ours", "<|end|>", {"<|end|>"}),
    ],
)
def test_what_ends_an_answer_is_found(name: str, end: str, ends: set[str]) -> None:
    ours, spell = template(name), tokenizer(name).convert_ids_to_tokens
    assert spell(ours.end) == end
    assert {spell(token) for token in ours.ends} == ends
    assert ours.vocab_size == len(tokenizer(name))


@pytest.mark.parametrize("name", [*FORMATS, "ours"])
def test_a_generated_answer_reads_as_its_text(name: str) -> None:
    ours = template(name)
    for text in ("It is 21 degrees.", "Sì:\n- 東京", ""):
        (step,) = ours.steps([ChatMessage("user", "Weather?"), ChatMessage("assistant", text)])
        assert ours.parse(step.completion) == text
        assert ours.parse([*step.completion, *step.completion]) == text
    (step,) = ours.steps([ChatMessage("user", "Weather?"), ChatMessage("assistant", "stopped in the mid")])
    assert ours.parse(step.completion[:-1]) == "stopped in the mid"


def test_a_template_that_wants_arguments_as_json_gets_them_so(tmp_path: Path) -> None:
    jinja = (
        "{% for message in messages %}{{ message.role + ': ' + message.content }}{% for call in message.tool_calls %}"
        "{{ call.function.name + call.function.arguments }}{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    ours = ChatTemplate.load(rewritten(tmp_path, jinja))
    call = ToolCall("get_time", '{"city":"Rome"}')
    (step,) = ours.steps([ChatMessage("user", "?"), ChatMessage("assistant", "", (call,))])
    assert ours.renders_calls
    assert ours.parse(step.completion) == 'get_time{"city":"Rome"}'


def test_equal_messages_do_not_hide_that_a_template_looks_for_the_newest(tmp_path: Path) -> None:
    jinja = (
        "{% set asked = messages | selectattr('role', 'equalto', 'user') | list %}"
        "{% for message in messages %}{% if message == asked[-1] %}Newest: {% endif %}"
        "{{ message.content }}<|im_end|>{% endfor %}"
    )
    assert not ChatTemplate.load(rewritten(tmp_path, jinja)).incremental


def test_the_digest_is_that_of_template_and_tools() -> None:
    digests = [template(name, tools).digest for name in ("chatml", "llama3") for tools in (False, True)]
    assert len(set(digests)) == 4
    assert ChatTemplate.load(directory("chatml")).digest == digests[0]


def test_a_step_that_the_template_refuses_is_told_when_it_comes() -> None:
    call = ToolCall("get_time")
    chat = [
        ChatMessage("user", "?"),
        ChatMessage("assistant", "!"),
        ChatMessage("user", "?"),
        ChatMessage("assistant", "", (call, call)),
    ]
    steps = template("llama3").steps(chat)
    next(steps)
    with pytest.raises(DataError, match=r"llama3: the chat template refuses a chat \(.*one call at a time\)$"):
        next(steps)


@pytest.mark.parametrize(
    ("jinja", "told"),
    [
        ("{% for message in messages %}{{ message.content }}{% endfor %}", "no special token after an answer"),
        ("{% for message in messages %}{{ message.role }}<|im_end|>{% endfor %}", "does not write an answer where"),
        (
            "{% if add_generation_prompt %}<|im_start|>{% endif %}"
            "{% for message in messages %}{{ message.content }}<|im_end|>{% endfor %}",
            "does not write an answer where",
        ),
        ("{{ raise_exception('not today') }}", r"refuses a chat \(TemplateError: not today\)"),
        ("{% for message in messages %", r"refuses a chat \(TemplateSyntaxError"),
    ],
)
def test_a_template_that_does_not_work_is_one_line(tmp_path: Path, jinja: str, told: str) -> None:
    path = rewritten(tmp_path, jinja)
    with pytest.raises(DataError, match=rf"^{path}: the chat template .*{told}") as caught:
        ChatTemplate.load(path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no: no such directory"):
        ChatTemplate.load(tmp_path / "no")
    with pytest.raises(DataError, match=r"tokenizer\.json or tokenizer_config\.json cannot be read"):
        ChatTemplate.load(tmp_path)
    path = write_tokenizer(tmp_path / "model", "chatml")
    generation = path / "generation_config.json"
    generation.unlink()
    assert ChatTemplate.load(path).ends == {2}
    for damaged in ("{", "[]", '{"eos_token_id": "<end>"}', '{"eos_token_id": [2, null]}', b"\xff"):
        generation.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        with pytest.raises(DataError, match=rf"^{generation}: ") as caught:
            ChatTemplate.load(path)
        assert "\n" not in str(caught.value)
    generation.write_text('{"eos_token_id": [3]}')
    assert ChatTemplate.load(path).ends == {2, 3}
    generation.unlink()
    (path / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="the tokenizer has no chat template"):
        ChatTemplate.load(path)
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json or tokenizer_config\.json cannot be read") as caught:
        ChatTemplate.load(path)
    assert "\n" not in str(caught.value)


def test_definitions_of_tools_are_a_list(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS))
    assert read_tools(path) == TOOLS
    for text in ("{}", "[1]", "[", '"get_time"'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"tools\.json: not a list of definitions of tools"):
            read_tools(path)
    with pytest.raises(DataError, match="cannot read"):
        read_tools(tmp_path / "none.json")
