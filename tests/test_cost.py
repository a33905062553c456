import json
from pathlib import Path

import numpy as np
import pytest

from bitroute.cost import CostModel, Rates, TimedCall
from bitroute.episode import Decision, Episode, Signals, Step, Usage
from bitroute.errors import CapabilityError, DataError

NOTHING = Signals((), (), (), ())
MODEL = CostModel(
    unit="seconds",
    variants={"low": Rates(prefill=0.5, decode=1.0), "high": Rates(call=10.0, prefill=1.0, cached=0.25, decode=2.0)},
    decisions={"dmr": 0.125},
)


def test_cost_adds_tokens_times_rates() -> None:
    assert MODEL.cost([]) == 0
    assert MODEL.cost([Usage("low", prefill=4, cached=100, decode=3)]) == 5.0
    assert MODEL.cost([Usage("low", 4, 100, 3), Usage("high", 4, 100, 3)]) == 5.0 + 10 + 4 + 25 + 6


def test_an_episode_pays_for_probes_and_decisions() -> None:
    step = Step("m", "a", Decision("high"), NOTHING, Usage("high", decode=1), probe_usage=(Usage("low", decode=2),))
    episode = Episode("t", "k", "s", "dmr", 0, (step, step), success=True)
    assert MODEL.episode(episode) == 2 * (12 + 2 + 0.125)
    assert MODEL.episode(episode, "random") == 2 * (12 + 2)


def test_a_variant_without_rates_is_named() -> None:
    with pytest.raises(CapabilityError, match=r"variant 'w4' \(it knows low, high\)"):
        MODEL.cost([Usage("w4")])


def test_steps_counts_calls_whatever_their_tokens() -> None:
    model = CostModel.steps(["w2", "w4", "w16"])
    assert [model.cost([Usage(v, 9, 9, 9)]) for v in ("w2", "w4", "w16")] == [0.0, 0.5, 1.0]
    assert model.unit == "high steps"


@pytest.mark.parametrize("ladder", [[], ["high"], ["high", "high"]])
def test_steps_needs_two_variants(ladder: list[str]) -> None:
    with pytest.raises(ValueError, match="at least two different variants"):
        CostModel.steps(ladder)


def timed(variant: str, rates: tuple[float, float, float, float], count: int, noise: float, seed: int) -> list[TimedCall]:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        prefill, cached, decode = (int(rng.integers(0, top)) for top in (200, 2000, 30))
        seconds = float(np.dot(rates, (1, prefill, cached, decode))) * float(1 + noise * rng.standard_normal())
        samples.append(TimedCall(Usage(variant, prefill, cached, decode), seconds))
    return samples


def test_fit_recovers_exact_rates() -> None:
    low, high = (1e-3, 2e-4, 1e-7, 5e-3), (2e-3, 3e-4, 4e-7, 2e-2)
    model = CostModel.fit(timed("low", low, 20, 0.0, 1) + timed("high", high, 20, 0.0, 2), decisions={"dmr": 1e-3})
    for name, rates in (("low", low), ("high", high)):
        fitted = model.variants[name]
        assert (fitted.call, fitted.prefill, fitted.cached, fitted.decode) == pytest.approx(rates, rel=1e-6)
    assert (model.unit, dict(model.decisions)) == ("seconds", {"dmr": 1e-3})


def test_fit_recovers_noisy_rates_and_never_goes_below_zero() -> None:
    fitted = CostModel.fit(timed("high", (0.0, 3e-4, 0.0, 2e-2), 500, 0.05, 3)).variants["high"]
    assert fitted.prefill == pytest.approx(3e-4, rel=0.1)  # one standard error is 5 %
    assert fitted.decode == pytest.approx(2e-2, rel=0.02)
    assert 0 <= fitted.cached < 2e-6
    assert 0 <= fitted.call < 5e-3


def test_a_count_that_never_occurred_has_no_rate() -> None:
    samples = [TimedCall(Usage("high", prefill=p, decode=d), 0.5 + p + 2 * d) for p, d in ((1, 1), (2, 1), (3, 5))]
    fitted = CostModel.fit(samples).variants["high"]
    assert (fitted.call, fitted.prefill, fitted.cached, fitted.decode) == pytest.approx((0.5, 1.0, 0.0, 2.0))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no timed calls"),
        (
            [TimedCall(Usage("high", prefill=p, decode=2 * p), 1.0 + p) for p in range(1, 9)],
            "call, prefill, decode independently",
        ),
        ([TimedCall(Usage("high", decode=1), 0.0)], "no positive number"),
        ([TimedCall(Usage("high", decode=1), float("nan"))], "no positive number"),
    ],
)
def test_samples_that_cannot_be_fitted_are_refused(samples: list[TimedCall], message: str) -> None:
    with pytest.raises(DataError, match=message):
        CostModel.fit(samples)


def test_save_and_load(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "cost.json")
    assert CostModel.load(tmp_path / "cost.json") == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, r"cost\.json: colour: Extra inputs"),
        ({"variants": {"low": {"prefil": 1}}}, r"cost\.json: variants\.low\.prefil: Extra inputs"),
        ({"variants": {"low": {"prefill": -1}}}, r"variants\.low\.prefill: Input should be greater than or equal to 0"),
        ({"variants": 3}, r"cost\.json: variants: Input should be"),
    ],
)
def test_a_bad_file_is_refused_by_field(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "cost.json"
    path.write_text(json.dumps({"unit": "s", "variants": {"low": {}}, **change}))
    with pytest.raises(DataError, match=message):
        CostModel.load(path)


def test_a_truncated_or_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"unit": "s')
    with pytest.raises(DataError, match=r"cut\.json: Invalid JSON"):
        CostModel.load(tmp_path / "cut.json")
    with pytest.raises(DataError, match=r"none\.json: No such file"):
        CostModel.load(tmp_path / "none.json")
