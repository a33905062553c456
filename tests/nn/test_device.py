from collections.abc import Callable, Iterator

import pytest
import torch

from bitroute.errors import CapabilityError, ConfigError
from bitroute.nn.device import BUDGET, REPEATS, elapsed, faster_dtype, pick_device, pick_dtype

CPU = torch.device("cpu")


def machine(monkeypatch: pytest.MonkeyPatch, cuda: int = 0, mps: bool = False) -> None:
    """What torch finds on a machine with `cuda` GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "expected"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_takes_the_fastest_kind_there_is(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, expected: str) -> None:
    machine(monkeypatch, cuda, mps)
    assert pick_device("auto") == torch.device(expected)


def test_a_named_device_is_taken_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2, mps=True)
    assert [str(pick_device(name)) for name in ("cpu", "cuda", "cuda:1", "mps")] == ["cpu", "cuda", "cuda:1", "mps"]


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        (0, "cuda", "device cuda: torch sees no CUDA devices here; use --device auto or cpu"),
        (2, "cuda:2", "device cuda:2: torch sees 2 CUDA devices here; use --device auto or cpu"),
        (2, "cuda:300", "device cuda:300: torch sees 2 CUDA devices here; use --device auto or cpu"),
        (2, "mps", "device mps: torch finds no Metal device here; use --device auto or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, cuda: int, name: str, message: str) -> None:
    machine(monkeypatch, cuda)
    with pytest.raises(CapabilityError) as caught:
        pick_device(name)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["gpu", "xpu", "meta", "cpu:0", "cuda:", "cuda:²", ""])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown device '{name}'"):
        pick_device(name)


def test_a_dtype_is_taken_by_name() -> None:
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    assert {name: pick_dtype(name, CPU, 8, 8) for name in named} == named
    with pytest.raises(ConfigError, match="unknown dtype 'int8'; want auto, float32, bfloat16, float16"):
        pick_dtype("int8", CPU, 8, 8)
    assert pick_dtype("auto", CPU, 8, 8) in (torch.float32, torch.bfloat16)


class Watch:
    """A stopwatch that says what it is told to: seconds of float32 and bfloat16 products, in turns."""

    def __init__(self, *seconds: tuple[float, float]) -> None:
        self.readings: Iterator[float] = iter([value for pair in seconds for value in pair])
        self.runs = 0

    def __call__(self, product: Callable[[], object], device: torch.device) -> float:
        product()
        self.runs += 1
        return next(self.readings)


def test_the_faster_one_is_taken_by_the_median() -> None:
    slow_start = [(9.0, 0.001)]
    with_outlier = [(0.002, 0.001), (0.002, 0.001), (0.002, 0.05), (0.002, 0.001), (0.002, 0.001)]
    assert faster_dtype(CPU, 8, 8, Watch((0.0, 0.0), *with_outlier)) is torch.bfloat16
    assert faster_dtype(CPU, 8, 8, Watch((0.0, 0.0), *[(b, f) for f, b in with_outlier])) is torch.float32
    assert faster_dtype(CPU, 8, 8, Watch(*slow_start, (0.001, 0.002))) is torch.float32


def test_a_tie_is_float32() -> None:
    assert faster_dtype(CPU, 8, 8, Watch(*[(0.001, 0.001)] * (1 + REPEATS))) is torch.float32


def test_it_ends_when_its_time_is_used_up() -> None:
    watch = Watch((0.0, BUDGET / 2), (0.0, BUDGET))
    assert faster_dtype(CPU, 8, 8, watch) is torch.float32
    assert watch.runs == 4
    everything = Watch(*[(0.0001, 0.0002)] * (1 + REPEATS))
    faster_dtype(CPU, 8, 8, everything)
    assert everything.runs == 2 * (1 + REPEATS)


def test_the_product_is_the_models_own_or_a_large_one() -> None:
    shapes: list[tuple[int, ...]] = []

    def seconds(product: Callable[[], object], device: torch.device) -> float:
        result = product()
        assert isinstance(result, torch.Tensor)
        shapes.append(tuple(result.shape))
        return 1.0

    faster_dtype(CPU, 24, 40, seconds)
    faster_dtype(CPU, 24, 1 << 20, seconds)
    assert set(shapes) == {(16, 40), (16, 2048)}


def test_the_real_watch_runs_the_product() -> None:
    ran: list[int] = []
    assert elapsed(lambda: ran.append(1), CPU) >= 0
    assert ran == [1]
