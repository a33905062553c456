"""Trains a small decoder on token sequences with a weight per token, from scratch or from given weights. Purely token ids: no
text, no environment.

The recipe is nanochat-sized: Muon for the matrices of the blocks, AdamW for the rest, bfloat16 autocast, a constant learning
rate with a linear warm-up and a linear cool-down. Sequences come from a random-access source, so that a run that was killed
continues with the very sequence it would have read next. A checkpoint directory is a Hugging Face model directory plus the
optimizer's state.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from bitroute.errors import ConfigError, DataError
from bitroute.nn.checkpoint import config_json
from bitroute.nn.decoder import Decoder, DecoderConfig, causal
from bitroute.nn.weighted import WeightedSequence
from bitroute.store.files import write_atomic
from bitroute.training.checkpoint import Checkpoint

VOCABULARY: Final = 768  # tokens of the reference agent


def agent_config(vocab_size: int = VOCABULARY) -> DecoderConfig:
    """The reference agent's network: 3.3 M parameters with its vocabulary, all widths multiples of 256 (what K-quants need)."""
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    )


@dataclass(frozen=True, slots=True)
class LanguageModelRecipe:
    """What decides the trained weights, besides the data. Learning rates are the plateau's."""

    tokens: int = 20_000_000  # training tokens in all, padding not counted
    batch_tokens: int = 4096
    max_length: int = 1024  # longer sequences are cut
    muon_rate: float = 0.015
    adamw_rate: float = 3e-3
    warmup: float = 0.01  # share of `tokens`
    cooldown: float = 0.4
    pool: int = 96  # sequences sorted by length at a time: less padding, and the grain of a checkpoint
    seed: int = 0
    start: str | None = None  # fingerprint of the weights that it starts from, None for random ones

    def rate(self, done: int) -> float:
        """The learning rate's factor after `done` training tokens."""
        progress = done / self.tokens
        return max(0.0, min(1.0, (progress + 1e-3) / self.warmup, (1 - progress) / self.cooldown))


@dataclass(slots=True)
class Progress:
    """How far a run is; saved with each checkpoint. `read` counts sequences taken from the source."""

    read: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0


