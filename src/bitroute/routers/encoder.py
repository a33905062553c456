"""The trained router: a small causal Transformer over the trajectory's text that keeps its own cache and reads only new tokens.

It knows chat messages and its own tokenizer, no environment, and nothing of the language model but what generating revealed:
summaries of log-probabilities can be given as extra input, those of past steps for free (`use_signals`), those of the low
variant's coming action at the price of a probe (`use_probe`); its own past decisions it always sees. The score of a step is
read where the agent's next action would begin. Paper: arXiv 2602.02711, whose router re-encodes the whole trajectory each call.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from bitroute.episode import Episode, View
from bitroute.errors import ConfigError, DataError
from bitroute.nn.decoder import Attend, Decoder, DecoderConfig, causal
from bitroute.nn.kv_cache import Cache, extend_cached
from bitroute.nn.tokenizer import ASSISTANT, END, USER, Tokenizer
from bitroute.routers.router import Probe
from bitroute.routers.threshold import Scored, ThresholdRouter, refuse_others
from bitroute.store.files import write_atomic

# What past log-probabilities, past decisions and the probe say of a step, in this order (`signal_features`).
PAST_FEATURES: Final = 6
DECISION_FEATURES: Final = 2
PROBE_FEATURES: Final = 4
SIGNAL_FEATURES: Final = PAST_FEATURES + DECISION_FEATURES + PROBE_FEATURES


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

    def __init__(self, config: DecoderConfig, *, use_signals: bool, use_probe: bool = False) -> None:
        """`use_signals`: read what past generations revealed (a server may not tell); `use_probe`: ask for the low variant's
        next action, too. Past decisions are always known.
        """
        super().__init__()
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

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states [n, hidden] of packed tokens [n]."""
        hidden: Tensor = self.backbone(tokens, positions, attend)
        return hidden

    def score(self, hidden: Tensor, signals: Tensor) -> Tensor:
        """Logits [n] from hidden states at decisions [n, hidden] and signal features [n, SIGNAL_FEATURES]."""
        logits: Tensor = self.head(hidden + self.signals(signals * self.mask)).squeeze(-1)
        return logits


def signal_features(view: View, high: str) -> list[float]:
    """What the last generated action and the episode so far revealed, then what the probe says of the coming action.

    Zeros where nothing is known.
    """
    probe = view.probe
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
        1.0 - min(probe.margin, default=1.0) if probe else 0.0,
        max(-4.0, sum(probe.constrained)) if probe else 0.0,
    ]


class Reader:
    """Chat text as the network's tokens: each message ends where an action begins, each action with its end token."""

    def __init__(self, tokenizer: Tokenizer, remember: int = 65536) -> None:
        """`remember` texts of each kind are kept with their tokens: training reads the same ones again and again."""
        self.tokenizer = tokenizer
        self.message = lru_cache(maxsize=remember)(self._message)
        self.action = lru_cache(maxsize=remember)(self._action)

    def _message(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(USER + text + ASSISTANT))

    def _action(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text + END))


@dataclass(slots=True, eq=False)
class Reading:
    """What of an episode the network has read: messages and the actions between them, and the cache that holds them.

    `ends[i]` is the cache's length after `messages[i]`.
    """

    cache: Cache
    messages: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    ends: list[int] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """What this takes of memory: the cache as it is allocated, and the texts."""
        return self.cache.store.nbytes + sum(map(len, self.messages)) + sum(map(len, self.actions))

    def shared(self, view: View) -> int:
        """How many of the view's messages have been read, with the same actions between them."""
        count = 0
        for index, (mine, theirs) in enumerate(zip(self.messages, view.messages, strict=False)):
            if mine != theirs or (index and self.actions[index - 1] != view.actions[index - 1]):
                break
            count += 1
        return count


class EncoderRouter(ThresholdRouter):
    """The network as a router. `model` is the fingerprint of the language model that it was trained for."""

    name = "encoder"

    def __init__(
        self,
        network: EncoderNetwork,
        tokenizer: Tokenizer,
        variants: Sequence[str],
        thresholds: float | Sequence[float] = 0.0,
        *,
        model: str,
        sample: bool = False,
    ) -> None:
        super().__init__(variants, thresholds, sample=sample)
        self.network, self.model = network, model
        self.reader = Reader(tokenizer)
        self.probes = frozenset({Probe.LOW_GENERATION}) if network.use_probe else frozenset()

    def remember(self) -> Reading:
        """Nothing has been read yet."""
        return Reading(Cache(self.network.backbone.config, torch.float32))

    def branch(self, state: Scored, seed: int) -> Scored:
        """A copy: what both have in common is not read again."""
        reading: Reading = state.memory
        return Scored(seed, replace(reading, cache=reading.cache.copy(), ends=list(reading.ends)))

    @torch.inference_mode()
    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """Logits. A view costs the tokens that are new to its state: those after what both have in common.

        Raises ConfigError when a view is longer than the network's positions.
        """
        readings: list[Reading] = [s.memory for s in states]
        fresh = [self._unread(view, reading) for view, reading in zip(views, readings, strict=True)]
        longest = max(r.cache.length + len(new) for r, new in zip(readings, fresh, strict=True))
        room = self.network.backbone.config.max_position_embeddings
        if longest > room:
            raise ConfigError(f"an episode of {longest} tokens exceeds the router's {room} positions; play fewer steps")
        if self.network.training:  # to say it anew walks all modules, which takes a tenth of a decision
            self.network.eval()
        hidden = extend_cached(self.network.backbone, [r.cache for r in readings], fresh, [1] * len(readings))
        signals = torch.tensor([signal_features(view, self.variants[-1]) for view in views])
        return [float(x) for x in self.network.score(hidden, signals)]

    def _unread(self, view: View, reading: Reading) -> list[int]:
        """The tokens of what the view has beyond the reading, which is rolled back to what both share and brought up to date.

        The newest message is always read: the score stands at its end.
        """
        known = min(reading.shared(view), len(view.messages) - 1)
        del reading.ends[known:]
        length = reading.ends[-1] if known else 0
        reading.cache.truncate(length)
        new: list[int] = []
        for index in range(known, len(view.messages)):
            if index > 0:
                new += self.reader.action(view.actions[index - 1])
            new += self.reader.message(view.messages[index])
            reading.ends.append(length + len(new))
        reading.messages, reading.actions = view.messages, view.actions
        return new

    def save(self, directory: Path) -> None:
        """Write router.json, network.safetensors and the tokenizer."""
        directory.mkdir(parents=True, exist_ok=True)
        write_atomic(directory / "network.safetensors", save(unique(self.network)))
        self.reader.tokenizer.save(directory)
        meta = {
            "router": self.name,
            "model": self.model,
            "variants": self.variants,
            "thresholds": self.thresholds,
            "use_signals": self.network.use_signals,
            "use_probe": self.network.use_probe,
            "config": dataclasses.asdict(self.network.backbone.config),
        }
        write_atomic(directory / "router.json", (json.dumps(meta, indent=2) + "\n").encode())


