"""What a choice reveals, against its definition in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from bitroute.engines.constraint import Trie
from bitroute.engines.decoding import Decoding, normalised
from bitroute.engines.engine import Sampling
from bitroute.episode import Usage

WORDS = 5_000
END = 3


def logprobs(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    logits = np.random.default_rng(seed).normal(scale=3.0, size=WORDS)
    return (logits - np.logaddexp.reduce(logits)).astype(np.float32)


@pytest.mark.parametrize("allowed", [None, [3, 9, 4_000], [7, 8]])
def test_signals_of_a_choice(allowed: list[int] | None) -> None:
    row = logprobs(1)
    trie = None if allowed is None else Trie.of([[token, 1] for token in allowed])
    decoding = Decoding([1], "high", trie, Sampling(max_tokens=2), seed=0, end_token=1)
    decoding.choose(row)
    signals = decoding.result().signals
    raw = row.astype(np.float64)[slice(None) if allowed is None else allowed]
    constrained = raw - np.logaddexp.reduce(raw)
    chances = np.exp(constrained)
    second, first = np.sort(chances)[-2:]
    expected = (raw.max(), constrained.max(), -chances @ constrained, first - second)
    found = (signals.logprobs[0], signals.constrained[0], signals.entropy[0], signals.margin[0])
    assert np.allclose(found, expected, atol=1e-5)
    assert decoding.tokens[1] == (np.arange(WORDS) if allowed is None else np.array(allowed))[raw.argmax()]


def test_equals_are_told_apart_by_order_and_leave_no_margin() -> None:
    decoding = Decoding([1], "high", Trie.of([[5, 1], [4, 1]]), Sampling(), seed=0, end_token=1)
    decoding.choose(np.full(10, -1.0, dtype=np.float32))
    assert decoding.tokens == [1, 5, 1]
    assert decoding.result().signals.margin == (0.0,)


def test_what_is_normalised_sums_to_one() -> None:
    found = normalised(np.array([-1000.0, -1000.0, -np.inf]))
    assert np.allclose(np.exp(found), [0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("draft", "agreed"), [((), 0), ((4, 5, 6, 7), 4), ((4, 5), 2), ((4, 9, 6, 7), 1), ((9, 5, 6, 7), 0), ((4, 5, 6, 9), 3)]
)
def test_a_draft_saves_as_many_passes_as_tokens_of_it_are_chosen(draft: tuple[int, ...], agreed: int) -> None:
    wanted = [4, 5, 6, 7, END]  # whatever the draft, this is what the distributions say
    rows = np.log(np.full((len(wanted), 12), 0.01, dtype=np.float32))
    rows[np.arange(len(wanted)), wanted] = np.log(0.89)
    decoding, passes = Decoding([8, 9], "low", None, Sampling(), seed=0, end_token=END), 1
    assert decoding.take(2, rows[: len(draft) + 1], draft) == agreed
    while not decoding.done:
        decoding.take(1, rows[decoding.made :][:1])
        passes += 1
    found = decoding.result()
    assert (found.tokens, found.usage) == (tuple(wanted), Usage("low", prefill=2, cached=0, decode=4))
    assert passes == len(wanted) - agreed
