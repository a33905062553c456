import numpy as np
import pytest
import torch
from torch import Tensor

from bitroute.quantization.grid import Grid, decode, encode, fit_clipped_grid, fit_grid
from bitroute.quantization.scheme import BITS, GROUPS


def looped(weight: Tensor, bits: int, group: int) -> tuple[list[list[int]], list[list[float]]]:
    """Codes and decoded weights, one group and one weight at a time."""
    codes, values = [], []
    for row in weight.double().tolist():
        row_codes: list[int] = []
        row_values: list[float] = []
        for start in range(0, len(row), group):
            members = row[start : start + group]
            offset = float(np.float16(min(members)))
            scale = float(np.float16(max(0.0, max(members) - offset) / (2**bits - 1)))
            for value in members:
                code = 0 if scale == 0 else min(max(round((value - offset) / scale), 0), 2**bits - 1)
                row_codes.append(code)
                row_values.append(offset + scale * code)
        codes.append(row_codes)
        values.append(row_values)
    return codes, values


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_rounding_to_nearest_agrees_with_a_plain_loop(bits: int, group: int) -> None:
    weight = torch.randn(5, 384, generator=torch.Generator().manual_seed(bits * group)) * 0.05
    weight[0, :group] += 1.0  # a group far from zero
    weight[1, :group] = 0.25  # a constant one
    weight[2, :group] = 0.0
    grid = fit_grid(weight, bits, group)
    codes, values = looped(weight, bits, group)
    assert encode(weight, grid).tolist() == codes
    torch.testing.assert_close(decode(encode(weight, grid), grid).double(), torch.tensor(values).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", GROUPS)
def test_the_error_on_uniform_weights_is_what_theory_says(bits: int, group: int) -> None:
    """A group of g uniform weights on [-a, a]: its range is R = 2a sqrt(E[r^2]) with E[r^2] = g(g-1) / ((g+1)(g+2)) and its
    extremes are grid points, the other g - 2 have the error step^2 / 12 of a uniform quantizer."""
    a = 0.1
    weight = (torch.rand(512, 1152, generator=torch.Generator().manual_seed(1)) * 2 - 1) * a
    grid = fit_grid(weight, bits, group)
    measured = float((decode(encode(weight, grid), grid) - weight).double().square().mean())
    mean_square_range = (2 * a) ** 2 * group * (group - 1) / ((group + 1) * (group + 2))
    expected = mean_square_range / (2**bits - 1) ** 2 / 12 * (group - 2) / group
    assert measured == pytest.approx(expected, rel=0.01)


def test_one_number_of_that_theory_by_hand() -> None:
    weight = (torch.rand(512, 1024, generator=torch.Generator().manual_seed(2)) * 2 - 1) * 0.1
    grid = fit_grid(weight, 4, 64)
    rms = float((decode(encode(weight, grid), grid) - weight).double().square().mean().sqrt())
    assert rms == pytest.approx(0.2 / 15 / 12**0.5, rel=0.05)  # 0.00385: step 0.0133, divided by the square root of 12


@pytest.mark.parametrize("bits", BITS)
def test_no_weight_moves_by_more_than_half_a_step(bits: int) -> None:
    weight = torch.randn(64, 512, generator=torch.Generator().manual_seed(3)) * 0.02
    grid = fit_grid(weight, bits, 64)
    error = (decode(encode(weight, grid), grid) - weight).abs().view(64, 8, 64).amax(-1)
    assert bool((error <= grid.scale.float() * 0.5001).all())


def test_codes_reach_both_ends_and_the_extremes_are_kept() -> None:
    weight = torch.linspace(-0.5, 1.0, 64).repeat(2, 1)
    grid = fit_grid(weight, 2, 64)
    codes = encode(weight, grid)
    assert sorted(codes.unique().tolist()) == [0, 1, 2, 3]
    assert decode(codes, grid)[0, [0, -1]].tolist() == pytest.approx([-0.5, 1.0])


@pytest.mark.parametrize(("high", "low"), [(8, 4), (4, 2), (4, 3), (3, 2)])
def test_a_slice_is_decoded_at_the_middle_of_its_cells(high: int, low: int) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(4)) * 0.02
    grid = fit_grid(weight, high, 64)
    codes, dropped = encode(weight, grid), high - low
    sliced = decode(codes >> dropped, grid, dropped)
    cell = torch.arange(1 << dropped).double()
    for code in range(1 << low):
        points = grid.offset[0, 0].double() + grid.scale[0, 0].double() * ((code << dropped) + cell)
        chosen = (codes[0, :64] >> dropped) == code
        assert sliced[0, :64][chosen].tolist() == pytest.approx([float(points.mean())] * int(chosen.sum()))
    worst = (sliced - weight).abs().view(32, 4, 64).amax(-1)
    assert bool((worst <= grid.scale.float() * 2**dropped * 0.5001).all())  # half a cell


