"""Keys and values of contexts, and attention over them. Knows positions, not tokens or what they mean.

A batch is packed: linear layers see one flat row of all new tokens, whatever context they belong to. A network may take it in
pieces of so many tokens; a context that is cut goes on in the next piece. Attention goes context by context, because each has a
past of its own length: no query is padded and no key is copied. (One call for contexts of equal length is no faster on a
processor: what it costs is the exponentials. `benchmarks/engine.py` measures it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.decoder import Decoder, DecoderConfig
from bitroute.nn.fused import FusedDecoder

GROWTH: Final = 256  # positions by which a full cache grows, at least
STEP: Final = 32  # keys in half precision: torch writes a kernel for each new length, and a process meets a thousand of them


class Cache:
    """What one network keeps of one context: the keys and values of its first `length` positions, in all layers.

    `dtype` and `device` are those of the network.
    """

    __slots__ = ("length", "store")

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        # [layers, capacity, kv heads of keys, then of values, head dim]: new tokens of a layer are one block
        shape = config.num_hidden_layers, 0, 2 * config.num_key_value_heads, config.head_dim
        self.store = torch.empty(shape, dtype=dtype, device=device)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions; the filled ones stay."""
        capacity = self.store.shape[1]
        if length <= capacity:
            return
        old, shape = self.store, list(self.store.shape)
        shape[1] = -(-max(length, capacity * 5 // 4) // GROWTH) * GROWTH
        self.store = old.new_zeros(shape)  # keys that are masked must be numbers all the same
        self.store[:, : self.length] = old[:, : self.length]

    def truncate(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        self.length = min(self.length, length)

    def copy(self) -> Cache:
        """An independent copy."""
        twin = object.__new__(Cache)
        twin.length, twin.store = self.length, self.store.clone()
        return twin


@dataclass(frozen=True, slots=True)
class Part:
    """Some new tokens of one context, one after the other; the hidden states of the last `wanted` are asked for."""

    cache: Cache
    tokens: Sequence[int]
    wanted: int


def extend_cached(
    model: Decoder | FusedDecoder, caches: Sequence[Cache], new: Sequence[Sequence[int]], wanted: Sequence[int] | None = None
) -> Tensor:
    """Process the tokens `new[i]` (at least one) after what `caches[i]` holds, and keep them there.

    Returns hidden states [sum of `wanted`, hidden]: those of the last `wanted[i]` tokens of each row, of all tokens by default.
    What is not wanted costs nothing in the last block but its keys and values.
    """
    counts = [len(row) for row in new] if wanted is None else wanted
    parts = [Part(cache, row, count) for cache, row, count in zip(caches, new, counts, strict=True)]
    size = model.piece if isinstance(model, FusedDecoder) else None
    found = [_extend(model, piece) for piece in (pieces(parts, size) if size else [parts])]
    return found[0] if len(found) == 1 else torch.cat(found)


def pieces(parts: Sequence[Part], size: int) -> list[list[Part]]:
    """The same tokens in the same order, `size` at a time (the last piece has what remains)."""
    found: list[list[Part]] = [[]]
    room = size
    for part in parts:
        start, count = 0, len(part.tokens)
        while start < count:
            if not room:
                found.append([])
                room = size
            end = min(count, start + room)
            found[-1].append(Part(part.cache, part.tokens[start:end], max(0, end - max(start, count - part.wanted))))
            room -= end - start
            start = end
    return found


def _extend(model: Decoder | FusedDecoder, parts: Sequence[Part]) -> Tensor:
    """One pass."""
    like = parts[0].cache.store
    lengths, wanted = [len(part.tokens) for part in parts], [part.wanted for part in parts]
    positions = [p for part, n in zip(parts, lengths, strict=True) for p in range(part.cache.length, part.cache.length + n)]
    ends = accumulate(lengths)
    rows = [row for end, count in zip(ends, wanted, strict=True) for row in range(end - count, end)]
    tokens = [token for part in parts for token in part.tokens]
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    attend = CachedAttention([part.cache for part in parts], lengths, wanted, groups, grouped=isinstance(model, FusedDecoder))
    number = partial(torch.tensor, device=like.device, dtype=torch.long)
    hidden: Tensor = model(number(tokens), number(positions), attend, None if len(rows) == len(tokens) else number(rows))
    for part, length in zip(parts, lengths, strict=True):
        part.cache.length += length
    return hidden


class CachedAttention:
    """The `Attend` strategy over caches: writes the new keys and values, then lets each context attend to its own past.

    Queries are those of all new tokens, or, in the last block, of the `wanted` last ones of each context. The `groups` query
    heads that share a kv head become further rows of one query, so that keys need not be repeated. Where the network orders
    its query heads by group, not by kv head (`grouped`), that is a view, and so is the result.
    """

    def __init__(
        self, caches: Sequence[Cache], lengths: Sequence[int], wanted: Sequence[int], groups: int, *, grouped: bool
    ) -> None:
        self.groups, self.grouped, self.lengths, self.wanted = groups, grouped, list(lengths), list(wanted)
        self.targets, self.pasts = [], []  # of each context, by layer: where new keys and values go; all keys, all values
        like, kv_heads = caches[0].store, caches[0].store.shape[2] // 2
        step = 1 if like.dtype is torch.float32 else STEP
        ends = [cache.length + length for cache, length in zip(caches, lengths, strict=True)]
        reaches = [end if length == 1 else -(-end // step) * step for end, length in zip(ends, lengths, strict=True)]
        for cache, end, reach in zip(caches, ends, reaches, strict=True):
            cache.reserve(reach)
            self.targets.append(cache.store[:, cache.length : end].unbind(0))
            past = cache.store[:, :reach].transpose(1, 2).unsqueeze(1)  # [layers, 1, kv heads twice, reach, d]
            self.pasts.append((past[:, :, :kv_heads].unbind(0), past[:, :, kv_heads:].unbind(0)))
        self.masks = [causal_mask(*shape, groups=groups, like=like) for shape in zip(self.lengths, ends, reaches, strict=True)]
        self.last_masks = [
            mask if mask is None else mask[(length - count) * groups :]
            for mask, length, count in zip(self.masks, self.lengths, self.wanted, strict=True)
        ]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        counts, masks = (self.lengths, self.masks) if len(q) == len(k) else (self.wanted, self.last_masks)
        kv_heads, head_dim = k.shape[1:]
        fresh = torch.cat((k, v), dim=1)
        if not self.grouped:
            q = swap_heads(q, kv_heads, self.groups)
        queries = q.reshape(-1, kv_heads, head_dim).transpose(0, 1).unsqueeze(0)  # [1, kv heads, m * groups, d]
        mixed = []
        for target, (keys, values), part, query, mask in zip(
            self.targets,
            self.pasts,
            torch.split(fresh, self.lengths),
            torch.split(queries, [count * self.groups for count in counts], dim=2),
            masks,
            strict=True,
        ):
            target[layer].copy_(part)
            if query.shape[2]:
                found = F.scaled_dot_product_attention(query, keys[layer], values[layer], attn_mask=mask)
                mixed.append(found.squeeze(0).transpose(0, 1))
        if not mixed:
            return q
        out = (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).reshape(-1, self.groups * kv_heads, head_dim)
        return out if self.grouped else swap_heads(out, self.groups, kv_heads)


def swap_heads(x: Tensor, outer: int, inner: int) -> Tensor:
    """x [n, outer * inner, d] as [n, inner * outer, d]: by kv head and group within it, or by group and kv head within that."""
    return x.view(len(x), outer, inner, -1).transpose(1, 2).reshape(x.shape)


def causal_mask(count: int, end: int, reach: int, *, groups: int, like: Tensor) -> Tensor | None:
    """What the last `count` of `end` positions may see of `reach` ones, to be added to scores [count * groups, reach]; None:
    everything.

    It has the dtype and the device of `like`.
    """
    if count == 1 and end == reach:
        return None
    mask = like.new_full((count, reach), float("-inf")).triu_(end - count + 1)
    return mask if groups == 1 else mask.repeat_interleave(groups, dim=0)
