from pathlib import Path

import pytest

from bitroute.engines.engine import CacheMode
from bitroute.engines.loading import identity, quantize
from bitroute.engines.registry import GROUP, kinds, load_engine
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
    quantize(tiny_model, "w2g64-rtn", tmp_path, lambda: ([], ""))
    wanted = EngineSpec(
        model=tiny_model, schemes=("w2g64-rtn",), variants=tmp_path, cache_mode=CacheMode.SHARED, device="cpu", dtype="float32"
    )
    engine = load_engine(wanted, END)
    assert isinstance(engine, TorchEngine)
    assert (engine.ladder, engine.cache_mode, engine.end_token) == (wanted.ladder, CacheMode.SHARED, END)
    assert engine.fingerprint == identity(tiny_model)


def test_an_unknown_kind_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'steam'; want one of torch"):
        load_engine(spec(kind="steam"), END)


THEIRS = """
class Steam:
    def __init__(self, spec, end_token):
        self.ladder, self.end_token = spec.ladder, end_token

class Half(Steam):
    def __init__(self, spec, end_token):
        self.ladder = spec.ladder[:1]

def damaged(spec, end_token):
    raise ValueError("the boiler leaks")

def missing(spec, end_token):
    from bitroute.errors import DataError
    raise DataError("boiler.bin: no such file")

number = 7
"""


def theirs(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str) -> EngineSpec:
    install(monkeypatch, folder, "steam-engine", GROUP, "steam", f"steam_engine:{name}", THEIRS)
    return spec(kind="steam")


def test_an_engine_of_another_package_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = theirs(monkeypatch, tmp_path, "Steam")
    assert kinds() == ("torch", "steam")
    engine = load_engine(wanted, END)
    assert (type(engine).__name__, engine.ladder) == ("Steam", wanted.ladder)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("Half", CapabilityError, "engine 'steam' hosts w2g64-rtn; asked for w2g64-rtn, bf16"),
        ("damaged", ConfigError, "engine 'steam' cannot load model (ValueError: the boiler leaks)"),
        ("missing", DataError, "boiler.bin: no such file"),
        ("number", ConfigError, "bitroute.engines: 'steam' is int, not a function (spec, end_token) -> Engine"),
    ],
)
def test_what_goes_wrong_in_another_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        load_engine(theirs(monkeypatch, tmp_path, name), END)
    assert str(caught.value) == message
