"""A decoder-only Transformer in plain torch: the architecture, and nothing about caches, sampling or text.

Module names are those of the published checkpoints, so a state dict moves between this file and
`transformers.AutoModelForCausalLM` unchanged. Tokens come packed: one flat row, whatever sequences they belong to; who attends
to whom is the business of the `Attend` strategy passed in (causal training batches here, KV caches in `engines/torch.py`).
Source: the Qwen3 technical report (arXiv 2505.09388): pre-norm, RMSNorm, grouped-query attention with normalised queries and
keys, rotary positions, SwiGLU, tied embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows it by)

# (layer, queries [m, heads, d], keys [n, kv heads, d], values [n, kv heads, d]) -> mixed values [m, heads, d]. All tokens ask
# (m = n), except in the last layer when the caller wants the hidden states of some rows only.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The fields of a checkpoint's `config.json` that shape the network; the names are that file's."""

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


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised queries and keys and rotary positions."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        width, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        k = rotate(self._heads(self.k_proj(x), self.k_norm), cos, sin)
        v = self.v_proj(x).view(len(x), -1, self.head_dim)
        if rows is not None:
            x, cos, sin = x[rows], cos[rows], sin[rows]
        q = rotate(self._heads(self.q_proj(x), self.q_norm), cos, sin)
        mixed: Tensor = self.o_proj(attend(self.layer, q, k, v).flatten(1))
        return mixed

    def _heads(self, projected: Tensor, norm: nn.RMSNorm) -> Tensor:
        """Projected rows [n, heads * d] as normalised heads [n, heads, d], in the dtype of the norm, not of autocast."""
        heads: Tensor = norm(projected.to(norm.weight.dtype).view(len(projected), -1, self.head_dim))
        return heads


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

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
        angles = config.rope_theta ** (-torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        phases = torch.outer(torch.arange(config.max_position_embeddings).float(), angles).repeat(1, 2)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", phases.cos(), persistent=False)
        self.register_buffer("sin", phases.sin(), persistent=False)

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


def sequence_logits(model: Decoder, tokens: Tensor) -> Tensor:
    """Logits [batch, time, vocabulary] of `tokens` [batch, time], causal, without a cache."""
    batch, time = tokens.shape
    positions = torch.arange(time).repeat(batch)
    return model.logits(model(tokens.flatten(), positions, causal(batch))).view(batch, time, -1)
