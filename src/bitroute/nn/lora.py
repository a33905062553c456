"""Low-rank adapters (LoRA, arXiv 2106.09685) on a decoder's block linears: W + alpha / rank * B A; A and B are learned.

It knows networks and tensors; what is learned, and how files are named, is decided elsewhere. Names of the matrices are those
of the layers with `.lora_A.weight` and `.lora_B.weight`, as in PEFT's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bitroute.nn.decoder import Decoder


@dataclass(frozen=True, slots=True)
class LoraShape:
    """How wide an adapter is and how much it counts."""

    rank: int = 16
    alpha: float = 32.0

    @property
    def scale(self) -> float:
        """What the product of both matrices is multiplied by."""
        return self.alpha / self.rank


class LoraLinear(nn.Module):
    """A frozen linear layer with an adapter. Products run in the frozen weight's dtype, the adapter is kept in float32."""

    def __init__(self, frozen: nn.Linear, shape: LoraShape, generator: torch.Generator) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", frozen.weight.detach(), persistent=False)
        self.bias = None if frozen.bias is None else frozen.bias.detach()
        self.scale = shape.scale
        first = torch.randn(shape.rank, frozen.in_features, generator=generator) * frozen.in_features**-0.5
        self.lora_A = nn.Parameter(first.to(self.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(frozen.out_features, shape.rank, device=self.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.weight.dtype
        first, second = self.lora_A.to(dtype), (self.lora_B * self.scale).to(dtype)
        y: Tensor = cast(Any, _LoraProduct).apply(x, self.weight, self.bias, first, second)
        return y


class _LoraProduct(torch.autograd.Function):
    """x W' + b + (x A') B' for a frozen W: sums are added to in place, which autograd by itself would write out one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
        inner = x @ first.T
        y = F.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, first, second, inner)
        return y.addmm_(inner, second.T)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, first, second, inner = ctx.saved_tensors
        (gradient,) = gradients
        within = gradient @ second
        to_x = (gradient @ weight).addmm_(within, first) if ctx.needs_input_grad[0] else None
        return to_x, None, None, within.T @ x, gradient.T @ inner


class FrozenNorm(nn.Module):
    """RMSNorm with a weight that is not learned."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", norm.weight.detach(), persistent=False)
        self.eps = float(norm.eps or 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = cast(Any, _Norm).apply(x, self.weight, self.eps)
        return y


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight [n, d], with the gradient in closed form: half the passes over memory of autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        y: Tensor = (wide * scale).mul_(weight).to(x.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        wide, inward = x.float(), gradients[0].float() * weight
        along = (inward * wide).mean(-1, keepdim=True)
        return (inward - wide * (along * scale.square())).mul_(scale).to(x.dtype), None, None


def attach(model: Decoder, shape: LoraShape, seed: int) -> dict[str, nn.Parameter]:
    """Put an adapter on every linear layer of the blocks and freeze the rest: the matrices to learn, by name.

    B begins at 0: the network computes what it did before.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    linears = {name: module for name, module in model.model.layers.named_modules() if isinstance(module, nn.Linear)}
    matrices: dict[str, nn.Parameter] = {}
    for name, linear in linears.items():
        parent, _, own = name.rpartition(".")
        layer = LoraLinear(linear, shape, generator)
        setattr(model.model.layers.get_submodule(parent), own, layer)
        matrices |= {f"model.layers.{name}.lora_{part}.weight": getattr(layer, f"lora_{part}") for part in "AB"}
    for parent in list(model.modules()):
        for own, child in list(parent.named_children()):
            if isinstance(child, nn.RMSNorm):
                setattr(parent, own, FrozenNorm(child))
    return matrices


def merged(name: str, weight: Tensor, adapter: Mapping[str, Tensor], shape: LoraShape) -> Tensor:
    """The tensor `name` of a checkpoint with what the adapter adds to it, computed in float32; without an adapter, itself."""
    layer = name.removesuffix(".weight")
    if f"{layer}.lora_A.weight" not in adapter:
        return weight
    first, second = (adapter[f"{layer}.lora_{part}.weight"].float() for part in "AB")
    return weight.float() + shape.scale * (second @ first)
