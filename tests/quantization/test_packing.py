import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.quantization.packing import WIDTHS, pack, row_bytes, unpack


@pytest.mark.parametrize(
    ("bits", "values", "expected"),
    [
        # value k sits at bit k * bits of a little-endian stream: sum(k << 3 k for k in 0..7) = 0xFAC688
        (3, [0, 1, 2, 3, 4, 5, 6, 7], [0x88, 0xC6, 0xFA]),
        (1, [1, 0, 0, 0, 0, 0, 1, 1], [0b11000001]),
        (2, [0, 1, 2, 3, 3, 0, 0, 0], [0b11100100, 0b00000011]),
        (4, [1, 2, 3, 4, 15, 0, 7, 8], [0x21, 0x43, 0x0F, 0x87]),
        (8, [0, 1, 2, 3, 4, 5, 6, 255], [0, 1, 2, 3, 4, 5, 6, 255]),
    ],
)
def test_the_layout_is_a_little_endian_bit_stream(bits: int, values: list[int], expected: list[int]) -> None:
    packed = pack(torch.tensor(values, dtype=torch.uint8), bits)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == expected
    assert unpack(packed, bits, len(values)).tolist() == values


@settings(derandomize=True, deadline=None, max_examples=60)
@given(bits=st.sampled_from(WIDTHS), rows=st.integers(1, 4), length=st.integers(1, 50), data=st.data())
def test_unpack_undoes_pack_and_no_byte_is_wasted(bits: int, rows: int, length: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=rows * length, max_size=rows * length))
    matrix = torch.tensor(values, dtype=torch.uint8).view(rows, length)
    packed = pack(matrix, bits)
    assert packed.shape == (rows, math.ceil(length * bits / 8)) == (rows, row_bytes(length, bits))
    assert packed.is_contiguous()
    assert torch.equal(unpack(packed, bits, length), matrix)


@pytest.mark.parametrize("bits", WIDTHS)
def test_rows_of_zeros_and_of_the_largest_value_survive(bits: int) -> None:
    for value, byte in ((0, 0), (2**bits - 1, 255)):
        matrix = torch.full((2, 64), value, dtype=torch.uint8)
        assert pack(matrix, bits).unique().tolist() == [byte]
        assert torch.equal(unpack(pack(matrix, bits), bits, 64), matrix)


def test_a_three_dimensional_stack_is_packed_along_its_last_axis() -> None:
    matrix = torch.arange(2 * 3 * 16, dtype=torch.uint8).view(2, 3, 16) % 8
    packed = pack(matrix, 3)
    assert packed.shape == (2, 3, 6)
    assert torch.equal(unpack(packed, 3, 16), matrix)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(ValueError, match="widths are 1, 2, 3, 4, 8"):
        pack(torch.zeros(8, dtype=torch.uint8), 5)
    with pytest.raises(ValueError, match="8 does not fit in 3 bits"):
        pack(torch.full((8,), 8, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="10 values of 3 bits take 4 bytes, not 3"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 10)
