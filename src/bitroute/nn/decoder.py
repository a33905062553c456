"""A decoder-only Transformer in plain torch, Llama's or Qwen3's; it knows nothing of files, caches, sampling or text.

Module names are those of the published checkpoints, so a state dict moves between this file and
`transformers.AutoModelForCausalLM` unchanged. Tokens come packed: one flat row, whatever sequences they belong to; who attends
to whom is the business of the `Attend` strategy passed in (causal training batches here, KV caches in `nn/kv_cache.py`).
Sources: the Llama 3 and the Qwen3 report (arXiv 2407.21783, 2505.09388): pre-norm, RMSNorm, grouped-query attention, rotary
positions, SwiGLU. Qwen3 adds a norm on each head's queries and keys; the other differences are the fields of `DecoderConfig`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows it by)

# (layer, queries [m, heads, d], keys [n, kv heads, d], values [n, kv heads, d]) -> mixed values [m, heads, d]. All tokens ask
# (m = n), except in the last layer when the caller wants the hidden states of some rows only.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How Llama 3.1 stretches rotary positions beyond the context that it was first trained on.

    A pair of dimensions that turns more than `high_freq_factor` times within `original_max_position_embeddings` positions keeps
    its speed, one that turns less than `low_freq_factor` times is slowed by `factor`; between them speeds are mixed.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What shapes the network; the names are those of a checkpoint's `config.json`, but for `qk_norm`, the mark of Qwen3."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 4096
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    qk_norm: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; `VARIATIONS` only where they differ from a plain Qwen3, so that its files stay as they
        were before there were others."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in VARIATIONS or value != VARIATIONS[name]}


VARIATIONS: Final[dict[str, Any]] = {"qk_norm": True, "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; with `qk_norm` each head's queries and keys are RMS-normalised."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        width, bias = config.hidden_size, config.attention_bias
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, queries, bias=bias)
        self.k_proj = nn.Linear(width, keys, bias=bias)
        self.v_proj = nn.Linear(width, keys, bias=bias)
        self.o_proj = nn.Linear(queries, width, bias=bias)
        self.q_norm, self.k_norm = (
            nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity() for _ in range(2)
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        k = rotate(self.k_norm(self._heads(self.k_proj(x), cos.dtype)), cos, sin)
        v = self.v_proj(x).view(len(x), -1, self.head_dim)
        if rows is not None:
            x, cos, sin = x[rows], cos[rows], sin[rows]
        q = rotate(self.q_norm(self._heads(self.q_proj(x), cos.dtype)), cos, sin)
        mixed: Tensor = self.o_proj(attend(self.layer, q, k, v).flatten(1))
        return mixed

    def _heads(self, projected: Tensor, dtype: torch.dtype) -> Tensor:
        """Projected rows [n, heads * d] as heads [n, heads, d], in the dtype of the network, not of autocast."""
        return projected.to(dtype).view(len(projected), -1, self.head_dim)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        mixed = self.self_attn(self.input_layernorm(x), cos, sin, attend, rows)
        x = (x if rows is None else x[rows]) + mixed
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Trunk(nn.Module):
    """Embeddings, blocks and the last norm: everything below the head (`model.` in a checkpoint's names)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Decoder(nn.Module):
    """The language model. `forward` returns hidden states; `logits` turns the rows one needs into logits."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                scale = (2 * config.num_hidden_layers) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale if "embed" in name else scale * parameter.shape[1] ** -0.5 * 0.5)
        self.cos: Tensor
        self.sin: Tensor
        for name, table in zip(("cos", "sin"), rotary_tables(config), strict=True):
            self.register_buffer(name, table, persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """Hidden states [n, hidden] of packed `tokens` [n] at `positions` [n] (each counted within its own sequence).

        `rows` [m] picks the tokens whose hidden states [m, hidden] are wanted: the last block then computes, of the others,
        keys and values alone.
        """
        x: Tensor = self.model.embed_tokens(tokens)
        cos, sin = self.cos[positions].to(x.dtype).unsqueeze(1), self.sin[positions].to(x.dtype).unsqueeze(1)
        *lower, last = self.model.layers
        for block in lower:
            x = block(x, cos, sin, attend)
        y: Tensor = self.model.norm(last(x, cos, sin, attend, rows))
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., hidden]."""
        y: Tensor = self.lm_head(hidden)
        return y


def frequencies(config: DecoderConfig) -> Tensor:
    """Radians a position [head dim / 2] by which each pair of dimensions turns."""
    speeds = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return speeds
    turns = scaling.original_max_position_embeddings * speeds / (2 * math.pi)
    kept = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return speeds * (kept + (1 - kept) / scaling.factor)


def rotary_tables(config: DecoderConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, head dim] in float32."""
    phases = torch.outer(torch.arange(config.max_position_embeddings).float(), frequencies(config)).repeat(1, 2)
    return phases.cos(), phases.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x [n, heads, d]; the two halves of d are the pairs (the convention of the checkpoints)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


def causal(batch: int) -> Attend:
    """The strategy for `batch` equally long sequences packed one after the other, each causal in itself."""

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        rows = [t.view(batch, -1, *t.shape[1:]).transpose(1, 2) for t in (q, k, v)]
        keys, values = (t.repeat_interleave(groups, dim=1) for t in rows[1:])
        mixed = F.scaled_dot_product_attention(rows[0], keys, values, is_causal=True)
        return mixed.transpose(1, 2).flatten(0, 1)

    return attend


def packed(lengths: Sequence[int], like: Tensor) -> Attend:
    """The strategy for sequences of these `lengths` packed one after the other, each causal in itself: nothing is padded.

    It computes in the dtype and on the device of `like`. Scores are written out: in bfloat16 on a processor, forward and
    backward together take two thirds of the time of torch's fused attention, whose backward is slow there.
    """
    longest = max(lengths)
    ahead = like.new_full((longest, longest), float("-inf")).triu(1)
    masks: dict[tuple[int, int], Tensor] = {}  # by length and query heads a kv head

    def one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Mixed values [heads, n, d] of queries [heads, n, d], keys and values [kv heads, n, d]."""
        heads, length, width = query.shape
        groups = heads // len(key)
        if (length, groups) not in masks:
            masks[length, groups] = ahead[:length, :length].repeat(groups, 1)
        scores = torch.baddbmm(
            masks[length, groups], query.reshape(len(key), -1, width), key.transpose(1, 2), alpha=width**-0.5
        )
        return (scores.softmax(-1) @ value).view(query.shape)

    def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = zip(*(torch.split(t.to(like.dtype).transpose(0, 1), list(lengths), dim=1) for t in (q, k, v)), strict=True)
        return torch.cat([one(*part) for part in parts], dim=1).transpose(0, 1)

    return attend


def sequence_logits(model: Decoder, tokens: Tensor) -> Tensor:
    """Logits [batch, time, vocabulary] of `tokens` [batch, time], causal, without a cache."""
    batch, time = tokens.shape
    positions = torch.arange(time, device=tokens.device).repeat(batch)
    return model.logits(model(tokens.flatten(), positions, causal(batch))).view(batch, time, -1)
