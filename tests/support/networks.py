"""Tiny random networks, and what they say computed in the plainest way: the whole sequence at once, without a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from bitroute.engines.constraint import Trie
from bitroute.nn.decoder import Block, Decoder, DecoderConfig, RopeScaling, causal, rotate, sequence_logits

TINY = DecoderConfig(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
)
LLAMA = replace(
    TINY,
    tie_word_embeddings=False,
    rope_theta=500.0,
    qk_norm=False,
    rope_scaling=RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
)


def network(seed: int, config: DecoderConfig = TINY) -> Decoder:
    """A random network in float32: its blocks have a say, and greedy choices do not hang on rounding."""
    torch.manual_seed(seed)
    model = Decoder(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(10)
        for block in model.model.layers:
            for linear in (block.self_attn.o_proj, block.mlp.down_proj):
                linear.weight.mul_(10)
            for norm in (block.self_attn.q_norm, block.self_attn.k_norm):
                for weight in norm.parameters():
                    weight.uniform_(1.0, 3.0)
    return model


def plain_logprobs(model: Decoder, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log-probabilities [len(tokens), vocabulary]; row i predicts what follows token i."""
    with torch.inference_mode():
        return torch.log_softmax(sequence_logits(model, torch.tensor([list(tokens)]))[0].double(), dim=-1).numpy()


def plain_generate(model: Decoder, tokens: Sequence[int], trie: Trie | None, end: int, limit: int) -> list[int]:
    """Greedy generation, one token and one whole forward pass at a time."""
    new: list[int] = []
    while len(new) < limit and (not new or new[-1] != end):
        last = plain_logprobs(model, [*tokens, *new])[-1]
        allowed = list(range(len(last))) if trie is None else trie.allowed
        new.append(max(allowed, key=lambda token: last[token]))
        trie = None if trie is None else trie.children[new[-1]]
    return new


def mixed_logprobs(models: Mapping[str, Decoder], owners: Sequence[str], tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log-probabilities [tokens, vocabulary] when token i is read by the variant owners[i], all looking at all earlier keys."""

    def by_owner(results: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([results[owner][i] for i, owner in enumerate(owners)])

    def block(layer: int, x: torch.Tensor) -> torch.Tensor:
        blocks: dict[str, Block] = {name: model.model.layers[layer] for name, model in models.items()}
        reference = next(iter(models.values()))
        cos, sin = (t[: len(tokens)].unsqueeze(1) for t in (reference.cos, reference.sin))

        def heads(name: str, part: str) -> torch.Tensor:
            attention = blocks[name].self_attn
            out = getattr(attention, f"{part}_proj")(blocks[name].input_layernorm(x)).view(len(tokens), -1, attention.head_dim)
            return out if part == "v" else rotate(getattr(attention, f"{part}_norm")(out), cos, sin)

        q, k, v = (by_owner({name: heads(name, part) for name in models}) for part in "qkv")
        mixed = causal(1)(layer, q, k, v).flatten(1)
        x = x + by_owner({name: b.self_attn.o_proj(mixed) for name, b in blocks.items()})
        return x + by_owner({name: b.mlp(b.post_attention_layernorm(x)) for name, b in blocks.items()})

    with torch.inference_mode():
        x = by_owner({name: model.model.embed_tokens(torch.tensor(list(tokens))) for name, model in models.items()})
        for layer in range(len(next(iter(models.values())).model.layers)):
            x = block(layer, x)
        logits = by_owner({name: model.logits(model.model.norm(x)) for name, model in models.items()})
        return torch.log_softmax(logits.double(), dim=-1).numpy()
