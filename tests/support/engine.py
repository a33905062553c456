"""An engine without a network: distributions come from a rule, caches and their accounting are those of a real engine."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Generation, Sampling
from bitroute.episode import Signals, Usage
from bitroute.errors import CapabilityError
from support.toy import ASSISTANT, COLOURS, END, USER, WORDS

LADDER_OF_TWO: Mapping[str, tuple[str, ...]] = {"low": ("hard", "brutal"), "high": ()}
LADDER_OF_THREE: Mapping[str, tuple[str, ...]] = {"low": ("hard", "brutal"), "middle": ("brutal",), "high": ()}


@dataclass(eq=False)
class FakeContext:
    """Tokens, and who wrote each cached position: one list a cache."""

    tokens: list[int] = field(default_factory=list)
    caches: dict[str, list[str]] = field(default_factory=dict)
    closed: bool = False


class FakeEngine:
    """Hosts variants that know the right colour unless the screen's level is in their list of weaknesses.

    The level is understood by whoever wrote it into the cache: in shared mode a label or probe that left its own reading behind
    would change what is played, and tests would see it.
    """

    fingerprint = "toy-model"

    def __init__(
        self,
        weaknesses: Mapping[str, tuple[str, ...]] = LADDER_OF_TWO,
        cache_mode: CacheMode = CacheMode.OWN,
        max_length: int = 512,
    ) -> None:
        self.weaknesses = dict(weaknesses)
        self.ladder = tuple(weaknesses)
        self.cache_mode = cache_mode
        self.max_length = max_length
        self.contexts: list[FakeContext] = []
        self.largest_batch = 0

    @property
    def alive(self) -> int:
        """Contexts that were not given back."""
        return sum(not context.closed for context in self.contexts)

    def open(self, seed: int = 0) -> FakeContext:
        names = self.ladder if self.cache_mode is CacheMode.OWN else ("shared",)
        self.contexts.append(FakeContext([], {name: [] for name in names}))
        return self.contexts[-1]

    def extend(self, context: FakeContext, tokens: Sequence[int]) -> None:
        assert not context.closed
        context.tokens.extend(tokens)

    def length(self, context: FakeContext) -> int:
        return len(context.tokens)

    def fork(self, context: FakeContext) -> FakeContext:
        assert not context.closed
        self.contexts.append(copy.deepcopy(context))
        return self.contexts[-1]

    def rollback(self, context: FakeContext, length: int) -> None:
        del context.tokens[length:]
        for cache in context.caches.values():
            del cache[length:]

    def close(self, context: FakeContext) -> None:
        assert not context.closed, "closed twice"
        context.closed = True

    def generate(
        self,
        contexts: Sequence[FakeContext],
        variants: Sequence[str],
        constraints: Sequence[Trie | None],
        sampling: Sampling,
    ) -> list[Generation]:
        assert sampling.temperature == 0, "the toy is greedy"
        self.largest_batch = max(self.largest_batch, len(contexts))
        return [self._generate(c, v, t, sampling) for c, v, t in zip(contexts, variants, constraints, strict=True)]

    def score(
        self, contexts: Sequence[FakeContext], continuations: Sequence[Sequence[int]], variant: str
    ) -> list[npt.NDArray[np.float32]]:
        results = []
        for context, continuation in zip(contexts, continuations, strict=True):
            prompt = len(context.tokens)
            self._read(context, variant)
            rows = []
            for token in continuation:
                rows.append(self._logprobs(context, variant))
                context.tokens.append(token)
            self.rollback(context, prompt)
            results.append(np.array(rows, dtype=np.float32))
        return results

    def _generate(self, context: FakeContext, variant: str, trie: Trie | None, sampling: Sampling) -> Generation:
        prompt = len(context.tokens)
        prefill = self._read(context, variant)
        decode = 0
        chosen: list[int] = []
        signals: tuple[list[float], ...] = ([], [], [], [])
        while len(chosen) < sampling.max_tokens:
            allowed = np.array(trie.allowed) if trie else np.arange(len(WORDS))
            raw = self._logprobs(context, variant)[allowed].astype(np.float64)
            constrained = raw - np.logaddexp.reduce(raw)
            pick = int(np.argmax(raw))
            if len(allowed) > 1:
                top = np.sort(np.exp(constrained))[::-1]
                entropy = -float(np.exp(constrained) @ constrained)
                for values, value in zip(signals, (raw[pick], constrained[pick], entropy, top[0] - top[1]), strict=True):
                    values.append(float(value))
            token = int(allowed[pick])
            chosen.append(token)
            context.tokens.append(token)
            trie = trie.children[token] if trie else None
            if token == END:
                break
            decode += self._read(context, variant)
        usage = Usage(variant, prefill=prefill, cached=prompt - prefill, decode=decode)
        return Generation(tuple(chosen), Signals(*map(tuple, signals)), usage)

    def _read(self, context: FakeContext, variant: str) -> int:
        """Fill the variant's cache up to the last token, which is always read anew; how many were read."""
        if variant not in self.weaknesses:
            raise CapabilityError(f"unknown variant {variant!r}")
        assert not context.closed
        cache = context.caches[variant if self.cache_mode is CacheMode.OWN else "shared"]
        del cache[len(context.tokens) - 1 :]
        lacking = len(context.tokens) - len(cache)
        cache += [variant] * lacking
        return lacking

    def _logprobs(self, context: FakeContext, variant: str) -> npt.NDArray[np.float64]:
        """Log-probabilities [vocabulary] of the next token."""
        tokens = context.tokens
        user = max(i for i, token in enumerate(tokens) if token == USER)
        assistant = tokens.index(ASSISTANT, user)
        level, colour = WORDS[tokens[user + 1]], WORDS[tokens[user + 2]]
        cache = context.caches[variant if self.cache_mode is CacheMode.OWN else "shared"]
        misread = level in self.weaknesses[cache[user + 1]]
        match len(tokens) - assistant:
            case 1:
                likely = {"press": 1.0}
            case 2:
                wrong = COLOURS[(COLOURS.index(colour) + 1) % len(COLOURS)]
                likely = {colour: 0.2, wrong: 0.8} if misread else {colour: 0.95, wrong: 0.05}
            case _:
                likely = {"<end>": 1.0}
        chances = np.full(len(WORDS), 0.02 / len(WORDS))
        for word, chance in likely.items():
            chances[WORDS.index(word)] += 0.98 * chance
        return np.log(chances)
