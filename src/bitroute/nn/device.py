"""Where and in which precision a network computes: from names such as `auto` to torch's devices and dtypes. Knows the machine;
no architecture, no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Final

import torch

from bitroute.errors import CapabilityError
from bitroute.nn.device_names import check_device, check_dtype

LARGEST: Final = 2048  # columns of the products that are measured: larger ones behave alike and take too long
ROWS: Final = 16
REPEATS: Final = 5
BUDGET: Final = 0.06  # seconds; the products under way are finished


def pick_device(name: str) -> torch.device:
    """The device of a name: `auto` (cuda, else mps, else cpu), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises CapabilityError when this machine (or this build of torch) does not have it, ConfigError for another name.
    """
    check_device(name)
    if name == "auto":
        found = [
            kind for kind, there in (("cuda", torch.cuda.is_available), ("mps", torch.backends.mps.is_available)) if there()
        ]
        return torch.device(found[0] if found else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise CapabilityError(f"device {name}: torch sees {count or 'no'} CUDA devices here; use --device auto or cpu")
    elif kind == "mps" and not torch.backends.mps.is_available():
        raise CapabilityError("device mps: torch finds no Metal device here; use --device auto or cpu")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def pick_dtype(name: str, device: torch.device, inputs: int, outputs: int) -> torch.dtype:
    """The dtype of a name; `auto` is the faster one of float32 and bfloat16 for products of `inputs` to `outputs` columns on
    `device`, by measurement. Raises ConfigError for another name.
    """
    check_dtype(name)
    if name == "auto":
        return faster_dtype(device, inputs, outputs)
    found: torch.dtype = getattr(torch, name)  # torch calls them as we do
    return found


def faster_dtype(
    device: torch.device,
    inputs: int,
    outputs: int,
    seconds: Callable[[Callable[[], object], torch.device], float] | None = None,
) -> torch.dtype:
    """float32 or bfloat16, whichever multiplies [ROWS, inputs] by [inputs, outputs] in less time (the median of a few runs);
    float32 where both take the same.

    Processors with AVX-512 or AMX run bfloat16 faster; those with AVX2 alone run it ten times slower, which no name tells.
    `seconds` runs a product on a device and says how long that took.
    """
    seconds = seconds or elapsed
    shape = min(inputs, LARGEST), min(outputs, LARGEST)
    operands = {
        dtype: (torch.ones(ROWS, shape[0], device=device, dtype=dtype), torch.ones(*shape, device=device, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in operands}
    spent = 0.0
    for repeat in range(1 + REPEATS):
        for dtype, (left, right) in operands.items():
            took = seconds(partial(torch.mm, left, right), device)
            spent += took
            if repeat:  # the first run sets up the library's buffers
                times[dtype].append(took)
        if repeat and spent > BUDGET:
            break
    return torch.bfloat16 if median(times[torch.bfloat16]) < median(times[torch.float32]) else torch.float32


def elapsed(product: Callable[[], object], device: torch.device) -> float:
    """Seconds that `product` takes, until its result is there."""
    synchronize(device)
    start = time.perf_counter()
    product()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of an accelerator; a processor is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
