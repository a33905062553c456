"""One token a word, loss-free for any text, and the very sequence that transformers renders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bitroute.episode import Message, View
from bitroute.errors import DataError
from bitroute.nn.tokenizer import ASSISTANT, END, SPECIAL, USER, Tokenizer, TurnTokenizer, train_tokenizer

WORDS = [" countertop", " coffeemachine", " 1", " 12", " 50", "take", " from"]
TEXTS = ["You arrive at countertop 1. On the countertop 1, you see a mug 1.", "take mug 1 from countertop 1"] * 3
TOKENIZER = train_tokenizer(TEXTS, 400, WORDS)


@given(st.text())
def test_any_text_survives(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_required_words_are_one_token_wherever_they_occur() -> None:
    for word in WORDS:
        assert len(TOKENIZER.encode(word)) == 1
    (countertop,) = TOKENIZER.encode(" countertop")
    assert TOKENIZER.encode("You see a countertop 12.").count(countertop) == 1
    assert TOKENIZER.encode("move mug 1 to countertop 12").count(countertop) == 1
    assert TOKENIZER.token(countertop) == " countertop"


def test_words_of_the_texts_fill_the_room_that_is_left() -> None:
    assert len(TOKENIZER.encode(" mug")) == 1
    assert TOKENIZER.vocab_size <= 400
    tight = train_tokenizer(TEXTS, train_tokenizer([], 400, WORDS).vocab_size, WORDS)
    assert len(tight.encode(" mug")) > 1
    assert all(len(tight.encode(word)) == 1 for word in WORDS)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match="vocab_size 262: the required words need"):
        train_tokenizer(TEXTS, 262, WORDS)


def test_training_is_deterministic(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 400, WORDS).save(tmp_path)
    first = (tmp_path / "tokenizer.json").read_bytes()
    train_tokenizer(list(reversed(TEXTS)), 400, list(reversed(WORDS))).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == first


def test_special_tokens_are_single_and_distinct() -> None:
    ids = [TOKENIZER.encode(token) for token in SPECIAL]
    assert ids == [[TOKENIZER.pad], [TOKENIZER.user], [TOKENIZER.assistant], [TOKENIZER.end]]
    assert len({TOKENIZER.pad, TOKENIZER.user, TOKENIZER.assistant, TOKENIZER.end}) == 4


def test_the_pre_tokenizer_is_gpt2s(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["pre_tokenizer"]["type"] == "ByteLevel"
    assert saved["pre_tokenizer"]["use_regex"] is True
    assert saved["pre_tokenizer"]["add_prefix_space"] is False
    assert saved["normalizer"] is None
    assert saved["post_processor"] is None
    assert saved["model"]["type"] == "BPE"


@pytest.mark.parametrize(
    "roles",
    [["user"], ["user", "assistant"], ["user", "assistant", "user"], ["system", "user", "assistant", "user", "user"]],
)
@pytest.mark.parametrize("prompted", [True, False])
def test_transformers_renders_the_training_sequence(
    tmp_path: Path, roles: list[Literal["system", "user", "assistant"]], prompted: bool
) -> None:
    TOKENIZER.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [f" text {number}\n\n of '{role}' {{{{ x }}}} \n" for number, role in enumerate(roles)]
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=True)]
    rendered = loaded.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in messages],
        add_generation_prompt=prompted,
        return_dict=False,
    )
    asked = [*messages, Message("user", "")] if roles[-1] == "assistant" else messages
    view = View.from_messages(asked)
    told = view.messages[:-1] if roles[-1] == "assistant" else view.messages
    answers = [*view.actions, None]
    expected = "".join(
        USER + said + ("" if answer is None else ASSISTANT + answer + END) for said, answer in zip(told, answers, strict=False)
    )
    assert rendered == TOKENIZER.encode(expected + (ASSISTANT if prompted else ""))
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.bos_token) == (TOKENIZER.end, TOKENIZER.pad, None)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "new")
    loaded = Tokenizer.load(tmp_path / "new")
    text = USER + TEXTS[0] + ASSISTANT + TEXTS[1] + END
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.vocab_size == TOKENIZER.vocab_size
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot be read"):
        Tokenizer.load(tmp_path)
    TOKENIZER.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"tokenizer\.json: is no tokenizer file"):
        Tokenizer.load(tmp_path)
    path.write_text(whole.replace("<|end|>", "<|stop|>"))
    with pytest.raises(DataError, match=r"the special token <\|end\|> is missing"):
        TurnTokenizer.load(tmp_path)
    plain = Tokenizer.load(tmp_path)  # a tokenizer all the same
    assert not isinstance(plain, TurnTokenizer) and plain.encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])


@pytest.mark.parametrize("number", [-1, TOKENIZER.vocab_size])
def test_unknown_ids_have_no_text(number: int) -> None:
    with pytest.raises(ValueError, match=f"token id {number} is not in"):
        TOKENIZER.token(number)
