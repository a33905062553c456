"""Runs all variants of one small model in plain torch, many episodes at once. Purely token ids: no text, no environment.

A variant prefills what its cache lacks when it is asked to generate or score, not before, so that an observation and the
forced tokens of the previous action cost one pass. Under a constraint only choices are decoded: tokens that the trie forces
are appended and prefilled with what follows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.agents.constraint import Trie
from bitroute.engines.engine import CacheMode, Capability, Generation, Sampling
from bitroute.engines.kvcache import Cache, extend_cached
from bitroute.engines.qwen3 import Qwen3
from bitroute.episode import Signals, Usage
from bitroute.errors import CapabilityError, ConfigError


@dataclass(slots=True, eq=False)
class TorchContext:
    """An episode's tokens, and how many of them each cache holds (`slot` is its row in every cache)."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    cached: dict[str, int] = field(default_factory=dict)


class TorchEngine:
    """Hosts `models`, the variants of one network, cheapest first. Implements engines/engine.py's Engine.

    All models share shapes and tokenizer; `end_token` ends an action. Computation and caches are in the dtype of the models'
    embeddings. Batched and one-at-a-time results agree to 1e-4 in float32 log-probabilities (tested); in bfloat16 the order of
    a sum depends on the batch, and a near-tie may fall the other way.
    """

    capabilities = frozenset({Capability.HANDOFF, Capability.FULL_LOGITS})

    def __init__(
        self, models: Mapping[str, Qwen3], *, end_token: int, fingerprint: str, cache_mode: CacheMode = CacheMode.OWN
    ) -> None:
        if not models:
            raise ConfigError("engine: at least one variant is needed")
        self.models = dict(models)
        self.ladder = tuple(self.models)
        self.end_token = end_token
        self.fingerprint = fingerprint
        self.cache_mode = cache_mode
        self.max_length = min(m.config.max_position_embeddings for m in self.models.values())
        names = self.ladder if cache_mode is CacheMode.OWN else ("shared",)
        any_model = next(iter(self.models.values()))
        dtype = any_model.model.embed_tokens.weight.dtype
        self._caches = {name: Cache(any_model, dtype) for name in names}
        self._free: list[int] = []
        self._slots = 0

    def open(self) -> TorchContext:
        """A new, empty context."""
        if not self._free:
            self._free.append(self._slots)
            self._slots += 1
        return TorchContext(self._free.pop(), [], dict.fromkeys(self._caches, 0))

    def extend(self, context: TorchContext, tokens: Sequence[int]) -> None:
        """Append prompt tokens; they are prefilled by whichever variant generates or scores next."""
        context.tokens.extend(tokens)

    def fork(self, context: TorchContext) -> TorchContext:
        """An independent copy of a context, KV state included."""
        copy = self.open()
        copy.tokens = list(context.tokens)
        copy.cached = dict(context.cached)
        for name, length in copy.cached.items():
            self._caches[name].reserve(self._slots, length)
            self._caches[name].copy(context.slot, copy.slot, length)
        return copy

    def rollback(self, context: TorchContext, length: int) -> None:
        """Shorten a context to its first `length` tokens."""
        del context.tokens[length:]
        context.cached = {name: min(cached, length) for name, cached in context.cached.items()}

    def close(self, context: TorchContext) -> None:
        """Give the slot back. The context must not be used again."""
        self._free.append(context.slot)

    @torch.inference_mode()
    def generate(
        self,
        contexts: Sequence[TorchContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        """Continue each context with its variant up to the end token; the generated tokens become part of the context.

        Raises CapabilityError for an unknown variant, ConfigError when a context outgrows the model's positions.
        """
        rows = [_Row(c, v, t, sampling) for c, v, t in zip(contexts, variants, constraints, strict=True)]
        active = rows
        while active:
            by_variant: dict[str, list[_Row]] = defaultdict(list)
            for row in active:
                by_variant[row.variant].append(row)
            for variant, group in by_variant.items():
                processed = [self._pending(r.context, variant) for r in group]
                hidden = self._forward([r.context for r in group], processed, variant)
                ends = np.cumsum([len(p) for p in processed]) - 1
                logprobs = F.log_softmax(self._model(variant).logits(hidden[torch.from_numpy(ends)]).float(), dim=-1).numpy()
                for row, new, predicted in zip(group, processed, logprobs, strict=True):
                    row.count(len(new))
                    row.choose(predicted, self.end_token)
            active = [row for row in active if not row.done]
        return [row.result() for row in rows]

    @torch.inference_mode()
    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        """Teacher-force `continuations`: raw log-probabilities [tokens, vocabulary] each; row i predicts token i."""
        processed = []
        for context, continuation in zip(contexts, continuations, strict=True):
            processed.append([*self._pending(context, variant), *continuation[:-1]])
        hidden = self._forward(contexts, processed, variant)
        logprobs = F.log_softmax(self._model(variant).logits(hidden).float(), dim=-1).numpy()
        key = self._key(variant)
        results, end = [], 0
        for context, new, continuation in zip(contexts, processed, continuations, strict=True):
            end += len(new)
            results.append(logprobs[end - len(continuation) : end].copy())
            context.cached[key] = len(context.tokens)
        return results

    def _key(self, variant: str) -> str:
        return variant if self.cache_mode is CacheMode.OWN else "shared"

    def _model(self, variant: str) -> Qwen3:
        if variant not in self.models:
            raise CapabilityError(f"unknown variant {variant!r}; this engine hosts {', '.join(self.ladder)}")
        return self.models[variant]

    def _pending(self, context: TorchContext, variant: str) -> list[int]:
        """The tokens that the variant's cache lacks; at least the last one, whose prediction is wanted."""
        self._model(variant)
        key = self._key(variant)
        context.cached[key] = min(context.cached[key], len(context.tokens) - 1)
        return context.tokens[context.cached[key] :]

    def _forward(self, contexts: Sequence[TorchContext], new: Sequence[Sequence[int]], variant: str) -> Tensor:
        """Process `new` tokens after what is cached; hidden states [sum of lengths, hidden]. Advances `cached`."""
        key, model = self._key(variant), self._model(variant)
        cache = self._caches[key]
        starts = [c.cached[key] for c in contexts]
        longest = max(s + len(n) for s, n in zip(starts, new, strict=True))
        if longest > self.max_length:
            raise ConfigError(
                f"a context of {longest} tokens exceeds the model's {self.max_length} positions; play fewer steps"
            )
        cache.reserve(self._slots, longest)
        hidden = extend_cached(model, cache, [c.slot for c in contexts], starts, new)
        for context, start, row in zip(contexts, starts, new, strict=True):
            context.cached[key] = start + len(row)
        return hidden


class _Row:
    """One action in the making."""

    def __init__(self, context: TorchContext, variant: str, trie: Trie | None, sampling: Sampling) -> None:
        self.context, self.variant, self.trie, self.sampling = context, variant, trie, sampling
        self.random = np.random.default_rng([sampling.seed, len(context.tokens)]) if sampling.temperature > 0 else None
        self.cached = min(context.cached.get(variant, context.cached.get("shared", 0)), len(context.tokens) - 1)
        self.tokens: list[int] = []
        self.signals: tuple[list[float], ...] = ([], [], [], [])
        self.prefill = self.decode = 0
        self.done = False

    def count(self, processed: int) -> None:
        """The first pass prefills, all later ones decode."""
        if self.prefill:
            self.decode += processed
        else:
            self.prefill = processed

    def choose(self, logprobs: npt.NDArray[np.float32], end_token: int) -> None:
        """Pick the next token from raw log-probabilities [vocabulary]; then follow the trie as far as it forces."""
        allowed = np.array(self.trie.allowed) if self.trie else np.arange(len(logprobs))
        raw = logprobs[allowed].astype(np.float64)
        constrained = raw - np.logaddexp.reduce(raw)
        probabilities = np.exp(constrained)
        if self.random is None:
            pick = int(np.argmax(raw))
        else:
            tempered = np.exp((raw - raw.max()) / self.sampling.temperature)
            pick = int(self.random.choice(len(allowed), p=tempered / tempered.sum()))
        if len(allowed) > 1:
            top = np.partition(probabilities, -2)[-2:]
            entropy = -float(np.sum(probabilities * constrained, where=probabilities > 0))
            for values, value in zip(self.signals, (raw[pick], constrained[pick], entropy, top[1] - top[0]), strict=True):
                values.append(float(value))
        self._append(int(allowed[pick]), end_token)
        while self.trie and not self.done and len(self.trie.children) == 1:
            self._append(next(iter(self.trie.children)), end_token)

    def _append(self, token: int, end_token: int) -> None:
        self.tokens.append(token)
        self.context.tokens.append(token)
        if self.trie:
            self.trie = self.trie.children[token]
        self.done = token == end_token or len(self.tokens) >= self.sampling.max_tokens

    def result(self) -> Generation:
        usage = Usage(self.variant, prefill=self.prefill, cached=self.cached, decode=self.decode)
        return Generation(tuple(self.tokens), Signals(*map(tuple, self.signals)), usage)


def parameter_bytes(models: Iterable[Qwen3]) -> int:
    """Bytes of all parameters and buffers held, tensors shared between variants counted once."""
    seen = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for m in models for t in (*m.parameters(), *m.buffers())
    }
    return sum(seen.values())
