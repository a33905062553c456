"""Keys and values of contexts, and attention over them. Knows positions, not tokens or what they mean.

A batch is packed: linear layers see one flat row of all new tokens, whatever context they belong to. Attention goes context by
context, because each has a past of its own length: nothing is padded and no key is copied. (Padded batches of 16 contexts
spent two thirds of the time of play in attention; `benchmarks/engine.py` measures what is left.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.decoder import Decoder, DecoderConfig
from bitroute.nn.fused import FusedDecoder

SMALLEST = 256  # positions of a cache that has just begun; a full one doubles


class Cache:
    """What one network keeps of one context: the keys and values of its first `length` positions, in all layers.

    `dtype` and `device` are those of the network.
    """

    __slots__ = ("length", "store")

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        # [layers, keys and values, 1, kv heads, capacity, head dim]: a layer's keys are one view, ready for attention
        shape = config.num_hidden_layers, 2, 1, config.num_key_value_heads, 0, config.head_dim
        self.store = torch.empty(shape, dtype=dtype, device=device)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions; the filled ones stay."""
        capacity = self.store.shape[4]
        if length <= capacity:
            return
        old, shape = self.store, list(self.store.shape)
        shape[4] = max(length, 2 * capacity, SMALLEST)
        self.store = old.new_empty(shape)
        self.store[..., : self.length, :] = old[..., : self.length, :]

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        self.length = min(self.length, length)

    def copy(self) -> Cache:
        """An independent copy."""
        twin = object.__new__(Cache)
        twin.length, twin.store = self.length, self.store.clone()
        return twin


def extend_cached(
    model: Decoder | FusedDecoder, caches: Sequence[Cache], new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None
) -> Tensor:
    """Process the tokens `new[i]` (at least one) after what `caches[i]` holds, and keep them there.

    Returns hidden states [sum of `wanted`, hidden]: those of the last `wanted[i]` tokens of each row, of all tokens by default.
    What is not wanted costs nothing in the last block but its keys and values.
    """
    lengths = [len(row) for row in new]
    wanted = lengths if wanted is None else wanted
    positions = [p for cache, n in zip(caches, lengths, strict=True) for p in range(cache.length, cache.length + n)]
    attend = CachedAttention(caches, lengths, wanted, model.config.num_attention_heads // model.config.num_key_value_heads)
    ends = accumulate(lengths)
    rows = [row for end, count in zip(ends, wanted, strict=True) for row in range(end - count, end)]
    number = partial(torch.tensor, device=caches[0].store.device)
    tokens = number([token for row in new for token in row])
    hidden: Tensor = model(tokens, number(positions), attend, None if len(rows) == len(tokens) else number(rows))
    for cache, length in zip(caches, lengths, strict=True):
        cache.length += length
    return hidden


class CachedAttention:
    """The `Attend` strategy over caches: writes the new keys and values, then lets each context attend to its own past.

    Queries are those of all new tokens, or, in the last block, of the `wanted` last ones of each context. The `groups` query
    heads that share a kv head become further rows of one query, so that keys need not be repeated.
    """

    def __init__(self, caches: Sequence[Cache], lengths: Sequence[int], wanted: Sequence[int], groups: int) -> None:
        self.groups, self.lengths, self.wanted = groups, list(lengths), list(wanted)
        self.targets, self.pasts = [], []  # of each context, by layer: where new keys and values go; all keys, all values
        like = caches[0].store
        ends = [cache.length + length for cache, length in zip(caches, lengths, strict=True)]
        for cache, end in zip(caches, ends, strict=True):
            cache.reserve(end)
            self.targets.append(cache.store[..., cache.length : end, :].unbind(0))
            self.pasts.append([layer.unbind(0) for layer in cache.store[..., :end, :].unbind(0)])
        self.masks = [causal_mask(count, end, groups, like) for count, end in zip(self.lengths, ends, strict=True)]
        self.last_masks = (
            self.masks
            if self.wanted == self.lengths
            else [causal_mask(count, end, groups, like) for count, end in zip(self.wanted, ends, strict=True)]
        )

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        counts, masks = (self.lengths, self.masks) if len(q) == len(k) else (self.wanted, self.last_masks)
        kv_heads, head_dim = k.shape[1:]
        fresh = torch.stack((k, v)).transpose(1, 2).unsqueeze(1)  # [2, 1, kv heads, n, d]
        queries = q.view(-1, kv_heads, self.groups, head_dim).transpose(0, 1).reshape(1, kv_heads, -1, head_dim)
        mixed = []
        for target, past, part, query, mask in zip(
            self.targets,
            self.pasts,
            torch.split(fresh, self.lengths, dim=3),
            torch.split(queries, [count * self.groups for count in counts], dim=2),
            masks,
            strict=True,
        ):
            target[layer].copy_(part)
            keys, values = past[layer]
            mixed.append(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask))
        out = torch.cat(mixed, dim=2).view(kv_heads, -1, self.groups, head_dim)
        return out.transpose(0, 1).reshape(-1, kv_heads * self.groups, head_dim)


def causal_mask(count: int, end: int, groups: int, like: Tensor) -> Tensor | None:
    """What the last `count` of `end` positions may see, to be added to scores [count * groups, end]; None: everything.

    It has the dtype and the device of `like`.
    """
    if count == 1:
        return None
    mask = like.new_zeros(count, end)
    mask[:, end - count :] = like.new_full((count, count), float("-inf")).triu(1)
    return mask if groups == 1 else mask.repeat_interleave(groups, dim=0)
