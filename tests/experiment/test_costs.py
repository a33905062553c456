import pytest

from bitroute.cost import CostModel, Rates
from bitroute.errors import CapabilityError
from bitroute.experiment.costs import LLAMA, rates_for

TYPES = {"gguf-q2_k": Rates(decode=1), "gguf-q3_k": Rates(decode=2), "gguf-f16": Rates(decode=6)}
SERVED = CostModel(unit="seconds", engine=LLAMA, variants=TYPES)


def test_on_llama_cpp_types_stand_for_schemes() -> None:
    assert rates_for(SERVED, "w2g128-gptq", "bf16").decode == 1
    assert rates_for(SERVED, "bf16", "bf16").decode == 6
    assert rates_for(SERVED, "w2.25g64-gptq", "bf16").decode == pytest.approx(1.25)
    assert rates_for(SERVED, "gguf-q3_k", "bf16").decode == 2


def test_where_nothing_stands_for_a_variant_it_is_named() -> None:
    with pytest.raises(CapabilityError, match=r"no rates for w8g64-rtn \(it knows gguf-q2_k, gguf-q3_k, gguf-f16\)"):
        rates_for(SERVED, "w8g64-rtn", "bf16")
    with pytest.raises(CapabilityError, match="no rates for other"):
        rates_for(SERVED, "other", "bf16")


def test_an_engine_of_dense_weights_takes_as_long_for_any_scheme() -> None:
    dense = CostModel(unit="seconds", engine="torch", variants={"w2g128-rtn": Rates(decode=5), "bf16": Rates(decode=6)})
    assert rates_for(dense, "w2g128-gptq", "bf16").decode == 5
    assert rates_for(dense, "bf16", "bf16").decode == 6
