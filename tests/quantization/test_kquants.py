"""Blocks are read back by the gguf package, which knows ggml's layouts by itself."""

import numpy as np
import pytest

from bitroute.quantization.kquants import q2_k, q3_k

gguf = pytest.importorskip("gguf", reason="needs the extra serve-demo")


FORMS = {"q2_k": (q2_k, gguf.GGMLQuantizationType.Q2_K), "q3_k": (q3_k, gguf.GGMLQuantizationType.Q3_K)}


def read(name: str, rows: np.ndarray) -> np.ndarray:
    store, kind = FORMS[name]
    return gguf.quants.dequantize(store(rows.astype(np.float32)), kind)


@pytest.mark.parametrize("name", FORMS)
def test_weights_come_back_near_what_they_were(name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 512))
    error = np.sqrt(np.mean((read(name, rows) - rows) ** 2))
    assert error < {"q2_k": 0.35, "q3_k": 0.2}[name]
    _, kind = FORMS[name]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    assert FORMS[name][0](rows.astype(np.float32)).shape == (6, 512 // weights * size)


@pytest.mark.parametrize("name", FORMS)
def test_a_grid_of_the_type_is_held_as_it_is(name: str) -> None:
    codes = np.random.default_rng(1).integers(0, 4 if name == "q2_k" else 8, size=(3, 16, 16))
    codes[..., :2] = (0, codes.max())  # every part has the whole range, so the scale is the grid's
    rows = (codes / 8 if name == "q2_k" else (codes - 4) / 8).reshape(3, 256)
    assert np.allclose(read(name, rows), rows, atol=2e-3)


@pytest.mark.parametrize("name", FORMS)
def test_nothing_is_divided_by_nothing(name: str) -> None:
    assert not read(name, np.zeros((2, 256))).any()
    rows = np.zeros((1, 512))
    rows[0, 300] = -1.5
    assert read(name, rows)[0, 300] == pytest.approx(-1.5, rel=2e-3)
