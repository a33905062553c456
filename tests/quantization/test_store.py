import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bitroute.errors import BitrouteError, CapabilityError, ConfigError, DataError
from bitroute.nn.fingerprint import fingerprint
from bitroute.quantization.model import memory_bytes, quantized_linears, slice_model
from bitroute.quantization.quantize import quantize_model
from bitroute.quantization.scheme import BITS, SLICES, Scheme
from bitroute.quantization.store import load_variant, read_info, save_variant


def make(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64, bias=False))


WEIGHTS = 2 * 64 * 128
X = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))


def saved(path: Path, scheme: Scheme, base: nn.Module) -> nn.Module:
    variant = quantize_model(base, scheme)
    save_variant(path, variant, scheme, model=fingerprint(base.state_dict()), calibration="none")
    return variant


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def refused(call: object, kind: type[BitrouteError]) -> str:
    assert callable(call)
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "scheme", [Scheme(b, g, "rtn", n) for b in BITS for g in (32, 64, None) for n in (None, *SLICES[b])], ids=str
)
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, scheme: Scheme) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    variant = saved(path, scheme, base)
    loaded = load_variant(path, base)
    assert loaded.state_dict().keys() == variant.state_dict().keys()
    assert all(torch.equal(tensor, variant.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(loaded(X), variant(X))
    assert memory_bytes(loaded) == memory_bytes(variant)
    assert memory_bytes(base, loaded) == memory_bytes(base, variant)


@pytest.mark.parametrize("scheme", [Scheme(b, 32, "rtn", n) for b in BITS for n in (None, *SLICES[b])], ids=str)
def test_the_file_is_the_formula_and_a_small_header(tmp_path: Path, scheme: Scheme) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    saved(path, scheme, base)
    info = read_info(path)
    assert (info.scheme, info.model, info.calibration) == (scheme, fingerprint(base.state_dict()), "none")
    assert info.size == path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert info.bits_per_weight == scheme.bits_per_weight(128)
    assert info.size - header == WEIGHTS * scheme.bits_per_weight(128) / 8 == WEIGHTS * scheme.bits // 8 + WEIGHTS // 32 * 4
    assert header < 1200
    assert names(tmp_path) == ["variant.safetensors"]


@pytest.mark.parametrize("bits", BITS)
def test_rows_that_end_within_a_byte_come_back(tmp_path: Path, bits: int) -> None:
    torch.manual_seed(0)
    base, path = nn.Sequential(nn.Linear(101, 7), nn.ReLU(), nn.Linear(7, 5)), tmp_path / "variant.safetensors"
    variant = saved(path, Scheme(bits, None, "rtn"), base)
    x = torch.randn(3, 101, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load_variant(path, base)(x), variant(x))


def mixed(base: nn.Sequential) -> nn.Sequential:
    """The first layer at two bits, the second one at three."""
    variant, wide = quantize_model(base, Scheme(2, 64, "rtn")), quantize_model(base, Scheme(3, 64, "rtn"))
    variant[2] = wide[2]
    return variant


def test_a_file_of_two_widths_says_which_layer_has_which(tmp_path: Path) -> None:
    base, path, scheme = make(), tmp_path / "variant.safetensors", Scheme(2.5, 64, "rtn")
    variant = mixed(base)
    info = save_variant(path, variant, scheme, model=fingerprint(base.state_dict()))
    assert info == read_info(path)
    assert (info.widths, info.bits_per_weight) == ({"0": 2, "2": 3}, 3.0)
    assert torch.equal(load_variant(path, base)(X), variant(X))
    assert "no slice of 2 bits" in refused(lambda: load_variant(path, base, bits=2), CapabilityError)
    refused(lambda: save_variant(path, variant, Scheme(3, 64, "rtn"), model="x"), ConfigError)
    refused(lambda: save_variant(path, variant, Scheme(3.5, 64, "rtn"), model="x"), ConfigError)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        about = json.loads(file.metadata()["bitroute"])
    save_file(tensors, path, metadata={"bitroute": json.dumps(about | {"widths": {"0": 2}})})
    assert refused(lambda: load_variant(path, base), DataError) == f"{path}: does not say how wide 2 is"


@pytest.mark.parametrize(("high", "low"), [(8, 4), (4, 3), (4, 2), (3, 2)])
def test_a_slice_is_loaded_from_its_planes_alone(tmp_path: Path, high: int, low: int) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    scheme = Scheme(high, 64, "rtn", low)
    variant = saved(path, scheme, base)
    sliced = load_variant(path, base, bits=low)
    assert torch.equal(sliced(X), slice_model(variant, low)(X))
    assert memory_bytes(sliced) == memory_bytes(variant) - WEIGHTS * (high - low) // 8
    assert torch.equal(load_variant(path, base, bits=high)(X), variant(X))
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if "plane1" not in key}  # noqa: SIM118  (not a dict)
        about = file.metadata()
    save_file(tensors, path, metadata=about)
    assert torch.equal(load_variant(path, base, bits=low)(X), sliced(X))
    assert "lacks 0.plane1" in refused(lambda: load_variant(path, base), DataError)


def test_a_slice_that_is_not_there_is_refused(tmp_path: Path) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    saved(path, Scheme(8, 64, "rtn"), base)
    message = refused(lambda: load_variant(path, base, bits=4), CapabilityError)
    assert message == f"{path}: planes of 8 bits have no slice of 4 bits"


def test_a_variant_of_another_model_is_refused(tmp_path: Path) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    saved(path, Scheme(4, 64, "rtn"), base)
    message = refused(lambda: load_variant(path, make(seed=1)), DataError)
    assert f"{path}: made from another model than this Sequential" in message
    nudged = make()
    with torch.no_grad():
        nudged[0].bias[0] += 1e-6  # not even a quantized weight
    refused(lambda: load_variant(path, nudged), DataError)
    refused(lambda: load_variant(path, quantize_model(base, Scheme(4, 64, "rtn"))), DataError)


def test_missing_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    assert refused(lambda: load_variant(path, base), DataError) == f"{path}: no such file"
    assert refused(lambda: read_info(tmp_path), DataError) == f"{tmp_path}: no such file"
    saved(path, Scheme(4, 64, "rtn"), base)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert f"{path}: not a whole variant file" in refused(lambda: load_variant(path, base), DataError)
    path.write_bytes(b"GGUF" + whole[4:])
    assert "not a whole variant file" in refused(lambda: read_info(path), DataError)
    save_file({"a": torch.zeros(1)}, path)
    assert "not a whole variant file ('bitroute')" in refused(lambda: read_info(path), DataError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": "w5g64-rtn"}, "5 bits are not offered"),
        ({"scheme": "q4_k_m"}, "unknown scheme 'q4_k_m'"),
        ({"format": "bitroute-variant-2"}, "format 'bitroute-variant-2' is not 'bitroute-variant-1'"),
        ({"scheme": "w4g32-rtn"}, "0.scale has shape (128, 1), this model needs (128, 2)"),
        ({"scheme": "w8g64-rtn"}, "0.plane0 has shape (128, 32), this model needs (128, 64)"),
        ({"scheme": 4}, "not a whole variant file"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    saved(path, Scheme(4, 64, "rtn"), base)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        about = json.loads(file.metadata()["bitroute"]) | change
    save_file(tensors, path, metadata={"bitroute": json.dumps(about)})
    assert message in refused(lambda: load_variant(path, base), DataError)


def test_an_unquantized_or_differently_stored_model_is_not_saved(tmp_path: Path) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    variant = quantize_model(base, Scheme(8, 64, "rtn", nested=4))
    for model, scheme in (
        (base, Scheme(8, 64, "rtn")),
        (variant, Scheme(8, 64, "rtn")),
        (slice_model(variant, 4), Scheme(4, 64, "rtn")),
    ):
        refused(lambda model=model, scheme=scheme: save_variant(path, model, scheme, model="x"), ConfigError)
    refused(lambda: save_variant(path, variant, Scheme(8, 32, "rtn", nested=4), model="x"), ConfigError)
    assert names(tmp_path) == []


def test_a_save_that_fails_or_is_interrupted_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, path = make(), tmp_path / "variant.safetensors"
    variant = saved(path, Scheme(4, 64, "rtn"), base)
    whole = path.read_bytes()

    def break_with(error: BaseException) -> None:
        def broken(_: int) -> None:
            raise error

        monkeypatch.setattr(os, "fsync", broken)

    def save() -> None:
        save_variant(path, variant, Scheme(4, 64, "rtn"), model="x")

    break_with(OSError(28, "No space left on device"))
    assert refused(save, DataError) == f"cannot write {path}: No space left on device"
    break_with(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save()
    assert path.read_bytes() == whole
    assert names(tmp_path) == ["variant.safetensors"]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    variant = quantize_model(make(), Scheme(4, 64, "rtn"))
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "variant"
    assert f"cannot write {path}" in refused(lambda: save_variant(path, variant, Scheme(4, 64, "rtn"), model="x"), DataError)
    assert names(tmp_path) == ["file"]


def test_saving_a_materialized_variant_stores_its_codes_alone(tmp_path: Path) -> None:
    base = make()
    variant = saved(tmp_path / "a", Scheme(4, 64, "rtn"), base)
    for layer in quantized_linears(variant).values():
        layer.materialize(torch.float32)
    save_variant(tmp_path / "b", variant, Scheme(4, 64, "rtn"), model=fingerprint(base.state_dict()), calibration="none")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
