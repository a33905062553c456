"""The trained router: a small causal Transformer over the trajectory's text that keeps its own cache and reads only new tokens.

It knows chat messages and its own tokenizer, no environment, and nothing of the language model but what generating revealed:
summaries of log-probabilities can be given as extra input, those of past steps for free (`use_signals`), those of the low
variant's coming action at the price of a probe (`use_probe`); its own past decisions it always sees, and beside the text the
features that a rule would look at (`routers.features`), where it was trained with them. The score of a step is read
where the agent's next action would begin. Paper: arXiv 2602.02711, whose router re-encodes the whole trajectory each call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from bitroute.episode import View
from bitroute.errors import ConfigError, DataError
from bitroute.nn.decoder import DecoderConfig
from bitroute.nn.kv_cache import Cache, extend_cached
from bitroute.nn.tokenizer import TurnTokenizer
from bitroute.routers.encoder.dataset import TextReader
from bitroute.routers.encoder.network import EncoderNetwork, signal_features, unique
from bitroute.routers.features import FeatureState, features
from bitroute.routers.router import Probe, RouterCost
from bitroute.routers.threshold import Scored, ThresholdRouter, refuse_others
from bitroute.store.files import write_atomic

SIGNALS_OF_0_1: Final = 12  # signal features that routers of version 0.1 know


@dataclass(slots=True, eq=False)
class EpisodeReading:
    """What of an episode the network has read: messages and the actions between them, and the cache that holds them.

    `ends[i]` is the cache's length after `messages[i]`.
    """

    cache: Cache
    messages: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    ends: list[int] = field(default_factory=list)
    state: FeatureState = field(default_factory=FeatureState)

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
    cost = RouterCost.THREAD

    def __init__(
        self,
        network: EncoderNetwork,
        tokenizer: TurnTokenizer,
        variants: Sequence[str],
        thresholds: float | Sequence[float] = 0.0,
        *,
        model: str,
        sample: bool = False,
        failures: Sequence[str] = (),
    ) -> None:
        """`failures` are the phrases by which the environment refuses an action, as features count them."""
        super().__init__(variants, thresholds, sample=sample)
        self.network, self.model, self.failures = network, model, tuple(failures)
        self.reader = TextReader(tokenizer, 0, failures)  # a text comes once an episode, and is kept as keys and values
        self.probes = frozenset({Probe.LOW_GENERATION}) if network.use_probe else frozenset()

    def to(self, device: str) -> Self:
        """The router, its network on `device`. What states hold stays where it is: move it before the first decision."""
        self.network.to(device)
        return self

    def remember(self) -> EpisodeReading:
        """Nothing has been read yet."""
        return EpisodeReading(Cache(self.network.backbone.config, torch.float32, self.network.device))

    def branch(self, state: Scored, seed: int) -> Scored:
        """A copy: what both have in common is not read again."""
        reading: EpisodeReading = state.memory
        return Scored(seed, replace(reading, cache=reading.cache.copy(), ends=list(reading.ends), state=FeatureState()))

    @torch.inference_mode()
    def scores(self, views: Sequence[View], states: Sequence[Scored]) -> list[float]:
        """Logits. A view costs the tokens that are new to its state: those after what both have in common.

        Raises ConfigError when a view is longer than the network's positions.
        """
        readings: list[EpisodeReading] = [s.memory for s in states]
        fresh = [self._unread(view, reading) for view, reading in zip(views, readings, strict=True)]
        longest = max(r.cache.length + len(new) for r, new in zip(readings, fresh, strict=True))
        room = self.network.backbone.config.max_position_embeddings
        if longest > room:
            raise ConfigError(f"an episode of {longest} tokens exceeds the router's {room} positions; play fewer steps")
        if self.network.training:  # to say it anew walks all modules, which takes a tenth of a decision
            self.network.eval()
        hidden = extend_cached(self.network.backbone, [r.cache for r in readings], fresh, [1] * len(readings))
        device, high = self.network.device, self.variants[-1]
        signals = torch.tensor([signal_features(view, high) for view in views], device=device)
        rows = [self._features(view, reading) for view, reading in zip(views, readings, strict=True)]
        scores: list[float] = self.network.score(hidden, signals, torch.tensor(rows, device=device)).tolist()
        return scores

    def _features(self, view: View, reading: EpisodeReading) -> Sequence[float]:
        """The view's features, or none where the network looks at none."""
        if not self.network.features:
            return ()
        if view.features is not None:
            return view.features
        row: list[float] = features(view, self.variants[-1], reading.state, self.failures).tolist()
        return row

    def _unread(self, view: View, reading: EpisodeReading) -> list[int]:
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
            "features": self.network.features,
            "failures": self.failures,
            "config": self.network.backbone.config.to_json(),
        }
        write_atomic(directory / "router.json", (json.dumps(meta, indent=2) + "\n").encode())


def load_encoder(directory: Path, *, variants: Sequence[str], model: str | None = None) -> EncoderRouter:
    """Read what `save` wrote, over `variants` in the place of those that it was trained for, by position.

    With the fingerprint `model` of a language model it must have been trained for that one and for just these variants. Raises
    DataError when files are missing or damaged, or the router is another one's.
    """
    path = directory / "router.json"
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
        network = EncoderNetwork(
            DecoderConfig(**meta["config"]),
            use_signals=meta["use_signals"],
            use_probe=meta["use_probe"],
            features=meta.get("features", ()),  # routers of version 0.1 had none
        )
        failures = tuple(meta.get("failures", ()))
        state = load_file(directory / "network.safetensors")
        state["backbone.lm_head.weight"] = state["backbone.model.embed_tokens.weight"]
        network.load_state_dict(_grown(state, network))
        trained_for, ladder, thresholds = meta["model"], tuple(meta["variants"]), meta["thresholds"]
    except Exception as error:  # OS, JSON, key, shape and safetensors errors all mean the same to the user
        problem = " ".join(str(error).split())
        raise DataError(f"{directory}: not a readable encoder router ({type(error).__name__}: {problem})") from error
    if model is not None:
        refuse_others(path, trained_for=trained_for, model=model, ladder=ladder, variants=variants)
    tokenizer = TurnTokenizer.load(directory)
    if tokenizer.vocab_size > network.backbone.config.vocab_size:
        raise DataError(f"{directory}: tokenizer.json has more tokens than the network; it belongs to another router")
    return EncoderRouter(network, tokenizer, variants, thresholds, model=trained_for, failures=failures)


def _grown(state: dict[str, Tensor], network: EncoderNetwork) -> dict[str, Tensor]:
    """The state of a network of version 0.1, of which signal features did not reach the score directly, in today's shapes: of
    numbers that it did not know it takes no notice. Any other state is left as it is.
    """
    if state["signals.weight"].shape[-1] != SIGNALS_OF_0_1:
        return state
    for name in ("signals.weight", "rule.weight", "feature_mean", "feature_scale"):
        wanted, known = network.state_dict()[name], SIGNALS_OF_0_1 if name == "signals.weight" else len(network.features)
        state[name] = torch.cat([state[name], wanted[..., known:]], dim=-1) if known else wanted
    return state
