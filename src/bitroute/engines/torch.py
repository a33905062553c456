"""Runs all variants of one small model in plain torch, many episodes at once. Purely token ids: no text, no environment.

A variant prefills what its cache lacks when it is asked to generate or score, not before, so that an observation and the
forced tokens of the previous action cost one pass. Under a constraint only choices are decoded: tokens that the trie forces
are appended and prefilled with what follows. What was once generated after the same last tokens, in whatever episode, is a
draft: it is read in the pass before, and as far as the choices agree with it they need no pass of their own. They are the
variant's own choices all the same, up to the rounding of a pass of another shape, and usage is counted as without drafts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F  # noqa: N812

from bitroute.engines.constraint import Trie
from bitroute.engines.decoding import Decoding
from bitroute.engines.engine import CacheMode, Generation, Sampling
from bitroute.errors import CapabilityError, ConfigError
from bitroute.nn.decoder import Decoder
from bitroute.nn.fused import FusedDecoder
from bitroute.nn.kv_cache import Cache, extend_cached
from bitroute.nn.product import Product

SHARED = "shared"  # the name of the one cache in CacheMode.SHARED
WINDOW = 32  # last tokens by which a draft is found: about a message
DRAFTS = 65_536  # that are kept, of some hundred bytes each
LONGEST_DRAFT = 32  # tokens of one: what is read ahead in vain costs, too


@dataclass(slots=True, eq=False)
class TorchContext:
    """An episode's tokens, and what each variant's cache holds of them (one cache named "shared" where all share it)."""

    caches: dict[str, Cache]
    seed: int = 0
    tokens: list[int] = field(default_factory=list)


class TorchEngine:
    """Hosts `models`, the variants of one network, cheapest first. Implements engines/engine.py's Engine.

    All models share shapes and tokenizer; `end_token` ends an action. Computation and caches are in the dtype of the models'
    embeddings and on their device; results are numpy arrays. Batched and one-at-a-time results agree to 1e-4 in float32
    log-probabilities (tested); in bfloat16 the order of a sum depends on the batch, and a near-tie may fall the other way.
    """

    def __init__(
        self, models: Mapping[str, Decoder], *, end_token: int, fingerprint: str, cache_mode: CacheMode = CacheMode.OWN
    ) -> None:
        weights = [(m.config, m.model.embed_tokens.weight) for m in models.values()]
        shapes = {(config, weight.dtype, weight.device) for config, weight in weights}
        if len(shapes) != 1:
            raise ConfigError(
                f"engine: {len(models)} variants of {len(shapes)} shapes; one network in one dtype on one device is needed"
            )
        self.ladder = tuple(models)
        self.end_token = end_token
        self.fingerprint = fingerprint
        self.cache_mode = cache_mode
        ((self._config, self._dtype, self._device),) = shapes
        heads: dict[int, Product] = {}  # by weight: all variants of a model share the largest one
        self.networks: dict[str, FusedDecoder] = {}
        for name, model in models.items():
            network = self.networks[name] = FusedDecoder(model, heads.get(model.lm_head.weight.data_ptr()))
            heads[model.lm_head.weight.data_ptr()] = network.head
        self.max_length = self._config.max_position_embeddings
        self._drafts: dict[int, tuple[int, ...]] = {}

    def open(self, seed: int = 0) -> TorchContext:
        """A new, empty context; `seed` is that of its sampled tokens."""
        names = self.ladder if self.cache_mode is CacheMode.OWN else (SHARED,)
        return TorchContext({name: Cache(self._config, self._dtype, self._device) for name in names}, seed)

    def extend(self, context: TorchContext, tokens: Sequence[int]) -> None:
        """Append prompt tokens; they are prefilled by whichever variant generates or scores next."""
        context.tokens.extend(tokens)

    def length(self, context: TorchContext) -> int:
        """How many tokens the context holds."""
        return len(context.tokens)

    def fork(self, context: TorchContext) -> TorchContext:
        """An independent copy of a context, KV state included."""
        caches = {name: cache.copy() for name, cache in context.caches.items()}
        return TorchContext(caches, context.seed, list(context.tokens))

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

        Greedy picks the first of equals. A sampled token is a function of the context's seed and tokens: it depends neither
        on the rest of the batch nor on what was generated before, but for near-ties, which rounding decides.

        Raises CapabilityError for an unknown variant, ConfigError when a context outgrows the model's positions.
        """
        self._check(contexts, variants)
        rows = [
            (context, Decoding(context.tokens, variant, trie, sampling, seed=context.seed, end_token=self.end_token))
            for context, variant, trie in zip(contexts, variants, constraints, strict=True)
        ]
        marks = [hash((variant, *context.tokens[-WINDOW:])) for context, variant in zip(contexts, variants, strict=True)]
        drafts = {id(decoding): self._drafts.get(mark, ()) for (_, decoding), mark in zip(rows, marks, strict=True)}
        active = rows
        while active:
            by_variant: dict[str, list[tuple[TorchContext, Decoding]]] = defaultdict(list)
            for context, decoding in active:
                by_variant[decoding.variant].append((context, decoding))
            for variant, group in by_variant.items():
                pending = [self._pending(context, variant) for context, _ in group]
                rooms = [max(0, self.max_length - len(context.tokens)) for context, _ in group]
                ahead = [
                    drafts[id(decoding)][decoding.made : decoding.made + room]
                    for (_, decoding), room in zip(group, rooms, strict=True)
                ]
                new = [[*read, *draft[:-1]] for read, draft in zip(pending, ahead, strict=True)]
                wanted = [max(1, len(draft)) for draft in ahead]
                logprobs = self._logprobs([context for context, _ in group], new, wanted, variant)
                for (context, decoding), read, draft, predicted in zip(
                    group, pending, ahead, np.split(logprobs, np.cumsum(wanted)[:-1]), strict=True
                ):
                    before = len(context.tokens)
                    served = decoding.take(len(read), predicted, draft[:-1])
                    self._cache(context, variant).truncate(before + served)
                    if tuple(context.tokens[before:]) != draft[: len(context.tokens) - before]:
                        drafts[id(decoding)] = ()  # it says something else
            active = [row for row in active if not row[1].done]
        generations = [decoding.result() for _, decoding in rows]
        for mark, generation in zip(marks, generations, strict=True):
            self._drafts.pop(mark, None)
            self._drafts[mark] = generation.tokens[:LONGEST_DRAFT]  # the newest stands last
        while len(self._drafts) > DRAFTS:
            del self._drafts[next(iter(self._drafts))]
        return generations

    @torch.inference_mode()
    def score(
        self, contexts: Sequence[TorchContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        """Teacher-force `continuations`: raw log-probabilities [tokens, vocabulary] each; row i predicts token i.

        Raises as `generate` does.
        """
        self._check(contexts, [variant])
        if not contexts:
            return []
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
            if variant not in self.networks:
                raise CapabilityError(f"unknown variant {variant!r}; this engine hosts {', '.join(self.ladder)}")
        if len({id(context) for context in contexts}) < len(contexts):
            raise ValueError("a context is twice in one batch; fork it")
        if not all(context.tokens for context in contexts):
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
        network = self.networks[variant]
        caches = [self._cache(c, variant) for c in contexts]
        longest = max(cache.length + len(row) for cache, row in zip(caches, new, strict=True))
        if longest > self.max_length:
            raise ConfigError(
                f"a context of {longest} tokens exceeds the model's {self.max_length} positions; play fewer steps"
            )
        hidden = extend_cached(network, caches, new, wanted)
        logprobs: npt.NDArray[np.float32] = F.log_softmax(network.logits(hidden).float(), dim=-1).cpu().numpy()
        return logprobs