def unique(network: EncoderNetwork) -> dict[str, Tensor]:
    """The state without the tied head, which is the embedding again."""
    return {n: t.contiguous() for n, t in network.state_dict().items() if n != "backbone.lm_head.weight"}


def load_encoder(directory: Path, *, model: str, variants: Sequence[str]) -> EncoderRouter:
    """Read what `save` wrote, for the language model with fingerprint `model` and its ladder `variants`.

    Raises DataError when files are missing or damaged, or the router was trained for another model or other variants.
    """
    path = directory / "router.json"
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
        network = EncoderNetwork(DecoderConfig(**meta["config"]), use_signals=meta["use_signals"], use_probe=meta["use_probe"])
        state = load_file(directory / "network.safetensors")
        state["backbone.lm_head.weight"] = state["backbone.model.embed_tokens.weight"]
        network.load_state_dict(state)
        trained_for, ladder, thresholds = meta["model"], tuple(meta["variants"]), meta["thresholds"]
    except Exception as error:  # OS, JSON, key, shape and safetensors errors all mean the same to the user
        problem = " ".join(str(error).split())
        raise DataError(f"{directory}: not a readable encoder router ({type(error).__name__}: {problem})") from error
    refuse_others(path, trained_for=trained_for, model=model, ladder=ladder, variants=variants)
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > network.backbone.config.vocab_size:
        raise DataError(f"{directory}: tokenizer.json has more tokens than the network; it belongs to another router")
    return EncoderRouter(network, tokenizer, ladder, thresholds, model=model)


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A played episode as the network's training input: all its tokens, and where decisions were taken."""

    tokens: list[int]
    decisions: list[int]  # positions of the tokens before which an action began, one per step
    signals: list[list[float]]  # [steps, SIGNAL_FEATURES]
    actions: list[int] = field(default_factory=list)  # positions of action tokens (for the auxiliary loss)


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of token ids as one tensor [rows, longest], filled up with zeros (padding follows, so causal attention never sees
    it).
    """
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def trajectory_logits(network: EncoderNetwork, batch: Sequence[Trajectory]) -> tuple[Tensor, Tensor]:
    """The scores of all decisions of a batch, one after the other [decisions], and hidden states [episodes, longest,
    hidden].
    """
    tokens = pad([t.tokens for t in batch])
    rows, width = tokens.shape
    hidden = network(tokens.flatten(), torch.arange(width).repeat(rows), causal(rows)).view(rows, width, -1)
    index = torch.tensor([(row, at) for row, t in enumerate(batch) for at in t.decisions])
    signals = torch.tensor([s for t in batch for s in t.signals])
    return network.score(hidden[index[:, 0], index[:, 1]], signals), hidden


def read_episode(reader: Reader, episode: Episode, high: str) -> Trajectory:
    """The tokens that a router would have read by the episode's last decision, and its last action."""
    tokens: list[int] = []
    decisions: list[int] = []
    signals: list[list[float]] = []
    actions: list[int] = []
    for step, view in zip(episode.steps, views_of(episode), strict=True):
        tokens += reader.message(step.message)
        decisions.append(len(tokens) - 1)
        signals.append(signal_features(view, high))
        action = reader.action(step.action)
        actions += range(len(tokens), len(tokens) + len(action))
        tokens += action
    return Trajectory(tokens, decisions, signals, actions)


def views_of(episode: Episode) -> list[View]:
    """What the router saw before each step of a stored episode; a label tells what a probe would have seen."""
    steps = episode.steps
    probes = [s.probe or (s.sensitivity.low if s.sensitivity else None) for s in steps]
    return [
        View(
            tuple(s.message for s in steps[: t + 1]),
            tuple(s.action for s in steps[:t]),
            tuple(s.decision.variant for s in steps[:t]),
            tuple(s.signals for s in steps[:t]),
            probes[t],
        )
        for t in range(len(steps))
    ]
