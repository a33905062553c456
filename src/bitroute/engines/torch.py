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
from torch.nn import functional as F  # noqa: N812

from bitroute.agents.constraint import Trie
from bitroute.engines.engine import CacheMode, Capability, Generation, Sampling
from bitroute.engines.kvcache import Cache, extend_cached
from bitroute.engines.qwen3 import Qwen3
from bitroute.episode import Signals, Usage
from bitroute.errors import CapabilityError, ConfigError

SHARED = "shared"  # the name of the one cache in CacheMode.SHARED


@dataclass(slots=True, eq=False)
class TorchContext:
    """An episode's tokens, and what each variant's cache holds of them (one cache named "shared" where all share it)."""

    caches: dict[str, Cache]
    tokens: list[int] = field(default_factory=list)


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
        self._config = next(iter(self.models.values())).config
        self._dtype = next(iter(self.models.values())).model.embed_tokens.weight.dtype

    def open(self) -> TorchContext:
        """A new, empty context."""
        names = self.ladder if self.cache_mode is CacheMode.OWN else (SHARED,)
        return TorchContext({name: Cache(self._config, self._dtype) for name in names})

    def extend(self, context: TorchContext, tokens: Sequence[int]) -> None:
        """Append prompt tokens; they are prefilled by whichever variant generates or scores next."""
        context.tokens.extend(tokens)

    def fork(self, context: TorchContext) -> TorchContext:
        """An independent copy of a context, KV state included."""
        return TorchContext({name: cache.copy() for name, cache in context.caches.items()}, list(context.tokens))

    def rollback(self, context: TorchContext, length: int) -> None:
        """Shorten a context to its first `length` tokens; the KV state of those is kept."""
        del context.tokens[length:]
        for cache in context.caches.values():
            cache.truncate(length)

    def close(self, context: TorchContext) -> None:
        """Give the memory back. The context must not be used again."""
        context.caches.clear()

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
        self._check(contexts, variants)
        rows = [
            _Row(c, v, t, sampling, len(c.tokens) - len(self._pending(c, v)))
            for c, v, t in zip(contexts, variants, constraints, strict=True)
        ]
        active = rows
        while active:
            by_variant: dict[str, list[_Row]] = defaultdict(list)
            for row in active:
                by_variant[row.variant].append(row)
            for variant, group in by_variant.items():
                pending = [self._pending(r.context, variant) for r in group]
                logprobs = self._logprobs([r.context for r in group], pending, [1] * len(group), variant)
                for row, new, predicted in zip(group, pending, logprobs, strict=True):
                    row.count(len(new))
                    row.choose(predicted, self.end_token)
            active = [row for row in active if not row.done]
        return [row.result() for row in rows]

    @torch.inference_mode()
    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        """Teacher-force `continuations`: raw log-probabilities [tokens, vocabulary] each; row i predicts token i."""
        self._check(contexts, [variant])
        pending = [self._pending(c, variant) for c in contexts]
        new = [[*prompt, *tokens[:-1]] for prompt, tokens in zip(pending, continuations, strict=True)]
        wanted = [len(tokens) for tokens in continuations]
        logprobs = self._logprobs(contexts, new, wanted, variant)
        for context in contexts:
            self._cache(context, variant).truncate(len(context.tokens))
        return np.split(logprobs, np.cumsum(wanted)[:-1])

    def _check(self, contexts: Sequence[TorchContext], variants: Iterable[str]) -> None:
        """Refuse what cannot be computed, before anything is."""
        for variant in variants:
            if variant not in self.models:
                raise CapabilityError(f"unknown variant {variant!r}; this engine hosts {', '.join(self.ladder)}")
        for context in contexts:
            if not context.tokens:
                raise ValueError("a context needs at least one token before anything can follow")

    def _cache(self, context: TorchContext, variant: str) -> Cache:
        return context.caches[variant if self.cache_mode is CacheMode.OWN else SHARED]

    def _pending(self, context: TorchContext, variant: str) -> list[int]:
        """The tokens that the variant's cache lacks; at least the last one, whose prediction is wanted."""
        cache = self._cache(context, variant)
        cache.truncate(len(context.tokens) - 1)
        return context.tokens[cache.length :]

    def _logprobs(
        self, contexts: Sequence[TorchContext], new: Sequence[Sequence[int]], wanted: Sequence[int], variant: str
    ) -> npt.NDArray[np.float32]:
        """Process `new[i]` after what is cached: log-probabilities [sum of wanted, vocabulary] after the last `wanted[i]`."""
        model = self.models[variant]
        caches = [self._cache(c, variant) for c in contexts]
        longest = max(cache.length + len(row) for cache, row in zip(caches, new, strict=True))
        if longest > self.max_length:
            raise ConfigError(
                f"a context of {longest} tokens exceeds the model's {self.max_length} positions; play fewer steps"
            )
        hidden = extend_cached(model, caches, new, wanted)
        logprobs: npt.NDArray[np.float32] = F.log_softmax(model.logits(hidden).float(), dim=-1).numpy()
        return logprobs


class _Row:
    """One action in the making."""

    def __init__(self, context: TorchContext, variant: str, trie: Trie | None, sampling: Sampling, cached: int) -> None:
        self.context, self.variant, self.trie, self.sampling = context, variant, trie, sampling
        self.random = np.random.default_rng([sampling.seed, *context.tokens]) if sampling.temperature > 0 else None
        self.cached = cached
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
