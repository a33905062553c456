"""Tokenizers: any model's, and the byte-level BPE of our own in which every word of a small closed vocabulary is one token.

It knows text, not tasks.

The pre-tokenizer is GPT-2's (llama.cpp calls it `gpt-2`): a word keeps its leading space, so an object's name is the same token
wherever it follows a space. The files are Hugging Face `tokenizers`': `transformers.AutoTokenizer` loads the directory, chat
template included.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from bitroute.errors import DataError
from bitroute.store.files import write_atomic

PAD: Final = "<|pad|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
END: Final = "<|end|>"
SPECIAL: Final = (PAD, USER, ASSISTANT, END)

# Consecutive messages that the agent reads (system, user) are joined with a newline, as `View.from_messages` joins them. A user
# turn ends with the assistant's marker, not with an end token.
CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    f"{{{{- '{ASSISTANT}' + message['content'] + '{END}' -}}}}"
    "{%- elif loop.first or loop.previtem['role'] == 'assistant' -%}"
    f"{{{{- '{USER}' + message['content'] -}}}}"
    "{%- else -%}"
    "{{- '\\n' + message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{- '{ASSISTANT}' -}}}}{{%- endif -%}}"
)


class Tokenizer:
    """Text to token ids and back, loss-free for any text, by the `tokenizer.json` of any model. Special tokens are recognised
    wherever they are spelled out."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend

    @property
    def vocab_size(self) -> int:
        """Number of token ids, the special ones included."""
        return int(self._backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special tokens spelled out."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=False))

    def token(self, number: int) -> str:
        """The text of one token id; raises ValueError when there is no such id."""
        if not 0 <= number < self.vocab_size:
            raise ValueError(f"token id {number} is not in 0..{self.vocab_size - 1}")
        return self.decode([number])

    @staticmethod
    def load(directory: str | Path) -> Tokenizer:
        """The tokenizer in `directory`, a TurnTokenizer when it has the markers of turns.

        Raises DataError when its file is missing or damaged.
        """
        backend = _read(directory)
        turns = all(backend.token_to_id(token) is not None for token in SPECIAL)
        return TurnTokenizer(backend) if turns else Tokenizer(backend)


class TurnTokenizer(Tokenizer):
    """A tokenizer with a token each for padding, the beginning of a user's and of an assistant's turn, and an answer's end."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a trained `tokenizers.Tokenizer`. Raises DataError when it lacks one of the special tokens."""
        super().__init__(backend)
        ids = {}
        for token in SPECIAL:
            number = backend.token_to_id(token)
            if number is None:
                raise DataError(f"tokenizer.json: the special token {token} is missing")
            ids[token] = number
        self.pad, self.user, self.assistant, self.end = (ids[token] for token in SPECIAL)

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into `directory` (made if missing); each replaces atomically."""
        folder = Path(directory)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": None,
            "eos_token": END,
            "pad_token": PAD,
            "unk_token": None,
            "additional_special_tokens": [USER, ASSISTANT],
            "add_bos_token": False,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        write_atomic(folder / "tokenizer.json", self._backend.to_str(pretty=True) + "\n")
        write_atomic(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    @staticmethod
    def load(directory: str | Path) -> TurnTokenizer:
        """The tokenizer saved in `directory`. Raises DataError when its file is missing, damaged, or lacks a special token."""
        return TurnTokenizer(_read(directory))


def _read(directory: str | Path) -> tokenizers.Tokenizer:
    path = Path(directory) / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a tokenizer ({type(error).__name__})") from error
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the binding raises bare Exception for every kind of damage
        raise DataError(f"{path}: is no tokenizer file") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int, words: Iterable[str] = ()) -> TurnTokenizer:
    """Train on `texts`; each of `words` (spelled with its leading space where it has one) becomes exactly one token.

    Every distinct word counts once: the aim is one token a word with shared pieces, not the shortest text, and a rare object's
    name must be as whole as a frequent one's. The texts' words get the room that the required ones leave, most frequent first.
    Raises DataError when `vocab_size` (256 bytes and the special tokens included) is too small for the required words.
    """
    whole = sorted({piece for word in words for piece in _pieces(word)})
    counts = Counter(piece for text in texts for piece in _pieces(text))
    further = sorted(counts.keys() - set(whole), key=lambda piece: (-counts[piece], piece))
    fits, too_many = -1, min(len(further), vocab_size) + 1  # each is a token of its own
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _train(whole + further[:middle]).get_vocab_size() <= vocab_size:
            fits = middle
        else:
            too_many = middle
    if fits < 0:
        raise DataError(f"vocab_size {vocab_size}: the required words need {_train(whole).get_vocab_size()}")
    return TurnTokenizer(_train(whole + further[:fits]))


def _split() -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _pieces(text: str) -> list[str]:
    """What the pre-tokenizer makes of `text`; BPE never merges across these."""
    return [text[start:end] for _, (start, end) in _split().pre_tokenize_str(text)]


def _train(words: Sequence[str]) -> tokenizers.Tokenizer:
    """BPE on distinct words until each is one token. Deterministic: the trainer breaks ties by token id."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = _split()
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(words, trainer)
    return backend