def batches(sequences: list[WeightedSequence], recipe: LanguageModelRecipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pool as padded batches (tokens [b, t], weights [b, t]) of about equal length each, in random order."""
    pool = sorted(sequences, key=lambda s: len(s.tokens))
    groups: list[list[WeightedSequence]] = [[]]
    for sequence in pool:
        width = min(len(sequence.tokens), recipe.max_length)
        if groups[-1] and (len(groups[-1]) + 1) * width > recipe.batch_tokens:
            groups.append([])
        groups[-1].append(sequence)
    for index in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[index]
        width = min(max(len(s.tokens) for s in group), recipe.max_length)
        tokens = torch.zeros(len(group), width, dtype=torch.long)
        weights = torch.zeros(len(group), width)
        for row, sequence in enumerate(group):
            length = min(len(sequence.tokens), width)
            tokens[row, :length] = torch.tensor(sequence.tokens[:length])
            weights[row, :length] = torch.tensor(sequence.weights[:length])
        yield tokens, weights


def weighted_loss(model: Decoder, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy (nats) of tokens[:, 1:] given what precedes them, weighted by weights[:, 1:]."""
    batch, width = tokens.shape
    positions = torch.arange(width, device=tokens.device).repeat(batch)
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16):
        logits = model.logits(model(tokens.flatten(), positions, causal(batch)))
    losses = F.cross_entropy(
        logits.float().view(batch, width, -1)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    scale = weights[:, 1:].flatten()
    return (losses * scale).sum() / scale.sum().clamp(min=1.0)


def train_language_model(
    config: DecoderConfig,
    recipe: LanguageModelRecipe,
    source: Callable[[int], WeightedSequence],
    directory: Path,
    *,
    end_token: int,
    pad_token: int,
    start: Mapping[str, Tensor] | None = None,
    checkpoint_every: float = 120.0,
    device: torch.device | None = None,
    threads: int | None = None,
) -> Decoder:
    """Train on source(0), source(1), ... into `directory`; continue there when it holds a checkpoint.

    `start` are the weights that `recipe.start` names, by the network's names; without them they are drawn at random.
    `checkpoint_every` is in seconds; `device` is the processor by default, and `threads` is torch's own choice. The curve
    (tokens, loss, rate) goes to `curve.jsonl`, a line every 20 steps. A run that was killed and continued gives the weights of
    one that was not, bit for bit. Raises ConfigError when `directory` holds a run of another recipe or network, when the loss
    is no number any more, or when `start` does not fit the network; DataError when the checkpoint is damaged, the disk refuses,
    or nothing can be learned.
    """
    if threads:
        torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = Decoder(config)
    if start is not None:
        try:
            model.load_state_dict(start)
        except RuntimeError as error:
            raise ConfigError(f"the weights to start from do not fit: {str(error).splitlines()[-1].strip()}") from error
    run = LanguageModelTraining(directory, recipe, model.to(device), end_token, pad_token)
    run.restore()
    run.model.train()
    saved = time.monotonic()
    bar = tqdm(
        total=recipe.tokens, initial=run.progress.tokens, unit="tok", unit_scale=True, desc="language model", smoothing=0.05
    )
    with bar:
        while run.progress.tokens < recipe.tokens:
            before = run.progress.tokens
            pool = [source(run.progress.read + i) for i in range(recipe.pool)]
            run.progress.read += recipe.pool
            for tokens, weights in batches(pool, recipe, recipe.seed + run.progress.read):
                bar.update(run.step(tokens, weights))
                bar.set_postfix(loss=run.loss, refresh=False)
            if run.progress.tokens == before:
                raise DataError(
                    f"{directory}: {recipe.pool} sequences in a row have no token with a weight; nothing is learned"
                )
            elapsed = time.monotonic() - saved
            if elapsed > checkpoint_every or run.progress.tokens >= recipe.tokens:
                run.progress.seconds += elapsed
                saved += elapsed
                run.save()
    return run.model


class LanguageModelTraining:
    """A training in the making: network, optimizers, progress, and the directory that they are kept in.

    Muon trains the blocks' matrices, AdamW embeddings and norms.
    """

    def __init__(self, directory: Path, recipe: LanguageModelRecipe, model: Decoder, end_token: int, pad_token: int) -> None:
        self.directory, self.recipe, self.model = directory, recipe, model
        self.end_token, self.pad_token = end_token, pad_token
        self.progress = Progress()
        self.parameters = dict(model.named_parameters())
        matrices = {n: p for n, p in self.parameters.items() if p.dim() == 2 and ".layers." in n}
        others = [p for n, p in self.parameters.items() if n not in matrices]
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "muon": torch.optim.Muon(matrices.values(), lr=recipe.muon_rate, weight_decay=0.0),
            "adamw": torch.optim.AdamW(others, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        }
        self.checkpoint = Checkpoint(directory, self.parameters, self.optimizers)
        self._losses: list[float] = []  # since the last line of the curve

    @property
    def loss(self) -> float:
        """Mean loss since the last line of the curve, nats."""
        return round(float(np.mean(self._losses)), 4) if self._losses else math.nan

    def step(self, tokens: Tensor, weights: Tensor) -> int:
        """Learn from one batch (tokens [b, t], weights [b, t]); how many tokens were learned from."""
        recipe, progress = self.recipe, self.progress
        factor = recipe.rate(progress.tokens)
        for name, rate in (("muon", recipe.muon_rate), ("adamw", recipe.adamw_rate)):
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate * factor
        device = self.model.cos.device
        loss = weighted_loss(self.model, tokens.to(device), weights.to(device))
        if not torch.isfinite(loss):
            raise ConfigError(f"{self.directory}: the loss is {loss.item()} after {progress.tokens} tokens; lower the rates")
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        learned = int((weights > 0).sum())
        progress.tokens += learned
        progress.steps += 1
        self._losses.append(loss.item())
        if progress.steps % 20 == 0:
            self._tell(factor)
        return learned

    def save(self) -> None:
        """Write the checkpoint and the model. Raises DataError when the disk refuses."""
        about = {"recipe": asdict(self.recipe), "progress": asdict(self.progress)}
        self.checkpoint.save(self.progress.steps, about, self._write)

    def restore(self) -> None:
        """Continue from the checkpoint, where there is one. The token budget and the cool-down may differ, nothing else may."""

        def accept(stored: dict[str, Any]) -> list[str]:
            recipe, self.progress = stored["recipe"], Progress(**stored["progress"])
            return [k for k, v in asdict(self.recipe).items() if k not in ("tokens", "cooldown") and recipe.get(k) != v]

        self.checkpoint.restore(accept)

    def _write(self) -> None:
        small = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in self.parameters.items()}
        write_atomic(self.directory / "model.safetensors", to_bytes(small, metadata={"format": "pt"}))
        config = config_json(self.model.config, end_token=self.end_token, pad_token=self.pad_token)
        write_atomic(self.directory / "config.json", json.dumps(config, indent=2) + "\n")

    def _tell(self, factor: float) -> None:
        """Add a line to the curve."""
        loss = round(float(np.mean(self._losses)), 5)
        self.checkpoint.tell({"tokens": self.progress.tokens, "loss": loss, "rate": round(factor, 4)})
        self._losses.clear()
