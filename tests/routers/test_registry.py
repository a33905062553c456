"""Routers as the command line writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitroute.episode import View
from bitroute.errors import BitrouteError, CapabilityError, ConfigError, DataError
from bitroute.routers.registry import build_router, builder, signature
from support.routing import save_encoder, save_signals

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
        ("repetition", "repetition"),
        ("repetition:2", "repetition(2)"),
    ],
)
def test_a_spec_names_a_router_over_the_ladder(spec: str, name: str) -> None:
    router = build_router(spec, LADDER, "model")
    assert router.name == name
    assert router.variants == LADDER


def test_a_threshold_may_follow() -> None:
    oracle, uncertain = (build_router(s, LADDER, "model") for s in ("oracle:1.5", "uncertainty:entropy:0.4"))
    assert oracle.thresholds == (1.5, 1.5) and uncertain.thresholds == (0.4, 0.4)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            "magic",
            ConfigError,
            "unknown router 'magic'.*always, random, periodic, first-k, repetition, .*uncertainty, verify, oracle",
        ),
        ("at-most:2", ConfigError, "router 'at-most:2': write it as at-most:STEPS:ROUTER"),
        ("at-most:x:always:high", ConfigError, "router 'at-most:x': write it as at-most:STEPS:ROUTER"),
        ("at-most:-1:always:high", ConfigError, "router 'at-most:-1': limit -1 is negative"),
        ("at-most:1:magic", ConfigError, "unknown router 'magic'"),
        ("signals", ConfigError, r"router 'signals': it is trained; give the path of one \(FILE\)"),
        ("", ConfigError, "unknown router ''"),
        ("random", ConfigError, "router 'random': write it as random:SHARE"),
        ("random:lots", ConfigError, "write it as random:SHARE"),
        ("random:1.5", ConfigError, r"share 1.5 is outside 0\.\.1"),
        ("first-k:two", ConfigError, "write it as first-k:STEPS"),
        ("uncertainty:variance", ConfigError, "write it as uncertainty:.*MEASURE is entropy, margin, past-entropy or past-m"),
        ("repetition:-1", ConfigError, "dwell -1 is negative"),
        ("repetition:x", ConfigError, r"write it as repetition\[:DWELL\]"),
        ("oracle:x", ConfigError, "write it as oracle"),
        ("oracle:nan", ConfigError, "ascending"),
        ("always:w3", CapabilityError, "^router 'always:w3': unknown variant 'w3'"),
        ("runs/none/router", DataError, "runs/none/router: no such file or directory"),
        ("router.json", DataError, r"router\.json: no such file or directory"),
    ],
)
def test_a_wrong_spec_is_answered_in_one_line(spec: str, error: type[BitrouteError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        build_router(spec, LADDER, "model")
    assert "\n" not in str(caught.value)


def test_a_path_to_a_fitted_regression_is_read(tmp_path: Path) -> None:
    path = save_signals(tmp_path / "signals", LADDER, {}, model="model", thresholds=(0.0, 1.0))
    router = build_router(str(path), LADDER, "model")
    assert router.name == "signals" and router.thresholds == (0.0, 1.0)
    with pytest.raises(DataError, match="trained for model"):
        build_router(str(path), LADDER, "another")
    with pytest.raises(DataError, match="trained for the variants w4, w8, bf16, not low, high"):
        build_router(str(path), ("low", "high"), "model")


def test_a_path_to_an_encoder_is_read(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", LADDER)
    router = build_router(str(path), LADDER, "toy-model")
    assert router.name == "encoder" and router.thresholds == (0.0, 0.0) and router.variants == LADDER
    with pytest.raises(DataError, match=r"router\.json: was trained for model toy-model"):
        build_router(str(path), LADDER, "another")


def test_a_file_of_an_encoder_says_to_give_the_directory(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", LADDER)
    with pytest.raises(DataError, match=f"router.json: is a file of a trained router; give its directory, {path}$"):
        build_router(str(path / "router.json"), LADDER, "toy-model")


def test_a_directory_that_holds_no_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no trained router \(router\.json: No such file"):
        build_router(str(tmp_path), LADDER, "model")


def test_a_directory_that_holds_a_part_of_an_encoder_is_refused(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", LADDER)
    (path / "network.safetensors").unlink()
    with pytest.raises(DataError, match="dmr: not a readable encoder router"):
        build_router(str(path), LADDER, "toy-model")


def test_a_name_wins_over_a_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "oracle").write_text("{}")
    assert build_router("oracle", LADDER, "model").name == "oracle(kl)"
    with pytest.raises(DataError, match="oracle: not a trained router"):
        build_router("./oracle", LADDER, "model")


@pytest.mark.parametrize("path", ["./dmr", "runs/dmr", "/dmr", "dmr.json"])
def test_a_path_that_leads_nowhere_is_told_as_one(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"^router {path}: no such file or directory$"):
        build_router(path, LADDER, "model")


def test_a_trained_kinds_name_may_be_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_signals(Path("signals"), LADDER, {}, model="model")
    assert build_router("signals", LADDER, "model").name == "signals"


def test_a_file_says_of_which_kind_it_is(tmp_path: Path) -> None:
    """Not whether it is a directory."""
    (tmp_path / "one.json").write_text(json.dumps({"router": "astrology", "model": "m", "variants": LADDER}))
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "router.json").write_text(json.dumps({"router": "astrology", "model": "m", "variants": LADDER}))
    for path in (tmp_path / "one.json", tmp_path / "dir"):
        with pytest.raises(
            DataError, match="a router of the kind 'astrology', which is not installed; there are encoder, signals"
        ):
            build_router(str(path), LADDER, "m")


# A router is built once.


def test_a_router_is_built_once_and_anew_when_its_file_changed(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", LADDER)
    build = builder(LADDER, "toy-model")
    first = build(str(path))
    assert build(str(path)) is first and build("random:0.5") is build("random:0.5") is not build("random:0.25")
    save_encoder(path, LADDER, seed=1)  # as a training rewrites its sampler
    second = build(str(path))
    view = View(("You see a desk 1.",))
    assert first.decide([view], [first.begin(0)]) != second.decide([view], [second.begin(0)])
    assert build(str(path)) is second


def test_options_of_one_user_are_not_anothers(tmp_path: Path) -> None:
    build = builder(LADDER, "toy-model")
    path = str(save_encoder(tmp_path / "dmr", LADDER))
    strict, drawn = build(path).with_options(threshold=99.0), build(path).with_options(sample=True)
    assert (strict.thresholds, strict.draws, drawn.thresholds, drawn.draws) == ((99.0, 99.0), False, (0.0, 0.0), True)
    assert (build(path).thresholds, build(path).draws) == ((0.0, 0.0), False)


def test_the_signature_changes_with_the_files_and_not_with_what_is_being_written(tmp_path: Path) -> None:
    path = save_signals(tmp_path / "signals.json", LADDER, {})
    before = signature(str(path))
    assert [entry[0] for entry in before] == ["signals.json"]
    save_signals(path, LADDER, {"step": 1.0})
    assert signature(str(path)) != before
    directory = save_encoder(tmp_path / "dmr", LADDER)
    before = signature(str(directory))
    (directory / ".network.safetensors.1.tmp").write_bytes(b"half")
    assert signature(str(directory)) == before
    (directory / "calibration.json").write_text("[]")
    assert signature(str(directory)) != before
    assert signature("random:0.5") == signature("") == signature(str(tmp_path / "none")) == ()
