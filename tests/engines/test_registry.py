import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bitroute.engines.engine import CacheMode
from bitroute.engines.loading import identity
from bitroute.engines.registry import GROUP, check_scheme, engine_kinds, fingerprint_of, load_engine, make_variants
from bitroute.engines.spec import EngineSpec
from bitroute.engines.torch import TorchEngine
from bitroute.errors import CapabilityError, ConfigError, DataError
from support.plugins import install

END = 3


def spec(model: Path = Path("model"), variants: Path = Path("variants"), **fields: str) -> EngineSpec:
    return EngineSpec(model=model, schemes=("w2g64-rtn",), variants=variants, **{"device": "cpu", "dtype": "float32"} | fields)


def test_the_ladder_is_the_schemes_and_the_checkpoint_on_top() -> None:
    assert spec().ladder == ("w2g64-rtn", "bf16")
    assert spec(high="f16").ladder == ("w2g64-rtn", "f16")
    assert EngineSpec(model=Path("m"), schemes=(), variants=Path("v")).ladder == ("bf16",)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:one", "cuda:-1", "cpu:0", "", "CUDA"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown device '{device}'; want auto, cpu, cuda, cuda:N or mps"):
        spec(device=device)


def test_an_unknown_dtype_and_a_variant_named_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dtype 'int8'; want auto, float32, bfloat16, float16"):
        spec(dtype="int8")
    with pytest.raises(ConfigError, match="a variant is named twice in w2g64-rtn, w2g64-rtn"):
        spec(high="w2g64-rtn")


def test_the_torch_engine_hosts_what_the_specification_says(tiny_model: Path, tmp_path: Path) -> None:
    wanted = EngineSpec(
        model=tiny_model, schemes=("w2g64-rtn",), variants=tmp_path, cache_mode=CacheMode.SHARED, device="cpu", dtype="float32"
    )
    make_variants(wanted, lambda: ([], ""))
    engine = load_engine(wanted, END)
    assert isinstance(engine, TorchEngine)
    assert (engine.ladder, engine.cache_mode, engine.end_token) == (wanted.ladder, CacheMode.SHARED, END)
    assert engine.fingerprint == identity(tiny_model) == fingerprint_of(wanted)
    assert fingerprint_of(replace(wanted, fingerprint="known")) == "known"


def test_the_torch_engine_knows_its_schemes() -> None:
    check_scheme("torch", "w4g64-gptq")
    with pytest.raises(ConfigError, match="unknown scheme 'q4_0'"):
        check_scheme("torch", "q4_0")


def test_an_unknown_kind_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'steam'; want one of torch"):
        load_engine(spec(kind="steam"), END)


THEIRS = """
from pathlib import Path

from bitroute.engines.registry import EngineKind
from bitroute.errors import DataError


class Steam:
    def __init__(self, spec, end_token):
        self.ladder, self.end_token = spec.ladder, end_token


class Half(Steam):
    def __init__(self, spec, end_token):
        self.ladder = spec.ladder[:1]


def leaks(*arguments):
    raise ValueError("the boiler leaks")


def missing(*arguments):
    raise DataError("boiler.bin: no such file")


def kind(load, name="steam", **how):
    return EngineKind(name=name, load=load, identify=lambda model: f"steam of {model}", **how)


whole = kind(Steam, check=lambda scheme: None, prepare=lambda spec, calibration: None)
half, damaged, lost, renamed, number = kind(Half), kind(leaks), kind(missing), kind(Steam, "coal"), 7
broken = EngineKind(name="steam", load=Steam, identify=leaks, check=leaks, prepare=leaks)
"""


def theirs(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> EngineSpec:
    monkeypatch.delitem(sys.modules, "steam_engine", raising=False)
    install(monkeypatch, folder, "steam-engine", GROUP, "steam", f"steam_engine:{name}", THEIRS)
    return spec(kind="steam")


def test_an_engine_of_another_package_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = theirs(monkeypatch, tmp_path, "whole")
    assert engine_kinds() == ("torch", "steam")
    check_scheme("steam", "anything")
    make_variants(wanted, lambda: ([], ""))
    engine = load_engine(wanted, END)
    assert (type(engine).__name__, engine.ladder) == ("Steam", wanted.ladder)
    assert fingerprint_of(wanted) == "steam of model"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("half", CapabilityError, "engine 'steam' hosts w2g64-rtn; asked for w2g64-rtn, bf16"),
        ("damaged", ConfigError, "engine 'steam' cannot load model (ValueError: the boiler leaks)"),
        ("lost", DataError, "boiler.bin: no such file"),
        ("number", ConfigError, "bitroute.engines: 'steam' leads to a int, not to an EngineKind"),
        ("renamed", ConfigError, "bitroute.engines: 'steam' leads to the kind 'coal': the two names must be one"),
    ],
)
def test_what_goes_wrong_in_another_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        load_engine(theirs(monkeypatch, tmp_path, name), END)
    assert str(caught.value) == message


def test_so_is_what_goes_wrong_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = theirs(monkeypatch, tmp_path, "broken")
    for call, problem in (
        (lambda: fingerprint_of(wanted), "cannot read model"),
        (lambda: make_variants(wanted, lambda: ([], "")), "cannot make w2g64-rtn of model"),
        (lambda: check_scheme("steam", "w2"), "does not know 'w2'"),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == f"engine 'steam' {problem} (ValueError: the boiler leaks)"
