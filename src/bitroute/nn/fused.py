"""A decoder that only reads: the network of `nn/decoder.py` without gradients, in fewer and larger operations.

It computes what the decoder computes, up to rounding, and knows as little of files, caches and text. Products that read the
same rows are one product; a norm's weight is part of the product behind it, and that of a head's norm part of the rotation,
so that normalising a row is one sum and one scale. Weights are copies, dense and in the decoder's dtype, laid out for the
processor's products; the decoder itself may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.decoder import Attend, Attention, Block, Decoder, FeedForward
from bitroute.nn.product import Product, make_product


class Encoded(Protocol):
    """What a layer that is no `nn.Linear` offers in the place of its weight."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs]."""
        ...


class FusedDecoder:
    """A decoder's network as it stands; later changes of the decoder do not reach it. Use it in inference mode."""

    @torch.no_grad()
    def __init__(self, model: Decoder, head: Product | None = None) -> None:
        """`head` is the product with the head's weight, where another network has made it."""
        config, trunk = model.config, model.model
        self.config = config
        self.embedding = trunk.embed_tokens.weight.detach()
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        half = config.head_dim // 2
        against, along = model.sin[:, :half], model.sin[:, half:]  # the first half of a head is turned against the second
        self.cos, self.sin = model.cos.to(self.dtype), torch.cat((-against, along), dim=1).to(self.dtype)
        self.norm = RowNorm(config.hidden_size, config.rms_norm_eps)
        self.layers: list[tuple[FusedAttention, FusedFeedForward]] = []
        blocks = cast("Sequence[Block]", trunk.layers)
        for block in blocks:
            attention = FusedAttention(block.self_attn, block.input_layernorm.weight, self.dtype, split=block is blocks[-1])
            self.layers.append((attention, FusedFeedForward(block.mlp, block.post_attention_layernorm.weight, self.dtype)))
        self.final = trunk.norm
        self.head = head or make_product(model.lm_head.weight.detach())

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """Hidden states, as `Decoder.forward` gives them."""
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)
        for attention, feed_forward in self.layers:
            q, k, v = attention.heads(self.norm(x), cos, sin, rows if attention.split else None)
            if attention.split and rows is not None:
                x = x[rows]
            x = attention.out.plus(attend(attention.layer, q, k, v).flatten(1), x)
            x = feed_forward(self.norm(x), x)
        y: Tensor = self.final(x)
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary] of hidden states [n, hidden]."""
        return self.head(hidden)


class FusedAttention:
    """Queries, keys and values of one layer from rows that are normalised already, and the product behind attention.

    `split`: the queries are a product of their own, because those of some rows alone may be wanted (in the last layer).
    """

    def __init__(self, attention: Attention, norm: Tensor, dtype: torch.dtype, *, split: bool) -> None:
        self.layer, self.head_dim, self.split = attention.layer, attention.head_dim, split
        groups = [[attention.q_proj], [attention.k_proj, attention.v_proj]]
        groups = groups if split else [[layer for group in groups for layer in group]]
        self.projections = [fuse(group, dtype, norm) for group in groups]
        self.out = fuse([attention.o_proj], dtype)
        self.query_heads = attention.q_proj.out_features // self.head_dim
        self.key_heads = attention.k_proj.out_features // self.head_dim
        norms = (attention.q_norm, attention.k_norm)
        self.head_norm = RowNorm(self.head_dim, cast("float", norms[0].eps)) if isinstance(norms[0], nn.RMSNorm) else None
        self.gains = [gains(norm.weight) for norm in norms if isinstance(norm, nn.RMSNorm)]

    def heads(self, x: Tensor, cos: Tensor, sin: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [m, heads, d] of the `rows` (of all by default) of x [n, hidden], keys and values [n, kv heads, d] of all."""
        keys, width = self.key_heads, self.head_dim
        if self.split:
            queries, both = self.projections
            q, kv = queries(x if rows is None else x[rows]).view(-1, self.query_heads, width), both(x).view(len(x), -1, width)
            k, v = kv[:, :keys], kv[:, keys:]
            at = (cos, sin) if rows is None else (cos[rows], sin[rows])
            return self._turn(q, *at, 0), self._turn(k, cos, sin, 1), v
        qkv = self.projections[0](x).view(len(x), -1, width)
        if self.head_norm is None:
            qk = turn(qkv[:, :-keys], cos, sin)
            return qk[:, :-keys], qk[:, -keys:], qkv[:, -keys:]
        q, k, v = qkv[:, : -2 * keys], qkv[:, -2 * keys : -keys], qkv[:, -keys:]
        return self._turn(q, cos, sin, 0), self._turn(k, cos, sin, 1), v

    def _turn(self, heads: Tensor, cos: Tensor, sin: Tensor, which: int) -> Tensor:
        """Queries (0) or keys (1), normalised where the network does so, at their positions."""
        if self.head_norm is None:
            return turn(heads, cos, sin)
        gain, swapped = self.gains[which]
        return turn(self.head_norm(heads), cos * gain, sin * swapped)


class FusedFeedForward:
    """SwiGLU on rows that are normalised already."""

    def __init__(self, mlp: FeedForward, norm: Tensor, dtype: torch.dtype) -> None:
        self.gate, self.up = fuse([mlp.gate_proj], dtype, norm), fuse([mlp.up_proj], dtype, norm)
        self.down = fuse([mlp.down_proj], dtype)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.down.plus(self.up.times(x, self.gate.silu(x)), residual)


class RowNorm:
    """RMSNorm without its weight."""

    def __init__(self, width: int, eps: float) -> None:
        self.width, self.eps = width, eps

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., width], divided by the root of each row's mean square."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).float()
        scale = length.square_().mul_(1 / self.width).add_(self.eps).rsqrt_()
        y: Tensor = x * scale.to(x.dtype)
        return y


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x [n, heads, d], as `decoder.rotate`; the first half of `sin` is negative already."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def gains(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A head norm's weight [d] as the rotation needs it: as it is, and with its halves swapped."""
    return weight.detach(), weight.detach().roll(len(weight) // 2)


def fuse(layers: Sequence[nn.Module], dtype: torch.dtype, norm: Tensor | None = None) -> Product:
    """One product of layers that read the same rows, behind a norm with this weight. Rounded to `dtype` once."""
    scale = 1.0 if norm is None else norm.float()
    weight = torch.cat([(dense(layer) * scale).to(dtype) for layer in layers])
    biases = [layer.bias for layer in layers if isinstance(layer.bias, Tensor)]
    return make_product(weight, torch.cat(biases) if biases else None)


def dense(layer: nn.Module) -> Tensor:
    """A layer's weight [outputs, inputs] in float32."""
    return layer.weight.float() if isinstance(layer, nn.Linear) else cast("Encoded", layer).dequantize(torch.float32)
