"""Episodes as the encoder's training input: their tokens, where decisions were taken, and what stood beside them.

It knows chat text and the router's own tokenizer, and nothing of labels and rewards. The router reads the same tokens, a step
at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch
from torch import Tensor

from bitroute.episode import Episode
from bitroute.nn.decoder import causal
from bitroute.nn.tokenizer import ASSISTANT, END, USER, TurnTokenizer
from bitroute.routers.budgeted import budget_left
from bitroute.routers.encoder.network import EncoderNetwork, signal_features
from bitroute.routers.features import FeatureState, features
from bitroute.routers.views import views_of


class TextReader:
    """Chat text as the network's tokens: each message ends where an action begins, each action with its end token.

    `failures` are the phrases, in lower case, that features count as a failure besides the general ones.
    """

    def __init__(self, tokenizer: TurnTokenizer, remember: int = 65536, failures: Sequence[str] = ()) -> None:
        """`remember` texts of each kind are kept with their tokens: training reads the same ones again and again."""
        self.tokenizer, self.failures = tokenizer, tuple(failures)
        self.message = lru_cache(maxsize=remember)(self._message)
        self.action = lru_cache(maxsize=remember)(self._action)

    def _message(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(USER + text + ASSISTANT))

    def _action(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text + END))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A played episode as the network's training input: all its tokens, and where decisions were taken."""

    tokens: list[int]
    decisions: list[int]  # positions of the tokens before which an action began, one per step
    signals: list[list[float]]  # [steps, SIGNAL_FEATURES]
    features: list[list[float]]  # [steps, len(FEATURES)]
    actions: list[int] = field(default_factory=list)  # positions of action tokens (for the auxiliary loss)


def pad(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of token ids as one tensor [rows, longest] on `device`, filled up with zeros (padding follows, so causal attention
    never sees it).
    """
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def trajectory_logits(network: EncoderNetwork, batch: Sequence[Trajectory]) -> tuple[Tensor, Tensor]:
    """The scores of all decisions of a batch, one after the other [decisions], and hidden states [episodes, longest,
    hidden].
    """
    device = network.device
    tokens = pad([t.tokens for t in batch], device)
    rows, width = tokens.shape
    hidden = network(tokens.flatten(), torch.arange(width, device=device).repeat(rows), causal(rows)).view(rows, width, -1)
    index = torch.tensor([(row, at) for row, t in enumerate(batch) for at in t.decisions], device=device)
    signals = torch.tensor([s for t in batch for s in t.signals], device=device)
    features = torch.tensor([f for t in batch for f in t.features], device=device)
    return network.score(hidden[index[:, 0], index[:, 1]], signals, features), hidden


def read_episode(
    reader: TextReader, episode: Episode, high: str, within: tuple[Sequence[str], float] | None = None
) -> Trajectory:
    """The tokens that a router would have read by the episode's last decision, and its last action.

    `within` is the hard budget that it was played in, a ladder and the steps at its highest variant, if any.
    """
    tokens: list[int] = []
    decisions: list[int] = []
    signals: list[list[float]] = []
    rows: list[list[float]] = []
    actions: list[int] = []
    state = FeatureState()
    views = views_of(episode)
    if within is not None:
        views = [replace(view, budget_left=budget_left(view.variants, *within)) for view in views]
    for step, view in zip(episode.steps, views, strict=True):
        tokens += reader.message(step.message)
        decisions.append(len(tokens) - 1)
        signals.append(signal_features(view, high))
        rows.append(features(view, high, state, reader.failures).tolist())
        action = reader.action(step.action)
        actions += range(len(tokens), len(tokens) + len(action))
        tokens += action
    return Trajectory(tokens, decisions, signals, rows, actions)
