"""Fine-tunes a pretrained decoder by LoRA on token sequences with a weight per token. Token ids alone: no text, no environment.

The base stays as it is: its products run in the dtype that is faster here, the adapter is kept and updated in float32 by AdamW.
Whole sequences are packed into a step and attend to themselves alone. Sequences come from a random-access source, so that a run
that was killed continues with the very sequence it would have read next.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bitroute.errors import ConfigError
from bitroute.nn.adapter import Adapter, AdapterInfo
from bitroute.nn.decoder import Decoder, packed
from bitroute.nn.lora import LoraShape, attach
from bitroute.nn.trimmed_head import TrimmedHead
from bitroute.nn.weighted import WeightedSequence
from bitroute.training.checkpoint import CURVE, Checkpoint

SAMPLE: Final = 512  # sequences that tell which token ids are in use
IMITATED: Final = 0.5  # weight from which on a token is the agent's own
VARIABLE: Final = ("tokens", "cooldown", "max_length", "whole")  # of a recipe: what a run that goes on may change
LINE: Final = 20  # steps a line of the curve


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """What decides the adapter, besides the base and the data."""

    tokens: int = 1_500_000  # in all
    batch_tokens: int = 1536  # a step
    max_length: int = 2048  # longer sequences are cut
    rate: float = 1.5e-3  # of the plateau
    warmup: float = 0.01  # share of `tokens`
    cooldown: float = 0.4
    clip: float = 1.0
    whole: int = 8  # every so many steps the agent's own tokens are predicted against the whole vocabulary
    shape: LoraShape = field(default_factory=LoraShape)
    seed: int = 0

    def factor(self, done: int) -> float:
        """The learning rate's factor after `done` tokens."""
        progress = done / self.tokens
        return max(0.0, min(1.0, (progress + 1e-3) / self.warmup, (1 - progress) / self.cooldown))


@dataclass(slots=True)
class Progress:
    """How far a run is; saved with each checkpoint. `read` counts sequences taken from the source. `phases` tell of each
    command that trained it at how many tokens it began, and what of the recipe was its own.
    """

    read: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    phases: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences packed one after the other: tokens [n], the weight of each one's prediction [n], and where they end."""

    tokens: Tensor
    weights: Tensor
    lengths: tuple[int, ...]


def batches(source: Callable[[int], WeightedSequence], start: int, recipe: LoraRecipe) -> Iterator[Batch]:
    """The sequences from `start` on, as many a batch as fit into `batch_tokens`, one at least."""
    following = source(start)
    while True:
        taken = [following]
        while True:
            start += 1
            following = source(start)
            if sum(min(len(s.tokens), recipe.max_length) for s in (*taken, following)) > recipe.batch_tokens:
                break
            taken.append(following)
        cut = [(s.tokens[: recipe.max_length], s.weights[: recipe.max_length]) for s in taken]
        yield Batch(
            torch.tensor([token for tokens, _ in cut for token in tokens]),
            torch.tensor([w for _, weights in cut for w in (0.0, *weights[1:])]),
            tuple(len(tokens) for tokens, _ in cut),
        )


def train_adapter(
    model: Decoder,
    base: tuple[str, str],
    recipe: LoraRecipe,
    source: Callable[[int], WeightedSequence],
    directory: Path,
    *,
    dtype: torch.dtype,
    command: Mapping[str, Any] = MappingProxyType({}),
    checkpoint_every: float = 120.0,
    threads: int | None = None,
) -> None:
    """Train an adapter of `model` (float32; it is changed in place) on source(0), source(1), ... into `directory`.

    `base` is the model's name and fingerprint. A training that stopped there goes on: the same machine and dtype give the same
    adapter as one that did not stop, bit for bit. A finished one goes on when `recipe.tokens` is more; `command` (what it was,
    of which source) is noted as a new phase, when it is another one. Raises ConfigError when the directory holds another
    recipe's or base's, or when the loss is no number any more; DataError when the checkpoint is damaged or the disk refuses.
    """
    if threads:
        torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    used = sorted({token for index in range(SAMPLE) for token in source(index).tokens[: recipe.max_length]})
    run = LoraTraining(model, base, recipe, used, directory, dtype)
    run.restore()
    run.enter(command)
    saved = time.monotonic()
    bar = tqdm(total=recipe.tokens, initial=run.progress.tokens, unit="tok", unit_scale=True, desc="adapter", smoothing=0.05)
    with bar:
        for batch in batches(source, run.progress.read, recipe):
            if run.progress.tokens >= recipe.tokens:
                break
            bar.update(run.step(batch))
            bar.set_postfix(loss=run.loss, refresh=False)
            elapsed = time.monotonic() - saved
            if elapsed > checkpoint_every or run.progress.tokens >= recipe.tokens:
                run.progress.seconds += elapsed
                saved += elapsed
                run.save()


