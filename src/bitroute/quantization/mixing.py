"""Which layers of a model get the wider of two widths: those where the narrower one would change the output most, bit for bit.

A layer's cost at a width is the second-order estimate of the output's KL divergence that its rounding error alone causes,
E[(g . e)^2] / 2 a token: e is the error of the layer's output, g the gradient of the log-probability of a token drawn from the
model itself (so that E[g g^T] is the Fisher information of the layer's output). One backward pass a batch measures all layers.
Sources: the Fisher weighting of Kim et al. 2023, "SqueezeLLM" (arXiv 2306.07629), taken to layers; greedy choice by gain a bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.model import M, block_linears, share_weights
from bitroute.quantization.stages import CalibrationBatches

MEASURED: Final = 16  # batches: some thousand tokens tell the layers apart, and one pass each is made backward, too
Costs = dict[str, dict[int, float]]  # by layer and width, in nats a token


def choose_widths(costs: Mapping[str, Mapping[int, float]], weights: Mapping[str, int], mean: float) -> dict[str, int]:
    """The width of each layer, so that their mean over `weights` (how many a layer has) is at most `mean`.

    All layers start at the narrower width; the one that gains most a bit becomes wider while there is room for it. Of equals
    the first one comes first. `costs` give both widths of each layer.
    """
    narrow = {name: min(found) for name, found in costs.items()}
    room = sum(weights.values()) * mean - sum(weights[name] * width for name, width in narrow.items())
    chosen = dict(narrow)

    def gain(name: str) -> float:
        wide = max(costs[name])
        return (costs[name][narrow[name]] - costs[name][wide]) / (weights[name] * (wide - narrow[name]))

    for name in sorted(costs, key=gain, reverse=True):
        price = weights[name] * (max(costs[name]) - narrow[name])
        if price <= room:
            chosen[name], room = max(costs[name]), room - price
    return chosen


def measure_costs(
    model: M, candidates: Mapping[int, Mapping[str, QuantizedLinear]], calibration: CalibrationBatches[M], seed: int = 0
) -> Costs:
    """What each layer of `candidates` (by width and name) costs in `model`, whose other layers stay as they are.

    Deterministic for a seed: the one of the tokens that are drawn.
    """
    errors = {
        name: {bits: (layers[name].dequantize() - linear.weight).to(calibration.dtype) for bits, layers in candidates.items()}
        for name, linear in block_linears(model).items()
    }
    probe = share_weights(model).to(calibration.dtype)
    linears = block_linears(probe)
    sums = {name: dict.fromkeys(candidates, 0.0) for name in linears}
    random = torch.Generator().manual_seed(seed)

    def listen(name: str, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = args[0].detach()
        if not output.requires_grad:
            output.requires_grad_()
        output.register_hook(partial(take, name, inputs))  # type: ignore[no-untyped-call]

    def take(name: str, inputs: Tensor, gradient: Tensor) -> None:
        for bits, error in errors[name].items():
            moved = F.linear(inputs, error)
            sums[name][bits] += float((gradient.float() * moved.float()).sum(-1).double().square().sum())

    hooks = [linear.register_forward_hook(partial(listen, name)) for name, linear in linears.items()]
    tokens = 0
    try:
        for batch in calibration.batches[:MEASURED]:
            with torch.enable_grad():
                logprobs = F.log_softmax(calibration.run(probe, batch).float(), dim=-1).flatten(0, -2)
                drawn = torch.multinomial(logprobs.detach().exp().cpu(), 1, generator=random).to(logprobs.device)
                logprobs.gather(1, drawn).sum().backward()  # type: ignore[no-untyped-call]
            tokens += len(logprobs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: {bits: total / tokens / 2 for bits, total in found.items()} for name, found in sums.items()}
