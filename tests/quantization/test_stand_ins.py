import pytest

from bitroute.errors import ConfigError
from bitroute.quantization.stand_ins import stand_ins


@pytest.mark.parametrize(
    ("scheme", "types"),
    [
        ("w2g128-rtn", {"gguf-q2_k": 1.0}),
        ("w3row-gptq", {"gguf-q3_k": 1.0}),
        ("w4g64-gptq", {"gguf-q4_0": 1.0}),
        ("w8g64-rtn", {"gguf-q8_0": 1.0}),
        ("w8n4g64-rtn", {"gguf-q4_0": 1.0}),
        ("w2.25g64-gptq", {"gguf-q2_k": 0.75, "gguf-q3_k": 0.25}),
        ("w3.5g64-gptq", {"gguf-q3_k": 0.5, "gguf-q4_0": 0.5}),
    ],
)
def test_the_type_nearest_in_width_stands_for_a_scheme(scheme: str, types: dict[str, float]) -> None:
    assert stand_ins(scheme) == types


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown scheme 'fp8'"):
        stand_ins("fp8")
