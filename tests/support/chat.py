"""Model directories with chat templates, made in a test: ChatML and Llama 3 with tools, and some that are harder to follow.

The formats are the published ones; texts and tokenizers are our own: byte-level BPE, trained on a few sentences.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from bitroute.nn.decoder import DecoderConfig, RopeScaling
from support.checkpoint import save_network
from support.networks import network

CHATML: Final = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}"
    "{{- 'You may call these functions:\n<tools>' }}"
    "{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}"
    "{{- '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant' }}"
    "{%- if message.content or not message.tool_calls %}{{- '\n' + message.content }}{%- endif %}"
    "{%- for call in message.tool_calls %}"
    '{{- \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# As above, but reasoning, which may be empty, is written in the newest answer alone, and dropped from earlier ones.
REASONING: Final = (
    "{%- set state = namespace(last=-1) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{%- set state.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'assistant' %}"
    "{%- set thought = '' %}{%- set said = message.content %}"
    "{%- if '</think>' in said %}"
    "{%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') %}"
    "{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > state.last and (loop.last or thought) %}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' }}"
    "{%- endif %}"
    "{{- said }}"
    "{%- for call in message.tool_calls %}"
    "{{- '\n<tool_call>\n' + call.function.name + ' ' }}{{- call.function.arguments | tojson }}{{- '\n</tool_call>' }}"
    "{%- endfor %}"
    "{{- '<|im_end|>\n' }}"
    "{%- else %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)

# The generation prompt begins reasoning; answers in a history never have any. No form for tools.
FORCED: Final = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '<|user|>' + message.content }}{%- endif %}"
    "{%- if message.role == 'assistant' %}{{- '<|assistant|>' + message.content + '<|im_end|>' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|><think>\n' }}{%- endif %}"
)

LLAMA3: Final = (
    "{{- bos_token }}"
    "{%- if messages[0].role == 'system' %}"
    "{%- set told = messages[0].content | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set told = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{%- if tools %}{{- 'Environment: ipython\n' }}{%- endif %}"
    "{{- 'Cutting Knowledge Date: December 2023\n\n' + told + '<|eot_id|>' }}"
    "{%- if tools %}"
    "{{- '<|start_header_id|>user<|end_header_id|>\n\nCall one of these functions in JSON, or answer.\n\n' }}"
    "{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}"
    "{{- messages[0].content | trim + '<|eot_id|>' }}"
    "{%- set messages = messages[1:] %}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'tool' %}"
    "{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}{{- message.content | tojson }}{{- '<|eot_id|>' }}"
    "{%- elif 'tool_calls' in message %}"
    "{%- if message.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}"
    "{%- set call = message.tool_calls[0].function %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' }}{{- call.arguments | tojson }}{{- '}' }}"
    "{{- '<|eom_id|>' if tools and builtin_tools is defined else '<|eot_id|>' }}"
    "{%- else %}"
    "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)

# Tools are defined before the newest user message, wherever that is, and roles must alternate.
INSTRUCTED: Final = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' %}"
    "{%- if tools and loop.index0 >= messages | length - 2 %}{{- '[TOOLS]' }}{{- tools | tojson }}{%- endif %}"
    "{{- '[INST] ' + message.content + ' [/INST]' }}"
    "{%- elif message.role == 'assistant' %}{{- ' ' + message.content | trim + eos_token }}"
    "{%- else %}{{- raise_exception('only user and assistant') }}{%- endif %}"
    "{%- endfor %}"
)

FORMATS: Final = {  # template, special tokens, beginning of text, end of text, tokens that end an answer
    "chatml": (CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), None, "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    "reasoning": (REASONING, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), None, "<|im_end|>", None),
    "forced": (
        FORCED,
        ("<|bos|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|im_end|>"),
        "<|bos|>",
        "<|endoftext|>",
        None,
    ),
    "llama3": (
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "instructed": (INSTRUCTED, ("<s>", "</s>", "[INST]", "[/INST]", "[TOOLS]"), "<s>", "</s>", ("</s>",)),
}

TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {what} of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name, what in (("get_weather", "weather"), ("get_time", "local time"))
]

TEXTS: Final = (
    "What is the weather in Paris, and what time is it in Rome? It is sunny, 21 degrees, and half past four.",
    'You are a helpful assistant. You may call these functions: {"name": "get_weather", "arguments": {"city": "Oslo"}}',
    "Cutting Knowledge Date: December 2023. user assistant system ipython tool_response tool_call parameters function",
)
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(directory: Path, name: str) -> Path:
    """The tokenizer's files of one of FORMATS, as its family has them: the template in a file or a field, one eos or more."""
    template, special, begin, end, ends = FORMATS[name]
    backend = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"bos_token": begin, "eos_token": end}
    if name == "llama3":
        config["chat_template"] = template
        (directory / "special_tokens_map.json").write_text(json.dumps({"bos_token": begin, "eos_token": end}))
    else:
        (directory / "chat_template.jinja").write_text(template)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if ends is not None:
        ids = [backend.token_to_id(token) for token in ends]
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ids if len(ids) > 1 else ids[0]}))
    return directory


def write_chat_model(directory: Path, name: str, seed: int = 0) -> Path:
    """A small random model of the family that speaks the format: `chatml` is a Qwen3, `llama3` a Llama."""
    config = DecoderConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
    )
    if name == "llama3":
        scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=512)
        config = replace(config, tie_word_embeddings=False, qk_norm=False, rope_theta=500_000.0, rope_scaling=scaling)
    return save_network(network(seed, config), write_tokenizer(directory, name))
