from pathlib import Path

import pytest

from bitroute.errors import ConfigError
from bitroute.plugins import load_plugin, plugin_names
from support.plugins import install

GROUP = "bitroute.tests"


def test_what_a_package_registers_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugin_names(GROUP) == ()
    install(monkeypatch, tmp_path, "shapes", GROUP, "round", "shapes_of_things:circle", "circle = 'a circle'\n")
    assert plugin_names(GROUP) == ("round",)
    assert load_plugin(GROUP, "round") == "a circle"


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="square"):
        load_plugin(GROUP, "square")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import missing_module_of_theirs\n", "ModuleNotFoundError: No module named 'missing_module_of_theirs'"),
        ("raise RuntimeError('no licence')\n", "RuntimeError: no licence"),
        ("", "AttributeError: module 'broken_shapes' has no attribute 'circle'"),
    ],
)
def test_an_object_that_cannot_be_loaded_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "broken_shapes", raising=False)
    install(monkeypatch, tmp_path, "broken", GROUP, "round", "broken_shapes:circle", code)
    with pytest.raises(ConfigError) as caught:
        load_plugin(GROUP, "round")
    assert str(caught.value) == f"{GROUP}: 'round' of broken leads to broken_shapes:circle, which cannot be loaded ({problem})"


def test_a_name_that_two_packages_register_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("one", "two"):
        folder = tmp_path / package
        folder.mkdir()
        install(monkeypatch, folder, package, GROUP, "round", f"shapes_of_{package}:circle", "circle = 1\n")
    with pytest.raises(ConfigError, match=r"'round' is registered more than once \(one, two\)"):
        load_plugin(GROUP, "round")