class LoraTraining:
    """A training in the making: network, optimizer, progress, and the directory that they are kept in."""

    def __init__(
        self, model: Decoder, base: tuple[str, str], recipe: LoraRecipe, used: list[int], directory: Path, dtype: torch.dtype
    ) -> None:
        self.model, self.base, self.recipe, self.directory = model, base, recipe, directory
        self.head = TrimmedHead(model.lm_head.weight, used, dtype)
        model.to(dtype)
        self.matrices = attach(model, recipe.shape, recipe.seed)
        self.optimizer = torch.optim.AdamW(self.matrices.values(), lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.0)
        self.checkpoint = Checkpoint(directory, self.matrices, {"adamw": self.optimizer})
        self.progress = Progress()
        self._seen: list[tuple[float, float, float, float]] = []  # loss, own tokens' sums of loss and hits, how many they are

    @property
    def loss(self) -> float:
        """Mean loss since the last line of the curve, nats."""
        return round(float(np.mean([row[0] for row in self._seen])), 4) if self._seen else math.nan

    def enter(self, command: Mapping[str, Any]) -> None:
        """Note what trains from here on, unless it is what trained before."""
        own = dict(command) | {name: getattr(self.recipe, name) for name in VARIABLE}
        phases = self.progress.phases
        if not phases or {name: phases[-1].get(name) for name in own} != own:
            phases.append({"begins": self.progress.tokens, **own})

    def step(self, batch: Batch) -> int:
        """Learn from one batch; how many tokens it holds."""
        recipe, progress = self.recipe, self.progress
        factor = recipe.factor(progress.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate * factor
        positions = torch.cat([torch.arange(length) for length in batch.lengths])
        device = self.model.cos.device
        tokens, weights = batch.tokens.to(device), batch.weights.to(device)
        hidden = self.model(tokens, positions.to(device), packed(batch.lengths, self.model.model.embed_tokens.weight))
        targets, scale = tokens[1:], weights[1:]  # a sequence's first token weighs nothing: it follows another one's last
        own = scale >= IMITATED
        scale = torch.where(own | self.head.holds(targets), scale, 0.0)  # others of a rare word's tokens are not learned
        rows = scale > 0
        targets, scale, own = targets[rows], scale[rows], own[rows]
        exact = own if progress.steps % recipe.whole == 0 else own & ~self.head.holds(targets)
        losses, hits = self.head.cross_entropy(hidden[:-1][rows], targets, exact)
        loss = (losses * scale).sum() / scale.sum().clamp(min=1.0)
        if not torch.isfinite(loss):
            raise ConfigError(f"{self.directory}: the loss is {loss.item()} after {progress.tokens} tokens; lower the rate")
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.matrices.values(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.tokens += len(batch.tokens)
        progress.steps += 1
        progress.read += len(batch.lengths)
        self._seen.append((loss.item(), losses[own].sum().item(), hits[own].sum().item(), own.sum().item()))
        if progress.steps % LINE == 0:
            self._tell(factor)
        return len(batch.tokens)

    def save(self) -> None:
        """Write the checkpoint and the adapter. Raises DataError when the disk refuses."""
        about = {"recipe": asdict(self.recipe), "base": list(self.base), "progress": asdict(self.progress)}
        self.checkpoint.save(self.progress.steps, about, self._write)

    def restore(self) -> None:
        """Continue from the checkpoint, where there is one. Of the recipe, what is VARIABLE may differ, nothing else may."""

        def accept(stored: dict[str, Any]) -> list[str]:
            recipe, self.progress = stored["recipe"], Progress(**stored["progress"])
            other = [k for k, v in asdict(self.recipe).items() if k not in VARIABLE and recipe.get(k) != v]
            return other if tuple(stored["base"]) == self.base else [*other, "base"]

        self.checkpoint.restore(accept)

    def _write(self) -> None:
        training = {"recipe": asdict(self.recipe), "progress": asdict(self.progress), "curve": self._summary()}
        weights = {name: matrix.detach() for name, matrix in self.matrices.items()}
        Adapter(AdapterInfo(*self.base, self.recipe.shape, training), weights).save(self.directory)

    def _summary(self) -> list[dict[str, float]]:
        """The curve's lines, thinned to about 20."""
        curve = self.directory / CURVE
        lines = curve.read_text().splitlines() if curve.exists() else []
        kept = lines[:: max(1, len(lines) // 20)]
        return [json.loads(line) for line in (kept if not lines or kept[-1] == lines[-1] else [*kept, lines[-1]])]

    def _tell(self, factor: float) -> None:
        """Add a line to the curve: the loss, and of the agent's own tokens cross entropy (nats) and hits."""
        loss = float(np.mean([row[0] for row in self._seen]))
        nats, hits, count = (sum(row[i] for row in self._seen) for i in (1, 2, 3))
        row = {
            "tokens": self.progress.tokens,
            "loss": round(loss, 5),
            "own": round(nats / max(count, 1), 5),
            "accuracy": round(hits / max(count, 1), 5),
            "rate": round(factor, 4),
        }
        self.checkpoint.tell(row)
        self._seen.clear()
