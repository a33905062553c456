"""The cache: where it is, and that a directory in it appears as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitroute.errors import DataError
from bitroute.store.cache import cache_directory, made


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BITROUTE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path.home() / ".cache" / "bitroute"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "bitroute"
    monkeypatch.setenv("BITROUTE_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def test_a_directory_is_made_once_and_whole(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(out: Path) -> None:
        calls.append(out)
        (out / "part").write_text("1")
        assert not (tmp_path / "deep" / "model").exists()

    for _ in range(2):
        assert made(tmp_path / "deep" / "model", make) == tmp_path / "deep" / "model"
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    assert (tmp_path / "deep" / "model" / "part").read_text() == "1"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(out: Path) -> None:
        (out / "part").write_text("1")
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        made(tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_make_it_at_once_one_wins(tmp_path: Path) -> None:
    def overtaken(out: Path) -> None:
        (out / "mine").write_text("1")
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "theirs").write_text("1")

    assert made(tmp_path / "model", overtaken) == tmp_path / "model"
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*; set BITROUTE_CACHE to a place for models"):
        made(tmp_path / "file" / "model", lambda out: None)
