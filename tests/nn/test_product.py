"""Products by torch and by oneDNN against the same in double precision, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bitroute.nn import product
from bitroute.nn.product import PackedProduct, PlainProduct, Product, gain, make_product, packs

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"), reason="this build of torch is without oneDNN"
)
KINDS = [PlainProduct, pytest.param(PackedProduct, marks=needs_onednn)]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was measured is forgotten before and after a test."""
    packs.cache_clear()
    with torch.inference_mode():
        yield
    packs.cache_clear()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_what_follows_a_product(
    kind: Callable[..., Product], dtype: torch.dtype, tolerance: float, biased: bool, rows: int
) -> None:
    x, weight, other = random(rows, 32), random(48, 32, seed=1) / 6, random(rows, 48, seed=2)
    bias = random(48, seed=3) if biased else None
    made = kind(weight.to(dtype), None if bias is None else bias.to(dtype))
    exact = F.linear(x, weight, bias)
    given, term = x.to(dtype), other.to(dtype)
    for found, expected in (
        (made(given), exact),
        (made.silu(given), F.silu(exact)),
        (made.plus(given, term), exact + other),
        (made.times(given, term.clone()), exact * other),
    ):
        assert found.dtype == dtype
        assert torch.allclose(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(term, other.to(dtype))  # what is added is not overwritten


@needs_onednn
@pytest.mark.parametrize(("times", "kind"), [(1.1, PlainProduct), (1.4, PackedProduct)])
def test_in_float32_a_weight_is_laid_out_where_that_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, times: float, kind: type
) -> None:
    monkeypatch.setattr(product, "gain", lambda: times)
    assert isinstance(make_product(torch.ones(8, 8)), kind)


def test_other_devices_and_dtypes_take_torchs_own() -> None:
    assert isinstance(make_product(torch.ones(8, 8, device="meta")), PlainProduct)
    assert isinstance(make_product(torch.ones(8, 8, dtype=torch.float64)), PlainProduct)


@needs_onednn
def test_the_gain_is_a_ratio_of_times() -> None:
    assert gain(repeats=3) > 0
