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


def test_long_contexts_add_to_every_token() -> None:
    rates = Rates(attention=1.0)
    assert rates.cost(Usage("high", prefill=3, cached=10)) == (10 + 1) + (10 + 2) + (10 + 3)
    assert rates.cost(Usage("high", prefill=1, cached=10, decode=2)) == 36  # a token is a token


def test_a_call_that_processes_nothing_costs_nothing() -> None:
    assert MODEL.cost([Usage("high", cached=50)]) == 0  # high's one other choice was read off its check


def test_the_costs_of_a_hand_made_episode_count_what_is_caught_up_probes_checks_and_decisions() -> None:
    """Low, low again, a draft that high rejects, then high stays away for a step and low catches up on nothing."""
    usages = [
        Step("m", "a", Decision("low"), NOTHING, Usage("low", prefill=10, decode=3)),
        Step("m", "a", Decision("low"), NOTHING, Usage("low", prefill=8, cached=13, decode=3)),
        Step(
            "m",
            "a",
            Decision("high"),
            NOTHING,
            Usage("high", cached=34, decode=2),
            probe_usage=(Usage("low", prefill=8, cached=24, decode=3), Usage("high", prefill=35)),
        ),
    ]
    episode = Episode("t", "k", "s", "dmr", 0, tuple(usages), success=True)
    low = (5 + 3) + (4 + 3) + (4 + 3)
    high = (10 + 35) + (10 + 0.25 * 34 + 2 * 2)
    assert MODEL.episode(episode) == low + high + 3 * 0.125


def test_rates_between_two() -> None:
    assert Rates(call=1, decode=4).mixed(Rates(call=3, prefill=2), 0.25) == Rates(call=1.5, prefill=0.5, decode=3)


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
    assert fitted.prefill == pytest.approx(3e-4, rel=0.1)
    assert fitted.decode == pytest.approx(2e-2, rel=0.02)
    assert 0 <= fitted.cached < 2e-6
    assert 0 <= fitted.call < 5e-3
    assert 0 <= fitted.attention < 1e-7


def test_a_fit_says_how_far_it_is_from_what_was_timed() -> None:
    model = CostModel.fit(timed("high", (1e-3, 3e-4, 4e-7, 2e-2), 300, 0.05, 3))
    assert model.residuals["high"].calls == 300
    assert model.residuals["high"].rms == pytest.approx(0.05, rel=0.15)
    assert 0.1 < model.residuals["high"].worst < 0.25
    exact = CostModel.fit(timed("low", (1e-3, 3e-4, 4e-7, 2e-2), 30, 0.0, 3)).residuals["low"]
    assert exact.rms < 1e-6


def test_attention_over_long_contexts_is_told_from_the_tokens() -> None:
    rng = np.random.default_rng(0)
    truth = Rates(call=2e-3, prefill=1e-4, cached=0, decode=2e-3, attention=3e-7)
    usages = [Usage("high", *(int(x) for x in rng.integers(1, (256, 1024, 24)))) for _ in range(40)]
    fitted = CostModel.fit(TimedCall(u, truth.cost(u)) for u in usages).variants["high"]
    assert fitted.attention == pytest.approx(3e-7, rel=1e-3)
    assert fitted.prefill == pytest.approx(1e-4, rel=1e-3)


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
