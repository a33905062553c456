"""Routers as the command line writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitroute.errors import BitrouteError, CapabilityError, ConfigError, DataError
from bitroute.routers.oracle import Oracle
from bitroute.routers.registry import REGISTRY, build_router
from bitroute.routers.signals import FEATURES, SignalsModel, SignalsRouter
from bitroute.routers.threshold import ThresholdRouter

LADDER = ("w4", "w8", "bf16")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("always:high", "always(bf16)"),
        ("always:low", "always(w4)"),
        ("always:w8", "always(w8)"),
        ("random:0.3", "random(0.3)"),
        ("periodic:0.25", "periodic(0.25)"),
        ("first-k:5", "first-k(5)"),
        ("uncertainty:entropy", "uncertainty(entropy)"),
        ("uncertainty:past-margin:0.2", "uncertainty(margin, past)"),
        ("oracle", "oracle(kl)"),
    ],
)
def test_a_spec_names_a_router_over_the_ladder(spec: str, name: str) -> None:
    router = build_router(spec, LADDER, "model")
    assert router.name == name
    assert router.variants == LADDER


def test_a_threshold_may_follow() -> None:
    oracle, uncertain = (build_router(s, LADDER, "model") for s in ("oracle:1.5", "uncertainty:entropy:0.4"))
    assert isinstance(oracle, Oracle) and oracle.thresholds == (1.5, 1.5)
    assert isinstance(uncertain, ThresholdRouter) and uncertain.thresholds == (0.4, 0.4)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("magic", ConfigError, "unknown router 'magic'.*always, random, periodic, first-k, uncertainty, oracle"),
        ("", ConfigError, "unknown router ''"),
        ("random", ConfigError, "router 'random': write it as random:SHARE"),
        ("random:lots", ConfigError, "write it as random:SHARE"),
        ("random:1.5", ConfigError, r"share 1.5 is outside 0\.\.1"),
        ("first-k:2.5", ConfigError, "write it as first-k:STEPS"),
        ("uncertainty:variance", ConfigError, "write it as uncertainty:"),
        ("oracle:x", ConfigError, "write it as oracle"),
        ("oracle:nan", ConfigError, "ascending"),
        ("always:w3", CapabilityError, "unknown variant 'w3'"),
        ("runs/none/router", DataError, "runs/none/router: no such file or directory"),
        ("router.json", DataError, r"router\.json: no such file or directory"),
    ],
)
def test_a_wrong_spec_is_answered_in_one_line(spec: str, error: type[BitrouteError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        build_router(spec, LADDER, "model")
    assert "\n" not in str(caught.value)


def test_a_path_to_a_fitted_regression_is_read(tmp_path: Path) -> None:
    zeros, path = (0.0,) * len(FEATURES), tmp_path / "signals"
    SignalsModel(FEATURES, zeros, (1.0,) * len(FEATURES), zeros, 0.5, LADDER, "model", (0.0, 1.0)).save(path)
    router = build_router(str(path), LADDER, "model")
    assert isinstance(router, SignalsRouter) and router.thresholds == (0.0, 1.0)
    with pytest.raises(DataError, match="trained for model"):
        build_router(str(path), LADDER, "another")


def test_a_directory_that_holds_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable encoder router"):
        build_router(str(tmp_path), LADDER, "model")


def test_a_name_wins_over_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "oracle").write_text("{}")
    assert build_router("oracle", LADDER, "model").name == "oracle(kl)"
    with pytest.raises(DataError, match="not a signals router"):
        build_router("./oracle", LADDER, "model")


def test_every_form_begins_with_its_name() -> None:
    assert all(entry.form.startswith(name) for name, entry in REGISTRY.items())
