"""A decoder that only reads: the network of `nn/decoder.py` without gradients, in fewer and larger operations.

It computes what the decoder computes, up to rounding, and knows as little of files, caches and text. Products that read the
same rows are one product; a norm's weight is part of the product behind it, and that of a head's norm part of the rotation,
so that normalising a row is one sum and one scale. Weights are copies, dense and in the decoder's dtype, laid out for the
processor's products; the decoder itself may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.decoder import Attend, Attention, Block, Decoder, FeedForward
from bitroute.nn.product import PackedProduct, Product, make_product

PIECE: Final = 1024  # tokens of a pass on a processor: products are as fast as with more, and their rows are nearer
STEPS: Final = ((32, 8), (128, 16), (512, 64), (PIECE, 128))  # rows of a pass up to the first number: multiples of the second


Affine = tuple[Tensor, Tensor | None]


class Encoded(Protocol):
    """What a layer that is no `nn.Linear` offers in the place of its weight."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs]."""
        ...


class FusedDecoder:
    """A decoder's network as it stands; later changes of the decoder do not reach it. Use it in inference mode.

    `piece` is how many tokens a pass should have at most, None where more is better. Where oneDNN makes the products, rows are
    added up to one of a few sizes: it writes a kernel for each size that it meets, which takes longer than ten products.
    """

    @torch.no_grad()
    def __init__(self, model: Decoder, head: Product | None = None) -> None:
        """`head` is the product with the head's weight, where another network has made it."""
        config, trunk = model.config, model.model
        self.config = config
        self.embedding = trunk.embed_tokens.weight.detach()
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        half = config.head_dim // 2
        self.cos, self.along = model.cos.to(self.dtype), model.sin[:, half:].to(self.dtype)
        self.against = -model.sin[:, :half].to(self.dtype)
        self.norm = RowNorm(config.hidden_size, config.rms_norm_eps)
        self.layers: list[tuple[FusedAttention, FusedFeedForward]] = []
        blocks = cast("Sequence[Block]", trunk.layers)
        for block in blocks:
            attention = FusedAttention(block.self_attn, block.input_layernorm.weight, self.dtype, split=block is blocks[-1])
            self.layers.append((attention, FusedFeedForward(block.mlp, block.post_attention_layernorm.weight, self.dtype)))
        self.final = trunk.norm
        self.piece = PIECE if self.device.type == "cpu" else None
        self.head = head or make_product(model.lm_head.weight.detach())

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """Hidden states, as `Decoder.forward` gives them."""
        count = len(tokens) if rows is None else len(rows)
        x = F.embedding(self._filled(tokens), self.embedding)
        at = self._filled(positions)
        turns = Turns(*(table[at].unsqueeze(1) for table in (self.cos, self.against, self.along)))
        if rows is not None:
            rows = self._filled(rows)
        for attention, feed_forward in self.layers:
            picked = rows if attention.split else None
            q, k, v = attention.heads(self.norm(x), turns, picked)
            if picked is not None:
                x = x[picked]
            asking = len(tokens) if picked is None else count
            mixed = attend(attention.layer, q[:asking], k[: len(tokens)], v[: len(tokens)]).flatten(1)
            x = attention.out.plus(self._filled(mixed), x)
            x = feed_forward(self.norm(x), x)
        y: Tensor = self.final(x[:count])
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary] of hidden states [n, hidden]."""
        return self.head(self._filled(hidden))[: len(hidden)]

    def _filled(self, x: Tensor) -> Tensor:
        """x [n, ...] with rows of zeros added up to one of the sizes of a pass."""
        count = len(x)
        step = next((step for most, step in STEPS if count <= most), PIECE)
        spare = -count % step if isinstance(self.head, PackedProduct) else 0
        return F.pad(x, (0, 0) * (x.dim() - 1) + (0, spare)) if spare else x


class Turns(NamedTuple):
    """Where rows stand, as their heads are turned: `cos` [n, 1, d]; of the sines [n, 1, d / 2] what the first half of a head
    takes `against` the second, and the second `along` the first.
    """

    cos: Tensor
    against: Tensor
    along: Tensor

    def of(self, rows: Tensor) -> Turns:
        """Those of some rows."""
        return Turns(*(table[rows] for table in self))

    def scaled(self, gain: Tensor) -> Turns:
        """Those of heads that are to be multiplied by `gain` [d] first."""
        first, second = gain.chunk(2)
        return Turns(self.cos * gain, self.against * second, self.along * first)

    def apply(self, x: Tensor) -> Tensor:
        """Heads x [n, heads, d] at their positions, as `decoder.rotate` turns them."""
        out = x * self.cos
        (first, second), (a, b) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
        a.addcmul_(second, self.against)
        b.addcmul_(first, self.along)
        return out


class FusedAttention:
    """Queries, keys and values of one layer from rows that are normalised already, and the product behind attention.

    `split`: the queries are a product of their own, because those of some rows alone may be wanted (in the last layer).
    """

    def __init__(self, attention: Attention, norm: Tensor, dtype: torch.dtype, *, split: bool) -> None:
        self.layer, self.head_dim, self.split = attention.layer, attention.head_dim, split
        self.query_heads = attention.q_proj.out_features // self.head_dim
        self.key_heads = attention.k_proj.out_features // self.head_dim
        queries, *both = (affine(layer, norm) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
        order = self._by_group(torch.arange(attention.q_proj.out_features, device=norm.device))
        weight, bias = queries
        queries = weight[order], None if bias is None else bias[order]
        parts = [[queries], both] if split else [[queries, *both]]
        self.projections = [fuse(part, dtype) for part in parts]
        weight, bias = affine(attention.o_proj)
        self.out = fuse([(weight[:, order], bias)], dtype)
        norms = (attention.q_norm, attention.k_norm)
        self.head_norm = RowNorm(self.head_dim, cast("float", norms[0].eps)) if isinstance(norms[0], nn.RMSNorm) else None
        self.gains = [norm.weight.detach() for norm in norms if isinstance(norm, nn.RMSNorm)]

    def _by_group(self, features: Tensor) -> Tensor:
        """Features [heads * d] of queries in the order in which `CachedAttention` wants their heads."""
        return features.view(self.key_heads, -1, self.head_dim).transpose(0, 1).flatten()

    def heads(self, x: Tensor, turns: Turns, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [m, heads, d] of the `rows` (of all by default) of x [n, hidden], keys and values [n, kv heads, d] of all."""
        keys, width = self.key_heads, self.head_dim
        if self.split:
            queries, both = self.projections
            q, kv = queries(x if rows is None else x[rows]).view(-1, self.query_heads, width), both(x).view(len(x), -1, width)
            q, k = self._normalised(q), self._normalised(kv[:, :keys])
            return self._turned(q, turns if rows is None else turns.of(rows), 0), self._turned(k, turns, 1), kv[:, keys:]
        qkv = self.projections[0](x).view(len(x), -1, width)
        qk, v = self._normalised(qkv[:, :-keys]), qkv[:, -keys:]
        if self.head_norm is None:
            qk = turns.apply(qk)
            return qk[:, :-keys], qk[:, -keys:], v
        return self._turned(qk[:, :-keys], turns, 0), self._turned(qk[:, -keys:], turns, 1), v

    def _normalised(self, heads: Tensor) -> Tensor:
        """Queries and keys as they are turned: normalised, where the network does so, but for the weights of that norm."""
        return heads if self.head_norm is None else self.head_norm(heads)

    def _turned(self, heads: Tensor, turns: Turns, which: int) -> Tensor:
        """Queries (0) or keys (1), normalised, at their positions."""
        return (turns if self.head_norm is None else turns.scaled(self.gains[which])).apply(heads)


