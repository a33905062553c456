"""The kinds of routers: what each says of itself, and those of other packages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bitroute.episode import View
from bitroute.errors import ConfigError, DataError
from bitroute.routers.kinds import BUILT_IN, GROUP, find_kind, kinds
from bitroute.routers.registry import build_router, find_source
from bitroute.routers.router import Reads
from support.plugins import install

LADDER = ("w4", "w8", "bf16")


def test_every_kind_says_how_it_is_written_and_what_it_does() -> None:
    for name, kind in BUILT_IN.items():
        assert kind.name == name and kind.help and "\n" not in kind.help
        assert kind.trained or kind.form.startswith(name)
        assert kind.trained or not kind.files


@pytest.mark.parametrize("name", [name for name, kind in BUILT_IN.items() if not kind.trained])
def test_every_rule_keeps_the_contract(name: str) -> None:
    arguments = {"always": "high", "random": "0.5", "periodic": "0.5", "first-k": "2", "uncertainty": "past-entropy"}
    arguments["at-most"] = "1:repetition"
    router = build_router(f"{name}:{arguments[name]}" if name in arguments else name, LADDER, "model")
    if name not in ("oracle", "verify"):  # they want what an engine alone can measure
        view = View(("a", "b"), ("x",), ("w4",), (None,))
        (decision,) = router.decide([view], [router.begin(3)])
        assert decision.variant in LADDER and (decision.score is None) == (router.thresholds is None)
        if router.reads is Reads.NOTHING:
            assert router.decide([View(("", ""), ("",))], [router.begin(3)]) == [decision]
    if router.thresholds is None:
        assert router.with_options() is router and router.with_options(sample=False) is router
        for options in ({"threshold": 0.5}, {"sample": True}):
            with pytest.raises(ConfigError, match=f"router {re.escape(router.name.partition(',')[0])} does not score steps"):
                router.with_options(**options)
    else:
        assert router.with_options(threshold=0.5).thresholds == (0.5, 0.5)


# Kinds of other packages.


def test_another_package_adds_a_rule_and_a_trained_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "odd", "bitroute-odd", GROUP, "odd", "odd_router:KIND", ODD)
    install(monkeypatch, tmp_path / "lamp", "bitroute-lamp", GROUP, "lamp", "lamp_router:KIND", LAMP)
    assert build_router("odd:1", LADDER, "m").name == "always(w8)"
    with pytest.raises(ConfigError, match=r"router 'odd:x': write it as odd:RUNG"):
        build_router("odd:x", LADDER, "m")
    (tmp_path / "lamp.json").write_text(json.dumps({"router": "lamp", "model": "m", "variants": LADDER, "rung": 2}))
    source = find_source(str(tmp_path / "lamp.json"))
    assert source.kind.name == "lamp" and [file.name for file in source.files()] == ["lamp.json", "lamp.calibration.json"]
    assert build_router(str(tmp_path / "lamp.json"), LADDER, "m").name == "always(bf16)"
    (tmp_path / "lamp.json").write_text(json.dumps({"router": "lamp", "model": "m", "variants": LADDER}))
    with pytest.raises(DataError, match=r"lamp\.json: not a readable lamp router \(KeyError: 'rung'\)"):
        build_router(str(tmp_path / "lamp.json"), LADDER, "m")
    assert [kind.name for kind in kinds()] == [*BUILT_IN, "lamp", "odd"]
    (tmp_path / "lamps").mkdir()
    (tmp_path / "lamps" / "router.json").write_text(json.dumps({"router": "lamp", "model": "m", "variants": LADDER}))
    files = find_source(str(tmp_path / "lamps")).files()
    assert [file.name for file in files] == ["router.json", "calibration.json"]


ODD = """
from bitroute.routers.kinds import Kind
from bitroute.routers.rules import Always

def load(argument, variants):
    return Always(variants, variants[int(argument)])

KIND = Kind(name="odd", form="odd:RUNG", help="one rung", load=load)
"""
LAMP = """
import json
from pathlib import Path
from bitroute.routers.kinds import Kind
from bitroute.routers.rules import Always

def load(path, variants):
    return Always(variants, variants[json.loads(Path(path).read_text())["rung"]])

KIND = Kind(name="lamp", form="FILE", help="one rung, from a file", load=load, trained=True)
"""


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("raise RuntimeError('no luck')", "bitroute-broken.*cannot be loaded.*RuntimeError: no luck"),
        ("import no_such_module", "bitroute-broken.*cannot be loaded.*no_such_module"),
        ("KIND = dict()", "'broken' leads to a dict, not to a Kind"),
        ("from bitroute.routers.kinds import BUILT_IN; KIND = BUILT_IN['always']", "leads to the kind 'always'"),
    ],
)
def test_a_broken_kind_is_one_line_and_only_when_it_is_asked_for(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "bitroute-broken", GROUP, "broken", "broken_router:KIND", source)
    assert build_router("random:0.5", LADDER, "m").name == "random(0.5)"
    assert "broken" not in {kind.name for kind in kinds()}
    (tmp_path / "router").write_text(json.dumps({"router": "broken", "model": "m", "variants": LADDER}))
    for spec in ("broken", "broken:1", str(tmp_path / "router")):
        with pytest.raises(ConfigError, match=problem) as caught:
            build_router(spec, LADDER, "m")
        assert "\n" not in str(caught.value)


def test_a_built_in_kind_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "bitroute-odd", GROUP, "always", "odd_router:KIND", ODD)
    assert find_kind("always") is BUILT_IN["always"]
    with pytest.raises(KeyError):
        find_kind("no such kind")