@pytest.mark.parametrize(("high", "low", "ratio"), [(8, 4, 0.96), (4, 3, 0.85), (4, 2, 0.62), (3, 2, 0.67)])
def test_a_slice_errs_less_than_a_grid_of_its_own_from_min_to_max(high: int, low: int, ratio: float) -> None:
    """2**low cells of range / 2**low against 2**low - 1 steps: ((2**low - 1) / 2**low)^2 and what the two extremes cost."""
    weight = torch.rand(256, 1024, generator=torch.Generator().manual_seed(5)) - 0.5
    fine, own = fit_grid(weight, high, 64), fit_grid(weight, low, 64)
    sliced = decode(encode(weight, fine) >> (high - low), fine, high - low)
    plain = decode(encode(weight, own), own)
    measured = float((sliced - weight).square().mean() / (plain - weight).square().mean())
    assert measured == pytest.approx(ratio, abs=0.01)


def test_what_cannot_be_put_on_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="100 inputs are no multiple of the group size 64"):
        fit_grid(torch.zeros(2, 100), 4, 64)
    for bad in (float("nan"), float("inf"), 1e6):
        weight = torch.zeros(2, 64)
        weight[1, 3] = bad
        with pytest.raises(ValueError, match="not finite in float16"):
            fit_grid(weight, 4, 64)


@pytest.mark.parametrize("bits", BITS)
def test_a_clipped_grid_loses_no_more_than_the_whole_range_and_less_where_few_weights_are_far_out(bits: int) -> None:
    random = torch.Generator().manual_seed(4)
    weight, importance = torch.randn(32, 384, generator=random) * 0.05, torch.rand(384, generator=random)
    weight[:, ::64] *= 4  # outliers

    def lost(grid: Grid) -> torch.Tensor:
        error = (decode(encode(weight, grid), grid) - weight).double().square() * importance
        return error.view(32, 6, 64).sum(-1)

    whole, clipped = lost(fit_grid(weight, bits, 64)), lost(fit_clipped_grid(weight, bits, 64, importance))
    assert bool((clipped <= whole * 1.0001).all())
    assert float(clipped.sum() / whole.sum()) < {2: 0.5, 3: 0.75, 4: 0.95, 8: 1.0001}[bits]


def test_what_is_never_active_does_not_count_for_the_range() -> None:
    weight, importance = torch.linspace(-1.0, 1.0, 32).repeat(2, 1), torch.ones(32)
    importance[[0, 1, 2, 3, 28, 29, 30, 31]] = 0.0
    grid = fit_clipped_grid(weight, 3, 32, importance)
    ends = torch.stack((grid.offset.float(), grid.offset.float() + grid.top * grid.scale.float()))
    assert bool((ends.abs() < 0.85).all())


def test_a_clipped_grid_of_equal_weights_is_their_value() -> None:
    grid = fit_clipped_grid(torch.full((1, 32), 0.25), 2, 32, torch.ones(32))
    assert (grid.scale.tolist(), grid.offset.tolist()) == ([[0.0]], [[0.25]])
    with pytest.raises(ValueError, match="not finite in float16"):
        fit_clipped_grid(torch.full((1, 32), 1e6), 2, 32, torch.ones(32))