class FusedFeedForward:
    """SwiGLU on rows that are normalised already."""

    def __init__(self, mlp: FeedForward, norm: Tensor, dtype: torch.dtype) -> None:
        self.gate, self.up = fuse([affine(mlp.gate_proj, norm)], dtype), fuse([affine(mlp.up_proj, norm)], dtype)
        self.down = fuse([affine(mlp.down_proj)], dtype)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.down.plus(self.up.times(x, self.gate.silu(x)), residual)


class RowNorm:
    """RMSNorm without its weight."""

    def __init__(self, width: int, eps: float) -> None:
        self.width, self.eps = width, eps
        self.root = width**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., width], divided by the root of each row's mean square."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).float()
        scale = length.square_().add_(self.eps * self.width).rsqrt_().mul_(self.root)
        y: Tensor = x * scale.to(x.dtype)
        return y


def fuse(parts: Sequence[Affine], dtype: torch.dtype) -> Product:
    """One product of layers that read the same rows."""
    biases = [bias for _, bias in parts if bias is not None]
    return make_product(torch.cat([weight for weight, _ in parts]).to(dtype), torch.cat(biases).to(dtype) if biases else None)


def affine(layer: nn.Module, norm: Tensor | None = None) -> Affine:
    """A layer's weight [outputs, inputs] in float32 and its bias, where it has one; behind a norm with this weight."""
    weight = layer.weight if isinstance(layer, nn.Linear) else cast("Encoded", layer).dequantize(torch.float32)
    bias = layer.bias if isinstance(layer.bias, Tensor) else None
    return weight.float() if norm is None else weight.float() * norm.float(), bias
