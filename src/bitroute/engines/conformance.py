"""Checks that an engine keeps the contract of engines/engine.py: what the tests of whoever writes one call.

The reference is the plainest use of the engine itself: a new context, all tokens at once, one variant, one token scored.
Whatever else an engine does (batches, caches, copies, going back) must come to the same. A broken promise is an AssertionError
that says which. Knows token ids; no text, no framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.engines.engine import CacheMode, Engine, Generation, Sampling
from bitroute.errors import CapabilityError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Case:
    """What an engine is checked on.

    `prompts` are token sequences of several lengths, each of which may open a context or follow another; `completions` are the
    actions that a constraint allows, each with the end token last. Log-probabilities that differ by up to `tolerance` nats are
    the same.
    """

    engine: Engine[Any]
    prompts: Sequence[Sequence[int]]
    completions: Sequence[Sequence[int]]
    tolerance: float = 1e-4
    max_tokens: int = 6

    def opened(self, prompt: int, seed: int = 0) -> Any:
        """A new context that holds a prompt."""
        context = self.engine.open(seed)
        self.engine.extend(context, self.prompts[prompt])
        return context

    def reference(self, tokens: Sequence[int], variant: str) -> Floats:
        """Log-probabilities [vocabulary] of what follows `tokens`."""
        context = self.engine.open()
        self.engine.extend(context, tokens)
        (rows,) = self.engine.score([context], [[0]], variant)
        self.engine.close(context)
        found: Floats = rows[0].astype(np.float64)
        return found

    def near(self, found: npt.ArrayLike, expected: npt.ArrayLike) -> bool:
        """Whether two arrays of numbers are the same, within the tolerance."""
        return np.allclose(np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64), atol=self.tolerance)


def check_engine(case: Case, *, sampled: bool = True) -> None:
    """All checks. `sampled`: the engine also draws tokens at random."""
    check_declaration(case)
    check_variants(case)
    check_lengths(case)
    check_scores(case)
    check_generations(case)
    check_batches(case)
    check_forks(case)
    check_rollback(case)
    check_turns(case)
    if sampled:
        check_sampling(case)


def check_declaration(case: Case) -> None:
    """It says what it hosts, how long a context may be, and whose weights these are."""
    engine = case.engine
    _require(len(engine.ladder) > 0 and len(set(engine.ladder)) == len(engine.ladder), "ladder: names, each once")
    _require(all(isinstance(name, str) for name in engine.ladder), "ladder: names are text")
    _require(engine.max_length > 0, "max_length: a positive number of positions")
    _require(isinstance(engine.fingerprint, str) and bool(engine.fingerprint), "fingerprint: not empty")
    _require(engine.cache_mode in list(CacheMode), "cache_mode: a CacheMode")


def check_variants(case: Case) -> None:
    """A variant that is not hosted is refused with CapabilityError, and the context stays as it was."""
    context, name = case.opened(0), "no-such-variant"
    for call in (
        lambda: case.engine.generate([context], [name], [None], Sampling()),
        lambda: case.engine.score([context], [case.completions[0]], name),
    ):
        try:
            call()
        except CapabilityError:
            pass
        else:
            raise AssertionError("an unknown variant is not refused with CapabilityError")
    _require(case.engine.length(context) == len(case.prompts[0]), "a refused call changes the context")
    case.engine.close(context)


def check_lengths(case: Case) -> None:
    """`length` counts what was extended and generated, and what a rollback leaves."""
    engine, (first, second) = case.engine, case.prompts[:2]
    context = engine.open()
    _require(engine.length(context) == 0, "a new context is not empty")
    engine.extend(context, first[:1])
    engine.extend(context, first[1:])
    _require(engine.length(context) == len(first), "extend: the length is not that of the tokens")
    (generation,) = engine.generate([context], [engine.ladder[0]], [_trie(case)], Sampling(max_tokens=case.max_tokens))
    _require(engine.length(context) == len(first) + len(generation.tokens), "generate: its tokens are not part of the context")
    engine.extend(context, second)
    engine.rollback(context, len(first))
    _require(engine.length(context) == len(first), "rollback: the length is not the one asked for")
    engine.close(context)


def check_scores(case: Case) -> None:
    """Rows are log-probabilities, each the one that the tokens before alone give; the context stays as it was."""
    engine = case.engine
    for variant in engine.ladder:
        for index, prompt in enumerate(case.prompts):
            context, continuation = case.opened(index), case.completions[index % len(case.completions)]
            (rows,) = engine.score([context], [continuation], variant)
            _require(
                rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == len(continuation), "score: float32 [tokens, n]"
            )
            _require(case.near(np.logaddexp.reduce(rows.astype(np.float64), axis=1), 0.0), "score: rows do not sum to one")
            for number, row in enumerate(rows):
                expected = case.reference([*prompt, *continuation[:number]], variant)
                _require(case.near(row, expected), f"score: row {number} is not what the tokens before it give")
            _require(engine.length(context) == len(prompt), "score: the context has changed")
            (again,) = engine.score([context], [continuation], variant)
            _require(case.near(again, rows), "score: a second time gives other rows")
            engine.close(context)


def check_generations(case: Case) -> None:
    """Greedy actions follow the reference token by token, keep to a constraint, and tell what was revealed and read."""
    engine, sampling = case.engine, Sampling(max_tokens=case.max_tokens)
    for variant in engine.ladder:
        for index, prompt in enumerate(case.prompts):
            for trie in (None, _trie(case)):
                context = case.opened(index)
                (generation,) = engine.generate([context], [variant], [trie], sampling)
                _require(0 < len(generation.tokens) <= sampling.max_tokens, "generate: no token, or more than max_tokens")
                _check_greedy(case, prompt, variant, trie, generation)
                usage = generation.usage
                _require(usage.variant == variant, "usage: names another variant")
                _require(usage.prefill > 0 <= usage.decode, "usage: the last token of a prompt is always read")
                _require(usage.prefill + usage.cached == len(prompt), "usage: prefill and cached are not the prompt")
                engine.close(context)


def check_batches(case: Case) -> None:
    """A batch of several lengths, variants and constraints gives what each context gives alone."""
    engine, sampling = case.engine, Sampling(max_tokens=case.max_tokens)
    count = len(case.prompts)
    variants = [engine.ladder[i % len(engine.ladder)] for i in range(count)]
    tries = [_trie(case) if i % 2 else None for i in range(count)]
    together = [case.opened(i) for i in range(count)]
    found = engine.generate(together, variants, tries, sampling)
    for i, generation in enumerate(found):
        alone = case.opened(i)
        (expected,) = engine.generate([alone], [variants[i]], [tries[i]], sampling)
        _require(generation.tokens == expected.tokens, "generate: a batch gives other tokens than one context alone")
        _require(generation.usage == expected.usage, "generate: a batch counts other tokens than one context alone")
        engine.close(alone)
    for context in together:
        engine.close(context)
    for variant in engine.ladder:
        together = [case.opened(i) for i in range(count)]
        wanted = [case.completions[i % len(case.completions)] for i in range(count)]
        for i, rows in enumerate(engine.score(together, wanted, variant)):
            alone = case.opened(i)
            _require(case.near(rows, engine.score([alone], [wanted[i]], variant)[0]), "score: a batch gives other rows")
            engine.close(alone)
        for context in together:
            engine.close(context)
    _require(engine.generate([], [], [], sampling) == [], "generate: nothing in, nothing out")
    _require(engine.score([], [], engine.ladder[0]) == [], "score: nothing in, nothing out")


def check_forks(case: Case) -> None:
    """A copy continues as the original does, and neither sees what becomes of the other."""
    engine, (first, second) = case.engine, case.prompts[:2]
    for variant in engine.ladder:
        origin = case.opened(0)
        engine.score([origin], [case.completions[0]], variant)  # there is something to copy
        copy = engine.fork(origin)
        engine.extend(copy, second)
        _require(engine.length(origin) == len(first), "fork: the original grows with the copy")
        engine.extend(origin, first)
        for context, tokens in ((copy, [*first, *second]), (origin, [*first, *first])):
            (rows,) = engine.score([context], [[0]], variant)
            _require(case.near(rows[0], case.reference(tokens, variant)), "fork: a context is disturbed by its copy")
        engine.close(origin)
        (rows,) = engine.score([copy], [[0]], variant)
        _require(case.near(rows[0], case.reference([*first, *second], variant)), "fork: the copy ends with the original")
        engine.close(copy)


def check_rollback(case: Case) -> None:
    """What was taken back leaves no trace."""
    engine, (first, second) = case.engine, case.prompts[:2]
    for variant in engine.ladder:
        context = case.opened(0)
        engine.extend(context, second)
        engine.generate([context], [variant], [_trie(case)], Sampling(max_tokens=case.max_tokens))
        engine.rollback(context, len(first))
        engine.extend(context, first)
        (rows,) = engine.score([context], [[0]], variant)
        expected = case.reference([*first, *first], variant)
        _require(case.near(rows[0], expected), "rollback: what was taken back is still read")
        engine.close(context)


def check_turns(case: Case) -> None:
    """Prompts and actions in turns: with a cache per variant each variant reads all of them as if it were alone."""
    engine, sampling = case.engine, Sampling(max_tokens=case.max_tokens)
    context, tokens = engine.open(), list[int]()
    ladder = engine.ladder if engine.cache_mode is CacheMode.OWN else engine.ladder[-1:]
    for turn, prompt in enumerate(case.prompts):
        engine.extend(context, prompt)
        tokens += prompt
        variant = ladder[turn % len(ladder)]
        (generation,) = engine.generate([context], [variant], [_trie(case)], sampling)
        _check_greedy(case, tokens, variant, _trie(case), generation)
        _require(generation.usage.prefill + generation.usage.cached == len(tokens), "usage: not all tokens are accounted for")
        tokens += generation.tokens
    engine.close(context)


def check_sampling(case: Case) -> None:
    """A sampled action follows from seed, tokens and variant alone, and may differ between seeds."""
    engine, sampling = case.engine, Sampling(temperature=2.0, max_tokens=case.max_tokens)
    variant, drawn = engine.ladder[-1], set[tuple[int, ...]]()
    for seed in range(16):
        contexts = [case.opened(0, seed), case.opened(1, seed)]
        first, _ = engine.generate(contexts, [variant] * 2, [None] * 2, sampling)
        alone = case.opened(0, seed)
        (again,) = engine.generate([alone], [variant], [None], sampling)
        _require(first.tokens == again.tokens, "sampling: the same seed and tokens give another action")
        drawn.add(first.tokens)
        for context in (*contexts, alone):
            engine.close(context)
    _require(len(drawn) > 1, "sampling: sixteen seeds give one action")


def _check_greedy(case: Case, prompt: Sequence[int], variant: str, trie: Trie | None, generation: Generation) -> None:
    """Each token is the likeliest allowed one (or as likely), and `signals` tell of the choices."""
    signals = generation.signals
    told = list(zip(signals.logprobs, signals.constrained, signals.entropy, signals.margin, strict=True))
    for number, token in enumerate(generation.tokens):
        allowed = trie.allowed if trie is not None else None
        if allowed is None or len(allowed) > 1:
            row = case.reference([*prompt, *generation.tokens[:number]], variant)
            options = row if allowed is None else row[allowed]
            _require(allowed is None or token in allowed, "generate: a token that the constraint does not allow")
            _require(row[token] >= options.max() - case.tolerance, "generate: a token that is not the likeliest")
            chances = np.exp(options - np.logaddexp.reduce(options))
            top = np.sort(chances)[::-1]
            entropy = -float(chances[chances > 0] @ np.log(chances[chances > 0]))
            expected = (row[token], row[token] - np.logaddexp.reduce(options), entropy, top[0] - top[1])
            _require(bool(told) and case.near(told.pop(0), expected), "signals: not those of the choice that was made")
        if trie is not None:
            _require(token in trie.children, "generate: a token that the constraint does not allow")
            trie = trie.children[token]
    _require(not told, "signals: more of them than there were choices")


def _trie(case: Case) -> Trie:
    return Trie.of(case.completions)


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise AssertionError(promise)
