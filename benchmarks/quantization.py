"""What each storage scheme costs a model and what it saves: bytes on disk and in memory against what becomes of its actions.

Needs a model directory with the ALFWorld tokenizer; episodes are generated. A few minutes on one core for a small model:
    python benchmarks/quantization.py alfworld-agent
    python benchmarks/quantization.py alfworld-agent --schemes w2g64-rtn,w4n2g64-rtn --episodes 200
GPTQ is calibrated on expert episodes of lm-train; errors are measured on expert episodes of validation, on the tokens of
actions alone, teacher-forced, in float32: mean KL(high || low) in nats a token with its standard error over episodes, and the
share of tokens on which both variants would choose the same. `weights` is the share of the weights' energy that is lost. Bytes
are those of the block layers, scales and header included. A nested scheme has two rows: the whole store, and its slice.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.agent import AlfworldAgent
from bitroute.envs.alfworld.corpus import SCRATCH, weigh
from bitroute.envs.alfworld.demonstrations import demonstrate
from bitroute.nn.checkpoint import load_model
from bitroute.nn.decoder import Decoder, sequence_logits
from bitroute.nn.fingerprint import fingerprint
from bitroute.nn.tokenizer import Tokenizer
from bitroute.quantization.model import block_linears, memory_bytes, quantized_linears, slice_model
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import Scheme
from bitroute.quantization.stages import CalibrationBatches
from bitroute.quantization.store import save_variant

SCHEMES = (
    "w8g64-rtn,w4g64-rtn,w4g64-gptq,w3g64-rtn,w3g64-gptq,w2g32-rtn,w2g64-rtn,w2g128-rtn,w2g64-gptq,w8n4g64-rtn,w4n2g64-rtn"
)


def episodes(agent: AlfworldAgent, split: str, count: int, longest: int) -> list[tuple[Tensor, Tensor]]:
    """Tokens [1, time] and where the model predicts a token of an expert's action [time - 1], for each episode."""
    result = []
    for index in range(count):
        sequence = weigh(agent, demonstrate(splits.task(split, index), seed=index, noise=0.1))
        action = torch.tensor(sequence.weights[:longest]) > SCRATCH.observation
        result.append((torch.tensor([sequence.tokens[:longest]]), action[1:]))
    return result


def action_logprobs(model: Decoder, tokens: Tensor, action: Tensor) -> Tensor:
    """Log-probabilities [action tokens, vocabulary] in float64."""
    logits: Tensor = sequence_logits(model, tokens)[0, :-1][action]
    return F.log_softmax(logits.double(), dim=-1)


def weight_error(model: Decoder, variant: Decoder) -> float:
    """Share of the energy of the block weights that is lost."""
    linears = block_linears(model)
    lost = sum(
        float((layer.dequantize() - linears[name].weight.detach()).double().square().sum())
        for name, layer in quantized_linears(variant).items()
    )
    return lost / sum(float(linear.weight.detach().double().square().sum()) for linear in linears.values())


def main() -> None:
    """Parse the flags, measure each scheme, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--schemes", default=SCHEMES, help="comma-separated names such as w4g64-gptq or w8n4g64-rtn")
    parser.add_argument("--episodes", type=int, default=100, help="validation episodes to measure on")
    parser.add_argument("--calibration", type=int, default=32, help="lm-train episodes to calibrate GPTQ on")
    flags = parser.parse_args()
    schemes = [Scheme.parse(text) for text in flags.schemes.split(",")]

    agent = AlfworldAgent(Tokenizer.load(flags.model))
    model = load_model(flags.model, torch.float32)
    identity = fingerprint(model.state_dict())
    longest = model.config.max_position_embeddings
    calibration_episodes = episodes(agent, "lm-train", flags.calibration, longest)
    source = f"{flags.calibration} expert episodes of lm-train"
    calibration = CalibrationBatches([tokens for tokens, _ in calibration_episodes], sequence_logits, source)
    held_out = episodes(agent, "validation", flags.episodes, longest)
    weights = sum(linear.weight.numel() for linear in block_linears(model).values())
    dense = 2 * weights  # bytes in bf16, as the model is stored
    rest = memory_bytes(model) // 2 - dense

    with torch.inference_mode():
        reference = [action_logprobs(model, *episode) for episode in held_out]
    print(f"machine: {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"model: {flags.model}, fingerprint {identity[:12]}, {weights:,} block weights; the rest takes {rest:,} bytes (bf16)")
    print(f"n: {len(held_out)} validation episodes, {sum(len(r) for r in reference):,} action tokens; calibration: {source}")
    print(
        f"{'variant':<18}{'bits/w':>7}{'disk':>12}{'memory':>12}{'of bf16':>9}{'weights':>10}{'KL':>20}{'same':>8}{'cpu s':>8}"
    )
    print(f"{'bf16':<18}{16:>7}{dense:>12,}{dense:>12,}{1:>9.3f}{0:>10}{0:>20}{1:>8.4f}{'':>8}")

    def row(name: str, variant: Decoder, disk: str, seconds: str) -> None:
        divergences, same = [], []
        with torch.inference_mode():
            for p, (tokens, action) in zip(reference, held_out, strict=True):
                q = action_logprobs(variant, tokens, action)
                divergences.append(float((p.exp() * (p - q)).sum(-1).mean()))
                same.append((p.argmax(-1) == q.argmax(-1)).double())
        memory = memory_bytes(*quantized_linears(variant).values())
        kl = f"{np.mean(divergences):.5f} +- {np.std(divergences) / len(divergences) ** 0.5:.5f}"
        print(
            f"{name:<18}{8 * memory / weights:>7.2f}{disk:>12}{memory:>12,}{memory / dense:>9.3f}"
            f"{weight_error(model, variant):>10.2e}{kl:>20}{float(torch.cat(same).mean()):>8.4f}{seconds:>8}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as folder:
        for scheme in schemes:
            started = time.process_time()
            variant = quantize_model(model, scheme, calibration)
            seconds = f"{time.process_time() - started:.1f}"
            info = save_variant(Path(folder) / str(scheme), variant, scheme, model=identity, calibration=source)
            row(str(scheme), variant, f"{info.size:,}", seconds)
            if scheme.nested is not None:
                row(f"  its {scheme.nested}-bit slice", slice_model(variant, scheme.nested), "shared", "")


if __name__ == "__main__":
    main()
