import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitroute.quantization import gptq as gptq_module
from bitroute.quantization.gptq import DAMPING, Elimination, Hessian, gptq, output_error
from bitroute.quantization.grid import Grid, decode, encode, fit_grid


def correlated(seed: int, tokens: int, inputs: int) -> Tensor:
    """Activations whose spectrum falls by two decades, as a trained network's does. The mixing is the same for every seed."""
    spectrum = torch.logspace(0, -2, inputs)[:, None]
    mixing = torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(99)) * spectrum
    return torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(seed)) @ mixing


def moments(x: Tensor) -> Tensor:
    hessian = Hessian(x.shape[-1], x.device)
    hessian.add(x)
    return hessian.matrix


def weights(seed: int, outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.05


def optimal_brain_quantizer(weight: Tensor, grid: Grid, hessian: Tensor) -> Tensor:
    """The formula that GPTQ computes, with an explicit inverse: round column i, move the others by
    -(w_i - q_i) / [H^-1]_ii * [H^-1]_i, then take i out of the inverse."""
    h = hessian + torch.eye(len(hessian), dtype=torch.float64) * DAMPING * hessian.diagonal().mean()
    order = sorted(range(len(h)), key=lambda i: -float(hessian[i, i]))
    group = weight.shape[1] // grid.scale.shape[1]
    codes = torch.zeros(weight.shape, dtype=torch.uint8)
    for row in range(len(weight)):
        w, inverse = weight[row].double().clone(), torch.linalg.inv(h)
        for i in order:
            offset, scale = float(grid.offset[row, i // group]), float(grid.scale[row, i // group])
            code = min(max(round((float(w[i]) - offset) / scale), 0), grid.top)
            w = w - (float(w[i]) - (offset + scale * code)) / inverse[i, i] * inverse[i]
            inverse = inverse - torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
            codes[row, i] = code
    return codes


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_are_those_of_the_column_by_column_formula(bits: int) -> None:
    weight, hessian = weights(1, 6, 64), moments(correlated(2, 400, 64))
    grid = fit_grid(weight, bits, 32)
    assert torch.equal(gptq(weight, grid, Elimination.of(hessian)), optimal_brain_quantizer(weight, grid, hessian))


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = weights(3, 16, 128), moments(correlated(4, 600, 128))
    grid = fit_grid(weight, 3, 64)
    whole = gptq(weight, grid, Elimination.of(hessian))
    for block in (1, 7, 64):
        monkeypatch.setattr(gptq_module, "BLOCK", block)
        assert torch.equal(gptq(weight, grid, Elimination.of(hessian)), whole)


@pytest.mark.parametrize(
    ("bits", "rtn", "ratio"),
    [(8, 2.7e-5, 0.17), (4, 7.8e-3, 0.17), (3, 3.6e-2, 0.17), (2, 2.0e-1, 0.18)],
)
def test_outputs_err_six_times_less_than_after_rounding_to_nearest(bits: int, rtn: float, ratio: float) -> None:
    """Share of the output energy that is lost, ||XW - XQ||^2 / ||XW||^2, on tokens that calibration did not see."""
    weight, held_out = weights(5, 128, 256), moments(correlated(7, 4096, 256))
    grid = fit_grid(weight, bits, 64)
    nearest = output_error(weight, decode(encode(weight, grid), grid), held_out)
    calibrated = output_error(
        weight, decode(gptq(weight, grid, Elimination.of(moments(correlated(6, 4096, 256)))), grid), held_out
    )
    assert nearest == pytest.approx(rtn, rel=0.1)
    assert calibrated / nearest == pytest.approx(ratio, abs=0.02)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), bits=st.sampled_from([2, 3, 4]), inputs=st.sampled_from([32, 64, 96]), rank=st.integers(4, 200)
)
def test_on_the_inputs_it_was_calibrated_on_it_errs_no_more_than_rounding_to_nearest(
    seed: int, bits: int, inputs: int, rank: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    hessian = moments(torch.randn(rank, inputs, generator=random) @ torch.randn(inputs, inputs, generator=random))
    weight = weights(seed, 32, inputs)
    grid = fit_grid(weight, bits, inputs)
    nearest, calibrated = (
        output_error(weight, decode(codes, grid), hessian)
        for codes in (encode(weight, grid), gptq(weight, grid, Elimination.of(hessian)))
    )
    assert calibrated <= nearest


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_without_correlation_it_is_rounding_to_nearest(bits: int) -> None:
    weight = weights(8, 16, 128)
    grid = fit_grid(weight, bits, 64)
    nearest = encode(weight, grid)
    diagonal = torch.rand(128, generator=torch.Generator().manual_seed(9), dtype=torch.float64) + 0.1
    assert torch.equal(gptq(weight, grid, Elimination.of(torch.eye(128, dtype=torch.float64))), nearest)
    assert torch.equal(gptq(weight, grid, Elimination.of(torch.diag(diagonal))), nearest)


def test_inputs_that_are_never_active_are_rounded_to_nearest() -> None:
    weight, x = weights(10, 8, 64), correlated(11, 300, 64)
    x[:, [3, 40]] = 0.0
    grid = fit_grid(weight, 2, 32)
    codes, nearest = gptq(weight, grid, Elimination.of(moments(x))), encode(weight, grid)
    assert torch.equal(codes[:, [3, 40]], nearest[:, [3, 40]])
    assert not torch.equal(codes, nearest)
    assert torch.equal(gptq(weight, grid, Elimination.of(torch.zeros(64, 64, dtype=torch.float64))), nearest)


def test_fewer_tokens_than_inputs_need_the_damping() -> None:
    weight, hessian = weights(12, 8, 64), moments(correlated(13, 20, 64))
    grid = fit_grid(weight, 4, 64)
    damped = gptq(weight, grid, Elimination.of(hessian))
    assert output_error(weight, decode(damped, grid), hessian) < output_error(
        weight, decode(encode(weight, grid), grid), hessian
    )
    with pytest.raises(ValueError, match="not positive definite"):
        Elimination.of(moments(torch.ones(5, 64)), damping=0.0)


def test_the_hessian_is_the_mean_over_every_token_added() -> None:
    x = correlated(14, 48, 16)
    hessian = Hessian(16, x.device)
    hessian.add(x[:24].view(2, 12, 16))
    hessian.add(x[24:])
    assert hessian.tokens == 48
    torch.testing.assert_close(hessian.matrix, (x.double().T @ x.double()) / 48, rtol=1e-5, atol=1e-6)


def test_a_hessian_of_nothing_or_of_nan_is_refused() -> None:
    hessian = Hessian(4, torch.device("cpu"))
    with pytest.raises(ValueError, match="no calibration activations"):
        _ = hessian.matrix
    hessian.add(torch.full((2, 4), float("nan")))
    with pytest.raises(ValueError, match="not finite"):
        _ = hessian.matrix


def test_the_output_error_is_the_share_of_energy_lost() -> None:
    x, weight, other = correlated(15, 100, 32), weights(16, 4, 32), weights(17, 4, 32)
    direct = float((x @ (weight - other).T).square().sum() / (x @ weight.T).square().sum())
    assert output_error(weight, other, moments(x)) == pytest.approx(direct, rel=1e-4)
    assert output_error(weight, weight, moments(x)) == 0.0
