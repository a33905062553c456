"""Trains a small decoder from scratch on token sequences with a weight per token. Purely token ids: no text, no environment.

The recipe is nanochat-sized: Muon for the matrices of the blocks, AdamW for the rest, bfloat16 autocast, a constant learning
rate with a linear warm-up and a linear cool-down. Sequences come from a random-access source, so that a run that was killed
continues with the very sequence it would have read next. A checkpoint directory is a Hugging Face model directory plus the
optimizer's state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from bitroute.engines.qwen3 import Qwen3, Qwen3Config, causal, load_model
from bitroute.errors import ConfigError, DataError
from bitroute.store.files import write_atomic


@dataclass(frozen=True, slots=True)
class Sequence:
    """One training sequence: `tokens` and, for each, the weight of predicting it (0: it is only read)."""

    tokens: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Recipe:
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


def optimizers(model: Qwen3, recipe: Recipe) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and ".layers." in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or ".layers." not in n]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.0)
    adamw = torch.optim.AdamW(others, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return muon, adamw


def batches(sequences: list[Sequence], recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The pool as padded batches (tokens [b, t], weights [b, t]) of about equal length each, in random order."""
    pool = sorted(sequences, key=lambda s: len(s.tokens))
    groups: list[list[Sequence]] = [[]]
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


def weighted_loss(model: Qwen3, tokens: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy (nats) of tokens[:, 1:] given what precedes them, weighted by weights[:, 1:]."""
    batch, width = tokens.shape
    positions = torch.arange(width).repeat(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits(model(tokens.flatten(), positions, causal(batch)))
    losses = F.cross_entropy(
        logits.float().view(batch, width, -1)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    scale = weights[:, 1:].flatten()
    return (losses * scale).sum() / scale.sum().clamp(min=1.0)


def train(
    config: Qwen3Config,
    recipe: Recipe,
    source: Callable[[int], Sequence],
    directory: Path,
    *,
    end_token: int,
    pad_token: int,
    initial: Path | None = None,
    checkpoint_every: float = 120.0,
) -> Qwen3:
    """Train on source(0), source(1), ... into `directory`; continue there when it holds a checkpoint.

    `initial` is a model directory whose weights a fresh run starts from (fine-tuning); `checkpoint_every` is in seconds. The
    curve (tokens, loss) goes to `curve.jsonl`, a line every 20 steps. Raises ConfigError when `directory` holds a run of
    another recipe.
    """
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = load_model(initial, torch.float32) if initial else Qwen3(config)
    muon, adamw = optimizers(model, recipe)
    progress = Progress()
    if (directory / "progress.json").exists():
        progress = restore(directory, recipe, model, muon, adamw)
    model.train()
    names = {id(p): n for n, p in model.named_parameters()}
    saved = started = time.monotonic()
    losses: list[float] = []
    with tqdm(
        total=recipe.tokens, initial=progress.tokens, unit="tok", unit_scale=True, desc="language model", smoothing=0.05
    ) as bar:
        while progress.tokens < recipe.tokens:
            pool = [source(progress.read + i) for i in range(recipe.pool)]
            progress.read += recipe.pool
            for tokens, weights in batches(pool, recipe, recipe.seed + progress.read):
                factor = recipe.rate(progress.tokens)
                for optimizer, rate in ((muon, recipe.muon_rate), (adamw, recipe.adamw_rate)):
                    for group in optimizer.param_groups:
                        group["lr"] = rate * factor
                loss = weighted_loss(model, tokens, weights)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                muon.step()
                adamw.step()
                model.zero_grad(set_to_none=True)
                read = int((weights > 0).sum())
                progress.tokens += read
                progress.steps += 1
                losses.append(loss.item())
                bar.update(read)
                if progress.steps % 20 == 0:
                    bar.set_postfix(loss=f"{np.mean(losses):.4f}")
                    with (directory / "curve.jsonl").open("a") as file:
                        row = {"tokens": progress.tokens, "loss": round(float(np.mean(losses)), 5), "rate": round(factor, 4)}
                        file.write(json.dumps(row) + "\n")
                    losses.clear()
            now = time.monotonic()
            if now - saved > checkpoint_every or progress.tokens >= recipe.tokens:
                progress.seconds += now - started
                saved = started = now
                save(directory, recipe, progress, model, muon, adamw, names, end_token=end_token, pad_token=pad_token)
    return model


def save(
    directory: Path,
    recipe: Recipe,
    progress: Progress,
    model: Qwen3,
    muon: torch.optim.Optimizer,
    adamw: torch.optim.Optimizer,
    names: dict[int, str],
    *,
    end_token: int,
    pad_token: int,
) -> None:
    """Write the checkpoint; a kill in between leaves the previous one. `progress.json` is written last and says it is whole.

    Raises DataError when the disk refuses.
    """
    master = {n: p.detach() for n, p in model.named_parameters()}
    state = {f"master.{n}": t for n, t in master.items()}
    for prefix, optimizer in (("muon", muon), ("adamw", adamw)):
        for parameter, values in optimizer.state.items():
            state |= {f"{prefix}.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in values.items()}
    write_atomic(directory / f"state-{progress.steps}.safetensors", to_bytes({n: t.contiguous() for n, t in state.items()}))
    weights = {n: t.to(torch.bfloat16).contiguous() for n, t in master.items()}
    write_atomic(directory / "model.safetensors", to_bytes(weights, metadata={"format": "pt"}))
    config = model.config.to_json(end_token=end_token, pad_token=pad_token)
    write_atomic(directory / "config.json", json.dumps(config, indent=2) + "\n")
    about = {"recipe": asdict(recipe), "progress": asdict(progress)}
    write_atomic(directory / "progress.json", json.dumps(about, indent=2) + "\n")
    for old in directory.glob("state-*.safetensors"):
        if old.name != f"state-{progress.steps}.safetensors":
            old.unlink()


def restore(
    directory: Path, recipe: Recipe, model: Qwen3, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer
) -> Progress:
    """Continue from the checkpoint in `directory`. The token budget may differ from the first run's, nothing else may.

    What `curve.jsonl` tells of the time after the checkpoint is taken back: it will be trained, and told, again.
    """
    path = directory / "progress.json"
    try:
        stored = json.loads(path.read_text())
        progress = Progress(**stored["progress"])
        state = load_file(directory / f"state-{progress.steps}.safetensors")
    except Exception as error:  # JSON, key, type, OS and safetensors errors: each means the same to the user
        raise DataError(
            f"{path}: cannot continue from this checkpoint ({error}); remove the directory to start anew"
        ) from error
    differing = [k for k, v in asdict(recipe).items() if k not in ("tokens", "cooldown") and stored["recipe"].get(k) != v]
    if differing:
        raise ConfigError(f"{path}: was made with another {', '.join(differing)}; choose another directory or the same recipe")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[f"master.{name}"])
    for prefix, optimizer in (("muon", muon), ("adamw", adamw)):
        for key, value in state.items():
            if key.startswith(prefix + "."):
                _, field, name = key.split(".", 2)
                optimizer.state[parameters[name]][field] = value
    curve = directory / "curve.jsonl"
    if curve.exists():
        whole = [line for line in curve.read_text().splitlines(keepends=True) if line.endswith("\n")]
        write_atomic(curve, "".join(line for line in whole if json.loads(line)["tokens"] <= progress.tokens))
    return progress
