"""Keys and values of many contexts of one network, and attention over them. Knows positions, not tokens or what they mean.

A batch is packed: linear layers see one flat row of the tokens that are new, whatever context they belong to; only attention
looks at contexts, a few of about equal length at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.engines.qwen3 import Qwen3

ATTENTION_ROWS = 16  # contexts whose attention is computed together: fewer pad less, more start fewer kernels


def extend_cached(
    model: Qwen3, cache: Cache, slots: Sequence[int], starts: Sequence[int], new: Sequence[Sequence[int]]
) -> Tensor:
    """Process `new[i]` as positions starts[i], starts[i] + 1 ... of slot slots[i]; hidden states [sum of lengths, hidden]."""
    attend = CachedAttention(cache, slots, starts, [len(n) for n in new])
    hidden: Tensor = model(torch.tensor([t for row in new for t in row]), attend.positions, attend)
    return hidden


class Cache:
    """Keys and values of all layers, [slots, length, kv heads, head dim] each; grows in both directions on demand."""

    def __init__(self, model: Qwen3, dtype: torch.dtype) -> None:
        config = model.config
        shape = (1, 256, config.num_key_value_heads, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in range(config.num_hidden_layers)]

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` contexts of `length` tokens; at least doubles what it grows."""
        have_slots, have_length = self.keys[0].shape[:2]
        if slots <= have_slots and length <= have_length:
            return
        more_slots = have_slots if slots <= have_slots else max(slots, 2 * have_slots)
        more_length = have_length if length <= have_length else max(length, 2 * have_length)
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                store[layer] = old.new_zeros(more_slots, more_length, *old.shape[2:])
                store[layer][:have_slots, :have_length] = old

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot into another."""
        for store in (self.keys, self.values):
            for tensor in store:
                tensor[target, :length] = tensor[source, :length]


class CachedAttention:
    """The `Attend` strategy over a cache: writes the new keys and values, then lets each context attend to its own past."""

    def __init__(self, cache: Cache, slots: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> None:
        self.cache = cache
        counts = torch.tensor(lengths)
        self.slots = torch.tensor(slots).repeat_interleave(counts)
        begins = torch.cumsum(counts, 0) - counts
        within = torch.arange(int(counts.sum())) - begins.repeat_interleave(counts)
        self.positions = torch.tensor(starts).repeat_interleave(counts) + within
        order = sorted(range(len(slots)), key=lambda i: starts[i] + lengths[i])
        self.chunks = []
        for first in range(0, len(order), ATTENTION_ROWS):
            rows = order[first : first + ATTENTION_ROWS]
            width = max(lengths[i] for i in rows)
            past = max(starts[i] + lengths[i] for i in rows)
            steps = torch.arange(width)
            valid = steps < counts[rows].unsqueeze(1)  # [rows, width]
            index = torch.where(valid, begins[rows].unsqueeze(1) + steps, 0)
            reach = torch.tensor([starts[i] for i in rows]).unsqueeze(1) + steps  # padded queries attend somewhere, unread
            mask = torch.arange(past) <= reach.clamp(max=past - 1).unsqueeze(2)  # [rows, width, past]
            self.chunks.append((torch.tensor([slots[i] for i in rows]), index, valid, index[valid], mask.unsqueeze(1), past))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.slots, self.positions] = k
        values[self.slots, self.positions] = v
        kv_heads, head_dim = k.shape[1:]
        mixed = torch.empty_like(q)
        for slots, index, valid, flat, mask, past in self.chunks:
            width = index.shape[1]
            # Query heads that share a kv head become more rows of one query: no copy of the keys is needed.
            queries = q[index].view(len(slots), width, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
            groups = queries.shape[2] // width
            out = F.scaled_dot_product_attention(
                queries,
                keys[slots, :past].transpose(1, 2),
                values[slots, :past].transpose(1, 2),
                attn_mask=mask.repeat(1, 1, groups, 1),
            )
            out = out.view(len(slots), kv_heads, groups, width, head_dim).permute(0, 3, 1, 2, 4).flatten(2, 3)
            mixed[flat] = out[valid]
        return mixed
