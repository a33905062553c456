"""The encoder's network: a small causal Transformer over the trajectory's text, and a head that scores decisions.

It knows tokens, positions and the numbers that stand beside a decision: what past generations revealed, past decisions and the
probe (`signal_features`), and those of `routers.features` that it was made with, which a rule would look at. Each number also
reaches the score directly, with a weight: a linear rule, from which training sets out and to which the text adds. It knows no
text: `dataset` turns episodes into its tokens, `router` keeps its caches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy.typing as npt
import torch
from torch import Tensor, nn

from bitroute.episode import View
from bitroute.nn.decoder import Attend, Decoder, DecoderConfig
from bitroute.routers.features import FEATURES, REVEALED

# What past log-probabilities, past decisions and the probe say of a step, in this order (`signal_features`).
PAST_FEATURES: Final = 6
DECISION_FEATURES: Final = 2
PROBE_FEATURES: Final = 7
SIGNAL_FEATURES: Final = PAST_FEATURES + DECISION_FEATURES + PROBE_FEATURES
LEAST_DOUBT: Final = 1e-3  # smaller ones look alike
FARTHEST: Final = 5.0  # deviations from the mean at which a feature is cut off: training has seen nothing beyond


def encoder_config(vocab_size: int) -> DecoderConfig:
    """The default network: 0.297 M parameters with a vocabulary of 768."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        intermediate_size=240,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
    )


class EncoderNetwork(nn.Module):
    """Backbone and head. Scores are logits of "this step needs high precision"."""

    def __init__(
        self, config: DecoderConfig, *, use_signals: bool, use_probe: bool = False, features: Sequence[str] = ()
    ) -> None:
        """`use_signals`: read what past generations revealed (a server may not tell); `use_probe`: ask for the low variant's
        next action, too. Past decisions are always known. `features` are names among `FEATURES`; without `use_signals` those
        that generating reveals are left out. Raises ValueError for a name that is none.
        """
        super().__init__()
        if unknown := sorted(set(features) - set(FEATURES)):
            raise ValueError(f"unknown features {', '.join(unknown)}")
        self.features = tuple(name for name in features if use_signals or name not in REVEALED)
        self.columns = [FEATURES.index(name) for name in self.features]
        self.use_signals, self.use_probe = use_signals, use_probe
        self.mask: Tensor
        known = [float(use_signals)] * PAST_FEATURES + [1.0] * DECISION_FEATURES + [float(use_probe)] * PROBE_FEATURES
        mask = torch.tensor(known)
        self.register_buffer("mask", mask, persistent=False)
        self.backbone = Decoder(config)
        self.signals = nn.Linear(SIGNAL_FEATURES, config.hidden_size)
        width = config.hidden_size
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        nn.init.zeros_(self.signals.weight)
        nn.init.zeros_(self.signals.bias)
        numbers = len(self.features) + SIGNAL_FEATURES
        self.feature_mean: Tensor  # of signal features, too: the names are those of earlier files
        self.feature_scale: Tensor
        self.register_buffer("feature_mean", torch.zeros(numbers))
        self.register_buffer("feature_scale", torch.ones(numbers))
        self.rule = nn.Linear(numbers, 1, bias=False)  # lets a number speak for itself
        nn.init.zeros_(self.rule.weight)
        if self.features:
            self.inform = nn.Linear(len(self.features), width, bias=False)  # lets the head weigh text and features together
            nn.init.zeros_(self.inform.weight)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.mask.device

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states [n, hidden] of packed tokens [n]."""
        hidden: Tensor = self.backbone(tokens, positions, attend)
        return hidden

    def standardise(self, signals: npt.ArrayLike, rows: npt.ArrayLike) -> None:
        """Take mean and deviation of the numbers from signal features [n, SIGNAL_FEATURES] and features [n, len(FEATURES)]; one
        that never changes keeps its scale.
        """
        numbers = self._numbers(*(torch.as_tensor(part, dtype=torch.float32, device=self.device) for part in (signals, rows)))
        spread = numbers.std(dim=0, unbiased=False)
        self.feature_mean.copy_(numbers.mean(dim=0))
        self.feature_scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def standardised(self, signals: Tensor, rows: Tensor) -> Tensor:
        """What the rule weighs [n, numbers]: features and signal features in deviations from their means, cut off."""
        z: Tensor = ((self._numbers(signals, rows) - self.feature_mean) / self.feature_scale).clamp(-FARTHEST, FARTHEST)
        return z

    @torch.no_grad()
    def begin_with(self, weights: npt.ArrayLike, bias: float) -> None:
        """Score about as the linear rule of these `weights` [numbers] and `bias` does, until training has more to say.

        The head keeps its small random weights: from zero it learns to read several times slower.
        """
        self.rule.weight.copy_(torch.as_tensor(weights)[None])
        self.head[-1].get_parameter("bias").fill_(bias)

    def score(self, hidden: Tensor, signals: Tensor, rows: Tensor) -> Tensor:
        """Logits [n] from hidden states at decisions [n, hidden], signal features [n, SIGNAL_FEATURES] and features [n,
        len(FEATURES)].
        """
        z = self.standardised(signals, rows)
        mixed = hidden + self.signals(signals * self.mask)
        if self.features:
            mixed = mixed + self.inform(z[:, : len(self.features)])
        logits: Tensor = (self.head(mixed) + self.rule(z)).squeeze(-1)
        return logits

    def _numbers(self, signals: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([rows[:, self.columns], signals * self.mask], dim=1) if self.features else signals * self.mask


def signal_features(view: View, high: str) -> list[float]:
    """What the last generated action and the episode so far revealed, then what the probe says of the coming action.

    Zeros where nothing is known; a flag before those of the last action, and of the probe, says which.
    """
    probe = view.probe
    doubt = 1.0 - min(probe.margin, default=1.0) if probe else 0.0
    last = view.signals[-1] if view.signals else None
    known = [s for s in view.signals if s is not None]
    return [
        1.0 if last else 0.0,
        sum(last.entropy) if last else 0.0,
        1.0 - min(last.margin, default=1.0) if last else 0.0,
        max(-4.0, sum(last.constrained)) if last else 0.0,
        max(-8.0, sum(last.logprobs)) / 4 if last else 0.0,
        sum(sum(s.entropy) for s in known) / max(1, len(known)),
        1.0 if view.variants and view.variants[-1] == high else 0.0,
        min(len(view.actions), 50) / 10,
        1.0 if probe else 0.0,
        sum(probe.entropy) if probe else 0.0,
        doubt,
        max(-4.0, sum(probe.constrained)) if probe else 0.0,
        # not in 0.1
        math.log(LEAST_DOUBT + doubt) if probe else 0.0,  # most of what the probe tells lies close to certainty
        max(-4.0, min(probe.constrained, default=0.0)) if probe else 0.0,
        len(probe.constrained) / 10 if probe else 0.0,
    ]


def unique(network: EncoderNetwork) -> dict[str, Tensor]:
    """The state without the tied head, which is the embedding again."""
    return {n: t.contiguous() for n, t in network.state_dict().items() if n != "backbone.lm_head.weight"}
