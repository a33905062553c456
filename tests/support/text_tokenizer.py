"""A tokenizer as pretrained models have them: byte-level BPE, each digit alone, no markers of turns."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from bitroute.nn.tokenizer import Tokenizer

END = "<|im_end|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
WORDS = ["Here", " a", " mug", " take", " go", " to", " desk", " put", "Goal", " from", " shelf", " On", "On", "Task", "Room"]


def text_backend() -> tokenizers.Tokenizer:
    """Trained on a few words; 300 ids at most."""
    backend = tokenizers.Tokenizer(models.BPE())
    digits, split = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence([digits, split]), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[
            AddedToken("<|endoftext|>", special=True, normalized=False),
            AddedToken(END, special=True, normalized=False),
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    return backend


def text_tokenizer() -> Tokenizer:
    """The same as the package's own kind."""
    return Tokenizer(text_backend())


def save_text_tokenizer(directory: Path) -> Tokenizer:
    """Write its files as transformers does."""
    directory.mkdir(parents=True, exist_ok=True)
    backend = text_backend()
    (directory / "tokenizer.json").write_text(backend.to_str())
    settings = {"eos_token": END, "pad_token": END, "unk_token": "<|endoftext|>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer(backend)
