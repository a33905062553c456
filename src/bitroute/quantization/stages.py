"""Front to back through a model: what reaches each layer, measured on calibration inputs. Knows modules and order, no rounding.

Whoever goes through the stages may replace a stage's layers before asking for the next one: what is measured there has then
passed the new layers. A block's inputs are kept, so that a whole walk costs about three passes over the model, not one a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Generic

import torch
from torch import Tensor, nn

from bitroute.errors import DataError
from bitroute.quantization.gptq import Hessian
from bitroute.quantization.model import M, replace


@dataclass(frozen=True)  # slots and a subscripted generic do not go together before Python 3.12
class CalibrationBatches(Generic[M]):
    """Inputs to calibrate on, and how to run a model on one: `run(model, batch)` gives logits [..., vocabulary].

    Every position of a batch counts, so batches hold no padding. `source` says in a few words where they come from. `dtype` is
    the arithmetic of the passes; what is measured on them, and the rounding, are in float32 and float64 whatever it is.
    """

    batches: Sequence[Tensor]
    run: Callable[[M, Tensor], Tensor]
    source: str
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers that are fed the same tensor, and the second moments of that input."""

    names: tuple[str, ...]
    hessian: Hessian


def walk(model: M, linears: Mapping[str, nn.Linear], calibration: CalibrationBatches[M]) -> Iterator[Stage]:
    """The stages of `linears`, layers of `model`'s numbered blocks, in the order in which a forward pass comes to them.

    A pass runs each block once, one after the other. Raises DataError when the first batch misses a layer.
    """
    before: dict[str, list[Any]] = {}  # what each block that is done gave back, by batch
    for block, stages in groupby(_order(model, linears, calibration), key=lambda names: block_of(names[0])):
        calls = [_arrival(model, block, calibration, batch, before) for batch in range(len(calibration.batches))]
        for names in stages:
            hessian = Hessian(linears[names[0]].in_features, linears[names[0]].weight.device)
            for call in calls:
                with _ending_at(linears[names[0]], partial(_add, hessian)):
                    call.run(model.get_submodule(block))
            yield Stage(tuple(names), hessian)
        before = {name: [_blank(output) for output in outputs] for name, outputs in before.items()}
        before[block] = [call.run(model.get_submodule(block)) for call in calls]


def block_of(name: str) -> str:
    """The numbered block of a layer: `model.layers.3` of `model.layers.3.mlp.up_proj`."""
    parts = name.split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part.isdigit()) + 1])


class _Arrived(Exception):  # noqa: N818  (not an error: it ends a forward pass whose rest nobody needs)
    pass


@dataclass(frozen=True, slots=True)
class _Call:
    """How a module was called."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, module: nn.Module) -> Any:
        """What `module` gives back."""
        return module(*self.args, **self.kwargs)


class _Done(nn.Module):
    """Stands where a block stood whose output is known."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self._output = output

    def forward(self, *_: Any, **__: Any) -> Any:
        return self._output


@contextmanager
def _ending_at(module: nn.Module, take: Callable[[_Call], None]) -> Iterator[None]:
    """Lets a pass end where it comes to `module`, whose call `take` gets."""

    def arrive(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        take(_Call(args, kwargs))
        raise _Arrived

    hook = module.register_forward_pre_hook(arrive, with_kwargs=True)
    try:
        with suppress(_Arrived):
            yield
    finally:
        hook.remove()


def _add(hessian: Hessian, call: _Call) -> None:
    hessian.add(call.args[0])


def _order(model: M, linears: Mapping[str, nn.Linear], calibration: CalibrationBatches[M]) -> list[list[str]]:
    """Layers that are fed the same tensor, in the order in which a forward pass comes to them."""
    stages: dict[int, list[str]] = {}
    alive: list[Tensor] = []  # a freed tensor's id could come back

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not any(name in stage for stage in stages.values()):
            alive.append(args[0])
            stages.setdefault(id(args[0]), []).append(name)

    hooks = [linear.register_forward_pre_hook(partial(note, name)) for name, linear in linears.items()]
    try:
        calibration.run(model, calibration.batches[0])
    finally:
        for hook in hooks:
            hook.remove()
    missed = linears.keys() - {name for stage in stages.values() for name in stage}
    if missed:
        raise DataError(f"{min(missed)}: calibration ({calibration.source}) never runs this layer")
    return list(stages.values())


def _arrival(model: M, block: str, calibration: CalibrationBatches[M], batch: int, before: Mapping[str, list[Any]]) -> _Call:
    """How `block` is called on a batch; the blocks `before` it are not run again."""
    blocks = {name: model.get_submodule(name) for name in before}
    replace(model, {name: _Done(outputs[batch]) for name, outputs in before.items()})
    calls: list[_Call] = []
    try:
        with _ending_at(model.get_submodule(block), calls.append):
            calibration.run(model, calibration.batches[batch])
    finally:
        replace(model, blocks)
    return calls[0]


def _blank(output: Any) -> Any:
    """A tensor of the same shape that takes no memory: nobody reads what a block gave back to the next but one."""
    return output.new_zeros(()).expand(output.shape) if isinstance(output, Tensor) else output
