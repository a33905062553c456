"""Routers by rule and by file, over the gateway's own ladder; what cannot serve is refused in one line."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bitroute.episode import View
from bitroute.errors import BitrouteError, CapabilityError, ConfigError, DataError
from bitroute.gateway.routing.loading import load_router
from bitroute.routers.calibrated import Calibrated, save_calibration
from bitroute.routers.registry import signature
from bitroute.routers.router import RouterCost
from bitroute.routers.signals import load_signals
from support.routing import save_encoder, save_signals

PAIR, TRIO = ("w4", "bf16"), ("w4", "w8", "bf16")


@pytest.mark.parametrize(
    ("spec", "name", "follows"),
    [
        ("always:high", "always(bf16)", False),
        ("random:0.5", "random(0.5)", False),
        ("first-k:3", "first-k(3)", False),
        ("repetition", "repetition", False),
        ("heuristic", "heuristic", True),
        ("uncertainty:past-entropy", "uncertainty(entropy, past)", True),
    ],
)
def test_a_rule_is_built_over_the_ladder(spec: str, name: str, follows: bool) -> None:
    loaded = load_router(spec, TRIO)
    assert (loaded.name, loaded.follows, loaded.calibration) == (name, follows, ())
    assert loaded.at(0.3).cost is RouterCost.INLINE
    assert loaded.at(0.3) is loaded.at(0.7) and loaded.at(0.3).variants == TRIO
    assert loaded.policy == f"{name}@{load_router(spec, PAIR).version}" and len(loaded.version) == 8
    assert not signature(spec)


@pytest.mark.parametrize("rule", ["random", "periodic"])
def test_a_rule_without_its_share_takes_the_budget(rule: str) -> None:
    loaded = load_router(rule, PAIR)
    assert loaded.name == rule and loaded.follows
    assert [loaded.at(budget).name for budget in (0.25, 0.5)] == [f"{rule}(0.25)", f"{rule}(0.5)"]


def test_a_fitted_router_decides_over_our_names_by_rung(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = ("2bit", "4bit", "full")
    path = save_signals(tmp_path / "signals.json", theirs, {"share at high": 2.0, "last at high": 1.0}, bias=-1.0)
    with caplog.at_level(logging.INFO):
        loaded = load_router(str(path), TRIO)
    assert "2bit -> w4, 4bit -> w8, full -> bf16" in caplog.text
    ours, router = loaded.at(0.3), load_signals(path, model="toy-model", variants=theirs)
    names = dict(zip(TRIO, theirs, strict=True))
    for past in (("w4", "w4"), ("bf16", "w8"), ("w4", "bf16"), ("bf16", "bf16")):
        view = View(("a", "b", "c"), ("x", "y"), past, (None, None))
        told = View(view.messages, view.actions, tuple(names[v] for v in past), view.signals)
        (mine,), (offline,) = ours.decide([view], [ours.begin(0)]), router.decide([told], [router.begin(0)])
        assert (names[mine.variant], mine.score) == (offline.variant, offline.score)


def test_an_encoder_is_read_with_its_calibration(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", ("low", "high"))
    bare = load_router(str(path), PAIR)
    assert bare.at(0.3).cost is RouterCost.THREAD and bare.name == "encoder" and bare.at(0.3).variants == PAIR
    save_calibration(path, [Calibrated(0.2, 1.0, 0.19), Calibrated(0.3, 0.5, 0.29)])
    loaded = load_router(str(path), PAIR)
    assert [row.budget for row in loaded.calibration] == [0.2, 0.3] and loaded.version != bare.version
    assert {file[0] for file in signature(str(path))} >= {"router.json", "network.safetensors", "calibration.json"}


def test_a_changed_file_changes_signature_and_version(tmp_path: Path) -> None:
    path = save_signals(tmp_path / "signals.json", PAIR, {"step": 1.0})
    before = signature(str(path)), load_router(str(path), PAIR).version
    save_signals(path, PAIR, {"step": 2.0}, bias=1.0)
    after = signature(str(path)), load_router(str(path), PAIR).version
    assert before[0] != after[0] and before[1] != after[1]
    save_signals(path, PAIR, {"step": 1.0})
    assert load_router(str(path), PAIR).version == before[1]


def test_a_router_of_another_length_of_ladder_is_refused(tmp_path: Path) -> None:
    path = save_signals(tmp_path / "signals.json", PAIR, {})
    with pytest.raises(ConfigError, match=r"signals\.json: trained for 2 variants \(w4, bf16\), the gateway has 3"):
        load_router(str(path), TRIO)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("uncertainty:entropy", ConfigError, "generates with the low variant before it decides.*past-entropy"),
        ("oracle", ConfigError, "measures both variants before it decides"),
        ("magic", ConfigError, "unknown router 'magic'.*uncertainty, heuristic$"),
        ("always:w3", CapabilityError, "^router 'always:w3': unknown variant 'w3'"),
        ("first-k:-1", ConfigError, r"^router 'first-k:-1': k -1 is negative"),
        ("runs/none/router", DataError, "no such file or directory"),
    ],
)
def test_what_cannot_serve_is_refused_in_one_line(spec: str, error: type[BitrouteError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_router(spec, PAIR)
    assert "\n" not in str(caught.value)


def test_a_trained_router_that_probes_is_refused(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "dmr", PAIR, use_probe=True)
    with pytest.raises(ConfigError, match="dmr: it generates with the low variant before it decides"):
        load_router(str(path), PAIR)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"model": "m", "variants": 3}', b"\xff\xfe"])
def test_damaged_files_are_one_line(tmp_path: Path, damage: bytes) -> None:
    file, directory = tmp_path / "signals.json", save_encoder(tmp_path / "dmr", PAIR)
    file.write_bytes(damage)
    (directory / "router.json").write_bytes(damage)
    for path in (file, directory):
        with pytest.raises(DataError, match=path.name) as caught:
            load_router(str(path), PAIR)
        assert "\n" not in str(caught.value)


def test_a_file_named_like_a_rule_is_read_when_written_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_signals(Path("random"), PAIR, {})
    assert load_router("./random", PAIR).name == "signals"
    save_signals(Path("plain.json"), PAIR, {})
    assert load_router("plain.json", PAIR).name == "signals"


@pytest.mark.slow
def test_the_gateway_imports_no_environment_no_training_and_no_torch() -> None:
    code = (
        "import importlib, pkgutil, sys, bitroute.gateway as gateway\n"
        "import bitroute.gateway.http.process\n"
        "from bitroute.gateway.routing.loading import load_router\n"
        "load_router('heuristic', ('low', 'high')); load_router('random', ('low', 'high'))\n"
        "print('torch' in sys.modules)\n"
        "for module in pkgutil.walk_packages(gateway.__path__, 'bitroute.gateway.'):\n"
        "    if not module.name.startswith('bitroute.gateway.demo'): importlib.import_module(module.name)\n"
        "import bitroute.routers.encoder.router\n"
        "roots = ('bitroute.envs', 'bitroute.training', 'bitroute.experiment')\n"
        "print(*(name for name in sys.modules if name.startswith(roots)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
