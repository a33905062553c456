"""A GPU without one: torch's `meta` device, watched. Shapes and devices are real there, values are not.

While `Accelerator` is entered, an operation on tensors of two devices fails, as it does on a GPU (and not on `meta` alone: an
embedding looks up processor indices there); what is copied to the processor is ones. So a whole call runs, results included,
and a tensor that was made without a device is found by the first operation that meets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE: Final = torch.device("meta")


class Accelerator(TorchDispatchMode):
    """Where `DEVICE` behaves as a GPU does. `operations` counts those that ran there."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor)]
        there = [t for t in tensors if t.device == DEVICE]
        if name == "_local_scalar_dense" and there:
            return True if there[0].dtype == torch.bool else 1
        if name in ("to", "_to_copy") and there:  # `to` arrives as it is in inference mode
            device = next((d for d in (*args, *options.values()) if isinstance(d, torch.device)), DEVICE)
            if device != DEVICE:
                return torch.ones(there[0].shape, dtype=options.get("dtype") or there[0].dtype, device=device)
        if name == "copy_" and len({t.device for t in tensors}) == 2:
            return self._copy(*args[:2])
        self.operations += bool(there)
        strangers = [t for t in tensors if t.device != DEVICE and t.dim()]  # a number may come from the processor
        assert not (there and strangers), f"{name}: a tensor of shape {tuple(strangers[0].shape)} is on {strangers[0].device}"
        return func(*args, **options)

    @staticmethod
    def _copy(target: Tensor, source: Tensor) -> Tensor:
        return target if target.device == DEVICE else target.fill_(1)
