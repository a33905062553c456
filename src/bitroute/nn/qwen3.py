"""A Qwen3 decoder in plain torch: the architecture, and nothing about caches, sampling or text.

Module names are those of the published checkpoints, so a state dict moves between this file and
`transformers.AutoModelForCausalLM` unchanged. Tokens come packed: one flat row, whatever sequences they belong to; who attends
to whom is the business of the `Attend` strategy passed in (causal training batches here, KV caches in `engines/torch.py`).
Source: the Qwen3 technical report (arXiv 2505.09388): pre-norm, RMSNorm, grouped-query attention with normalised queries and
keys, rotary positions, SwiGLU, tied embeddings.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the name everybody knows it by)

from bitroute.errors import DataError

# (layer, queries [m, heads, d], keys [n, kv heads, d], values [n, kv heads, d]) -> mixed values [m, heads, d]. All tokens ask
# (m = n), except in the last layer when the caller wants the hidden states of some rows only.
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Qwen3Config:
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

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `directory/config.json`. Raises DataError when it is missing, damaged, or describes another architecture."""
        path = directory / "config.json"
        try:
            values = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise DataError(f"{path}: cannot read the model configuration ({error})") from error
        if values.get("model_type") != "qwen3":
            raise DataError(f"{path}: model_type is {values.get('model_type')!r}; this engine runs 'qwen3'")
        rope = values.get("rope_parameters") or {}
        refused = {
            "rope_parameters": rope.get("rope_type", "default") != "default",
            "rope_scaling": bool(values.get("rope_scaling")),
            "attention_bias": bool(values.get("attention_bias")),
            "use_sliding_window": bool(values.get("use_sliding_window")),
            "hidden_act": values.get("hidden_act", "silu") != "silu",
        }
        if any(refused.values()):
            field = next(field for field, is_refused in refused.items() if is_refused)
            raise DataError(f"{path}: {field} is {values[field]!r}; this engine does not compute that")
        if "rope_theta" in rope:
            values.setdefault("rope_theta", rope["rope_theta"])
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise DataError(f"{path}: lacks {', '.join(missing)}")
        found = {f.name: values[f.name] for f in fields if f.name in values}
        for f in fields:
            value = found.get(f.name, f.default)
            if f.type == "bool":
                fits = isinstance(value, bool)
            else:
                fits = type(value) in ((int,) if f.type == "int" else (int, float)) and value > 0
            if not fits:
                raise DataError(f"{path}: {f.name} is {value!r}, which is no {'' if f.type == 'bool' else 'positive '}{f.type}")
        config = cls(**found)
        if config.num_attention_heads % config.num_key_value_heads:
            raise DataError(f"{path}: num_attention_heads is no multiple of num_key_value_heads")
        return config

    def to_json(self, *, end_token: int, pad_token: int) -> dict[str, Any]:
        """The `config.json` that transformers reads."""
        return dataclasses.asdict(self) | {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "bos_token_id": None,
            "eos_token_id": end_token,
            "pad_token_id": pad_token,
            "torch_dtype": "bfloat16",
        }


class Attention(nn.Module):
    """Grouped-query attention with RMS-normalised queries and keys and rotary positions."""

    def __init__(self, config: Qwen3Config, layer: int) -> None:
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

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, config: Qwen3Config, layer: int) -> None:
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


class Decoder(nn.Module):
    """Embeddings, blocks and the last norm: everything below the head (`model.` in a checkpoint's names)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class Qwen3(nn.Module):
    """The language model. `forward` returns hidden states; `logits` turns the rows one needs into logits."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
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


def sequence_logits(model: Qwen3, tokens: Tensor) -> Tensor:
    """Logits [batch, time, vocabulary] of `tokens` [batch, time], causal, without a cache."""
    batch, time = tokens.shape
    positions = torch.arange(time).repeat(batch)
    return model.logits(model(tokens.flatten(), positions, causal(batch))).view(batch, time, -1)


def load_model(directory: Path, dtype: torch.dtype = torch.bfloat16) -> Qwen3:
    """A checkpoint directory (`config.json`, `*.safetensors`) as a model in `dtype`, ready to run.

    Raises DataError naming the file when a part is missing, truncated or of another shape.
    """
    model = Qwen3(Qwen3Config.load(directory))
    paths = sorted(directory.glob("model*.safetensors"))
    if not paths:
        raise DataError(f"{directory}: no model*.safetensors here")
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            state |= load_file(path)
        except Exception as error:  # safetensors raises its own SafetensorError, an Exception, for whatever is wrong inside
            raise DataError(f"{path}: not a readable safetensors file ({error})") from error
    if model.config.tie_word_embeddings:
        state.setdefault("lm_head.weight", state.get("model.embed_tokens.weight", torch.empty(0)))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{directory}: weights do not fit config.json ({str(error).splitlines()[-1].strip()})") from error
    return model.to(dtype).eval()
