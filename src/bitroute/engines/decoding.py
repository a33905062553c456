"""One action in the making: what is picked from each distribution, under a constraint, and what that reveals and costs.

Every engine picks alike: greedily the first of equals, or at random with the context's seed; tokens that a constraint forces
are appended without a pass. It knows token ids and log-probabilities, and not where these come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitroute.engines.constraint import Trie
from bitroute.engines.engine import Generation, Sampling
from bitroute.episode import Signals, Usage


class Decoding:
    """Appends an action to `tokens`, a context's, which are not empty. `take` what each pass computed, until `done`.

    `trie` limits the action, `end_token` ends it. A sampled token is a function of `seed` and of the tokens before: it depends
    neither on other contexts nor on what was generated before.
    """

    def __init__(
        self, tokens: list[int], variant: str, trie: Trie | None, sampling: Sampling, *, seed: int, end_token: int
    ) -> None:
        self.tokens, self.variant, self.trie, self.sampling, self.end_token = tokens, variant, trie, sampling, end_token
        self.prompt = len(tokens)
        self.random = np.random.default_rng([seed, *tokens]) if sampling.temperature > 0 else None
        self.signals: tuple[list[float], ...] = ([], [], [], [])
        self.prefill = self.decode = 0
        self.done = False

    def count(self, processed: int) -> None:
        """A pass read `processed` tokens: the first one prefills, all later ones decode."""
        if self.prefill:
            self.decode += processed
        else:
            self.prefill = processed

    @property
    def made(self) -> int:
        """How many tokens were appended so far."""
        return len(self.tokens) - self.prompt

    def take(self, processed: int, logprobs: npt.NDArray[np.float32], draft: Sequence[int] = ()) -> int:
        """Choose after a pass that read `processed` tokens and then a `draft` of what will be chosen: row i of `logprobs`
        [1 + len(draft), vocabulary] comes after i tokens of the draft, and serves if these were chosen.

        How many of the draft's first tokens were chosen and read on the way to the last choice: as many as would have been read
        without a draft. What would have been passes counts as passes.
        """
        before, read = len(self.tokens), 0
        while True:
            self.count(processed)
            self.choose(logprobs[read])
            chosen = self.tokens[before:]
            if self.done or chosen != list(draft[: len(chosen)]):
                return read
            processed, read = len(chosen) - read, len(chosen)

    def choose(self, logprobs: npt.NDArray[np.float32]) -> None:
        """Pick the next token from raw log-probabilities [vocabulary]; then follow the trie as far as it forces."""
        allowed = None if self.trie is None else self.trie.allowed
        raw = logprobs if allowed is None else logprobs[allowed].astype(np.float64)
        pick = self._pick(raw)
        if len(raw) > 1:
            self._reveal(raw, pick, whole=allowed is None)
        self._append(pick if allowed is None else allowed[pick])
        while self.trie is not None and not self.done and len(self.trie.children) == 1:
            self._append(next(iter(self.trie.children)))

    def result(self) -> Generation:
        """The whole action; the first `prompt` tokens were there before."""
        usage = Usage(self.variant, prefill=self.prefill, cached=self.prompt - self.prefill, decode=self.decode)
        return Generation(tuple(self.tokens[self.prompt :]), Signals(*map(tuple, self.signals)), usage)

    def _reveal(self, raw: npt.NDArray[np.floating], pick: int, *, whole: bool) -> None:
        """Note what a choice between `raw` log-probabilities tells; the `whole` vocabulary's sum to one already, and are many:
        they are gone through as few times as possible."""
        first = int(raw.argmax())
        constrained = raw if whole else normalised(raw)
        probabilities = np.exp(constrained)
        second = max(part.max() for part in (probabilities[:first], probabilities[first + 1 :]) if len(part))
        revealed = (raw[pick], constrained[pick], -(probabilities @ constrained), probabilities[first] - second)
        for values, value in zip(self.signals, revealed, strict=True):
            values.append(float(value))

    def _pick(self, raw: npt.NDArray[np.floating]) -> int:
        """An index into log-probabilities that need not sum to one."""
        if self.random is None:
            return int(raw.argmax())
        tempered = np.exp((raw.astype(np.float64) - raw.max()) / self.sampling.temperature)
        return int(self.random.choice(len(raw), p=tempered / tempered.sum()))

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        if self.trie is not None:
            self.trie = self.trie.children[token]
        self.done = token == self.end_token or self.made >= self.sampling.max_tokens


def normalised(logprobs: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Log-probabilities that sum to one, of some that do not. (`np.logaddexp.reduce` takes a hundred times as long.)"""
    top = logprobs.max()
    found: npt.NDArray[np.floating] = logprobs - (top + np.log(np.exp(logprobs - top).sum()))
    return found
