"""Measures how sensitive a step is: KL(high || low) over the action. Token contexts in, `Sensitivity` values out.

The action is the one that the high variant takes at that state, teacher-forced through both variants (arXiv 2602.02711, section
on KL-supervised training). Under a constraint only choices carry divergence: both distributions are renormalised over the
allowed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.engines.decoding import normalised
from bitroute.engines.engine import C, CacheMode, Engine, Generation, Sampling
from bitroute.episode import Sensitivity

Floats = npt.NDArray[np.float64]


def divergence(high: npt.ArrayLike, low: npt.ArrayLike) -> float:
    """KL(high || low) in nats of two vectors of log-probabilities; each is renormalised first. Never negative.

    An outcome that is impossible at high counts nothing; one that is impossible at low alone makes it infinite.
    """
    p, q = (normalised(np.asarray(logprobs, dtype=np.float64)) for logprobs in (high, low))
    possible = p > -np.inf
    return max(0.0, float(np.exp(p[possible]) @ (p[possible] - q[possible])))


def step_divergences(high: npt.NDArray[np.float32], low: npt.NDArray[np.float32], path: Sequence[Trie] | None) -> list[float]:
    """The divergence at each choice of an action: rows of log-probabilities [tokens, vocabulary], the trie's nodes before them.

    Without a path (no constraint) every token is a choice.
    """
    if path is None:
        return [divergence(h, q) for h, q in zip(high, low, strict=True)]
    return [
        divergence(h[node.allowed], q[node.allowed])
        for h, q, node in zip(high, low, path, strict=True)
        if len(node.children) > 1
    ]


@contextmanager
def isolated(engine: Engine[C], contexts: Sequence[C]) -> Iterator[Sequence[C]]:
    """Contexts to try something on: afterwards the given ones are as before.

    With a cache per variant they are used themselves and shortened again: what a variant prefilled meanwhile is its own and
    stays. With a shared cache forks are used, since one variant's pass would change what the next one reads.
    """
    if engine.cache_mode is CacheMode.OWN:
        lengths = [engine.length(c) for c in contexts]
        try:
            yield contexts
        finally:
            for context, length in zip(contexts, lengths, strict=True):
                engine.rollback(context, length)
    else:
        forks = [engine.fork(c) for c in contexts]
        try:
            yield forks
        finally:
            for fork in forks:
                engine.close(fork)


def measure(
    engine: Engine[C], contexts: Sequence[C], constraints: Sequence[Trie | None], parse: Callable[[Sequence[int]], str]
) -> list[Sensitivity]:
    """One label per context, which stays as it was: greedy actions of both variants, then both distributions along high's."""
    low, high = engine.ladder[0], engine.ladder[-1]

    def act(variant: str) -> list[Generation]:
        with isolated(engine, contexts) as used:
            return engine.generate(used, [variant] * len(used), constraints, Sampling())

    def score(variant: str) -> list[npt.NDArray[np.float32]]:
        with isolated(engine, contexts) as used:
            return engine.score(used, [g.tokens for g in wanted], variant)

    wanted, cheap = act(high), act(low)
    scores = {high: score(high), low: score(low)}
    labels = []
    for index, (generation, other) in enumerate(zip(wanted, cheap, strict=True)):
        trie = constraints[index]
        path = list(trie.walk(generation.tokens)) if trie else None
        at_high, at_low = scores[high][index], scores[low][index]
        parts = step_divergences(at_high, at_low, path)
        labels.append(
            Sensitivity(
                kl_sum=sum(parts),
                kl_mean=sum(parts) / max(1, len(parts)),
                kl_max=max(parts, default=0.0),
                raw_sum=sum(step_divergences(at_high, at_low, None)),
                action=parse(generation.tokens),
                agrees=generation.tokens == other.tokens,
                low=other.signals,
            )
        )
    return labels


def exact_divergence(engine: Engine[C], context: C, completions: Sequence[Sequence[int]]) -> float:
    """KL(high || low) of the distributions over whole admissible actions: the reference for the greedy-path label.

    By the chain rule it is the expected sum of the divergences at the choices along high's actions, of which `kl_sum` is the
    sum along the likeliest one. Costs two scores of every admissible command; the context stays as it was.
    """
    trie = Trie.of(completions)
    logprobs = {}
    for variant in (engine.ladder[-1], engine.ladder[0]):
        base = engine.fork(context)
        engine.score([base], [completions[0]], variant)  # what the cache lacks is prefilled once, not once a completion
        forks = [engine.fork(base) for _ in completions]
        rows = engine.score(forks, completions, variant)
        for fork in (base, *forks):
            engine.close(fork)
        logprobs[variant] = [action_logprob(r, trie, c) for r, c in zip(rows, completions, strict=True)]
    return divergence(logprobs[engine.ladder[-1]], logprobs[engine.ladder[0]])


def action_logprob(rows: npt.NDArray[np.float32], trie: Trie, tokens: Sequence[int]) -> float:
    """Log-probability of a whole action under the constraint, from raw rows [tokens, vocabulary]."""
    total = 0.0
    for row, node, token in zip(rows.astype(np.float64), trie.walk(tokens), tokens, strict=True):
        total += float(row[token] - np.logaddexp.reduce(row[node.allowed]))
    return total
