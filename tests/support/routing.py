"""Small trained routers in files, and policies over them: what the tests of the gateway's decisions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bitroute.episode import View
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.core.values import Call, RoutingDecision, StepContext
from bitroute.nn.decoder import DecoderConfig
from bitroute.routers.encoder.network import EncoderNetwork
from bitroute.routers.encoder.router import EncoderRouter
from bitroute.routers.features import FEATURES
from bitroute.routers.signals import SignalsModel
from support.toy import toy_tokenizer

NONE: tuple[float, ...] = (0.0,) * len(FEATURES)


def save_signals(
    path: Path,
    variants: Sequence[str],
    weights: Mapping[str, float],
    bias: float = 0.0,
    model: str = "toy-model",
    **fields: Any,
) -> Path:
    """A regression with the given weights by feature, thresholds 0, and no phrases of an environment."""
    SignalsModel(
        features=FEATURES,
        mean=NONE,
        scale=(1.0,) * len(FEATURES),
        weights=tuple(weights.get(name, 0.0) for name in FEATURES),
        bias=bias,
        variants=tuple(variants),
        model=model,
        **{"failures": (), **fields},
    ).save(path)
    return path


def make_encoder(variants: Sequence[str], seed: int = 0, *, use_probe: bool = False) -> EncoderRouter:
    """A small network with random weights large enough to matter."""
    torch.manual_seed(seed)
    tokenizer = toy_tokenizer()
    config = DecoderConfig(tokenizer.vocab_size, 32, 64, 2, 2, 1, 16, max_position_embeddings=512)
    network = EncoderNetwork(config, use_signals=True, use_probe=use_probe)
    torch.nn.init.normal_(network.backbone.model.embed_tokens.weight, std=1.0)
    torch.nn.init.normal_(network.signals.weight, std=0.5)
    return EncoderRouter(network, tokenizer, variants, model="toy-model")


def save_encoder(directory: Path, variants: Sequence[str], seed: int = 0, *, use_probe: bool = False) -> Path:
    """`make_encoder` in a directory."""
    make_encoder(variants, seed, use_probe=use_probe).save(directory)
    return directory


def routing_config(ladder: Sequence[str] = ("low", "high"), **fields: Any) -> GatewayConfig:
    """A configuration of which only the ladder and `routing` matter."""
    variants = [{"name": name, "urls": [f"http://127.0.0.1:{9000 + i}"]} for i, name in enumerate(ladder)]
    return GatewayConfig.of({"variants": variants, "routing": fields}, "test")


def call(*tools: str) -> Call:
    """A chat request, as far as decisions look at it."""
    return Call("/v1/chat/completions", "auto", False, {}, (), tools, False, b"")


def context(view: View, episode: str = "e", seed: int = 0, retried: RoutingDecision | None = None) -> StepContext:
    """Before the view's next step of an episode."""
    return StepContext("s", "header", episode, len(view.actions), view, seed, not view.actions, retried=retried)
