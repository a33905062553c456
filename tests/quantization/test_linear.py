import pytest
import torch
from torch import nn

from bitroute.errors import CapabilityError
from bitroute.quantization.grid import decode, encode, fit_grid
from bitroute.quantization.linear import QuantizedLinear
from bitroute.quantization.scheme import BITS, SLICES


def weights(outputs: int = 48, inputs: int = 128) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * 0.05


def layer(bits: int, widths: tuple[int, ...] | None = None, bias: bool = False) -> QuantizedLinear:
    grid = fit_grid(weights(), bits, 64)
    parameter = nn.Parameter(torch.arange(48) * 0.01) if bias else None
    return QuantizedLinear.from_codes(encode(weights(), grid), grid, widths or (bits,), parameter)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_is_that_of_the_dense_decoded_layer(bits: int, dtype: torch.dtype) -> None:
    grid = fit_grid(weights(), bits, 64)
    dense = nn.Linear(128, 48, dtype=dtype)
    packed = layer(bits, bias=True).to(dtype)
    assert packed.bias is not None
    with torch.no_grad():
        dense.weight.copy_(decode(encode(weights(), grid), grid))
        dense.bias.copy_(packed.bias)
    x = torch.randn(2, 5, 128, generator=torch.Generator().manual_seed(2)).to(dtype)
    y = packed(x)
    assert y.dtype == dtype
    assert torch.equal(y, dense(x))
    packed.materialize(dtype)
    assert torch.equal(packed(x), y)


@pytest.mark.parametrize("bits", BITS)
def test_the_buffers_take_the_bits_they_name_and_four_bytes_a_group(bits: int) -> None:
    sizes = {name: buffer.numel() * buffer.element_size() for name, buffer in layer(bits).named_buffers()}
    assert sizes == {"plane0": 48 * 128 * bits // 8, "scale": 48 * 2 * 2, "offset": 48 * 2 * 2}


@pytest.mark.parametrize(("bits", "low"), [(bits, low) for bits in BITS for low in SLICES[bits]])
def test_a_slice_is_the_top_bits_of_the_same_codes_on_the_same_storage(bits: int, low: int) -> None:
    nested, plain = layer(bits, (low, bits - low)), layer(bits)
    assert torch.equal(nested.codes, plain.codes)
    assert torch.equal(nested.dequantize(), plain.dequantize())
    sliced = nested.slice(low)
    assert sliced.bits == low
    assert torch.equal(sliced.codes, plain.codes >> (bits - low))
    assert sliced.plane0.data_ptr() == nested.plane0.data_ptr()
    assert sliced.scale.data_ptr() == nested.scale.data_ptr()
    assert [name for name, _ in sliced.named_buffers()] == ["plane0", "scale", "offset"]
    grid = fit_grid(weights(), bits, 64)
    assert torch.equal(sliced.dequantize(), decode(plain.codes >> (bits - low), grid, bits - low))
    worst = (sliced.dequantize() - plain.dequantize()).abs().view(48, 2, 64).amax(-1)
    assert bool((worst <= grid.scale.float() * (2 ** (bits - low) - 1) / 2 * 1.0001).all())


def test_a_slice_where_no_plane_ends_is_refused() -> None:
    with pytest.raises(CapabilityError, match=r"planes of 4\+4 bits have no slice of 2 bits"):
        layer(8, (4, 4)).slice(2)


def test_moving_to_another_dtype_leaves_codes_and_grid_alone() -> None:
    packed = layer(4, bias=True)
    before = packed.dequantize()
    packed.materialize(torch.float32)
    packed.to(torch.bfloat16)
    assert packed.bias is not None and packed.dense is not None
    assert packed.bias.dtype == packed.dense.dtype == torch.bfloat16
    assert packed.scale.dtype == packed.offset.dtype == torch.float16
    assert torch.equal(packed.dequantize(), before)


def test_the_state_dict_leaves_the_dense_copy_out() -> None:
    packed = layer(4)
    packed.materialize(torch.float32)
    assert sorted(packed.state_dict()) == ["offset", "plane0", "scale"]
    assert repr(packed) == "QuantizedLinear(128 -> 48, planes of (4,) bits on a grid of 4 bits)"
