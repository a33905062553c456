"""Builds are all or nothing, go on where they were killed, and give the same bytes however they are run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitroute.envs.webshop.search import build
from bitroute.envs.webshop.search.build import build_index
from bitroute.envs.webshop.search.index import Index
from bitroute.errors import DataError


def documents(count: int = 40) -> Iterator[tuple[str, str]]:
    """Texts that share some words and repeat others."""
    for number in range(count):
        yield f"B{number:09d}", f"product {number} " + "colour " * (number % 7) + f"size{number % 5} caf\u00e9{number % 3}"


def files(path: Path) -> dict[str, bytes]:
    """All that is in a directory, by name."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def built(tmp_path: Path) -> dict[str, bytes]:
    """The files of the index, built in one go, in parts of eight documents."""
    build_index(tmp_path / "once", documents(), part=8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["once"]  # no parts, nothing temporary
    return files(tmp_path / "once")


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are analysed from now on."""
    texts: list[str] = []
    terms = build.terms

    def counted(text: str) -> list[str]:
        texts.append(text)
        return terms(text)

    monkeypatch.setattr(build, "terms", counted)
    return texts


def test_the_bytes_depend_neither_on_workers_nor_on_parts_nor_on_stretches(
    built: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tmp_path / "two", documents(), workers=2, total=40, part=8)
    assert files(tmp_path / "two") == built
    monkeypatch.setattr(build, "STRETCH", 1)
    for part in (3, 9, 100):
        build_index(tmp_path / "other", documents(), part=part)
        assert files(tmp_path / "other") == built


def test_a_build_that_was_killed_goes_on(built: dict[str, bytes], tmp_path: Path, analysed: list[str]) -> None:
    script = f"""
import os, signal
from pathlib import Path
from bitroute.envs.webshop.search.build import build_index

def killed():
    yield from {[*documents(20)]!r}
    os.kill(os.getpid(), signal.SIGKILL)

build_index(Path({str(tmp_path / "index")!r}), killed(), part=8)
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    ended = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="build the search index first"):
        Index.open(tmp_path / "index")
    build_index(tmp_path / "index", documents(), part=8)
    assert analysed == [text for _, text in documents()][16:]  # two parts were there
    assert files(tmp_path / "index") == built
    assert not (tmp_path / "index.parts").exists()


def interrupted(count: int) -> Iterator[tuple[str, str]]:
    """Ctrl-C after `count` documents."""
    yield from documents(count)
    raise KeyboardInterrupt


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_build_leaves_the_old_index_as_it_was(built: dict[str, bytes], tmp_path: Path, workers: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "once", interrupted(17), workers=workers, part=8)
    assert files(tmp_path / "once") == built
    build_index(tmp_path / "once", [("A", "new")])
    assert [hit.asin for hit in Index.open(tmp_path / "once").search("new")] == ["A"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["once"]


def test_parts_of_other_documents_are_not_taken(built: dict[str, bytes], tmp_path: Path, analysed: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path / "index", interrupted(16), part=8)
    assert len(analysed) == 16
    changed = [(asin, f"{text} new" if number == 3 else text) for number, (asin, text) in enumerate(documents())]
    build_index(tmp_path / "index", changed, part=8)
    assert len(analysed) == 16 + 32
    assert [hit.asin for hit in Index.open(tmp_path / "index").search("new")] == ["B000000003"]


def test_what_a_killed_build_left_half_written_is_cleared_away(built: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / ".index.tmp").mkdir()
    (tmp_path / ".index.tmp" / "half.npy").write_bytes(b"")
    build_index(tmp_path / "index", documents(), part=8)
    assert files(tmp_path / "index") == built
    assert not (tmp_path / ".index.tmp").exists()


@pytest.mark.parametrize("asin", ["", "B0123456789", "B\u00e9"])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_asin_that_is_none_is_refused(tmp_path: Path, asin: str, workers: int) -> None:
    with pytest.raises(DataError, match=rf"ASIN {asin!r}: not 1 to 10 ASCII characters"):
        build_index(tmp_path / "index", [("B", "text"), (asin, "text")], workers=workers)


def test_a_product_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="product B: comes twice"):
        build_index(tmp_path / "index", [("B", "text"), ("A", "text"), ("B", "other")], part=1)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_text_that_repeats_a_word_too_often_is_refused(tmp_path: Path, workers: int) -> None:
    build_index(tmp_path / "index", [("A", "w " * 65_535)])
    with pytest.raises(DataError, match="product B: its text repeats a word more than 65,535 times"):
        build_index(tmp_path / "index", [("A", "w"), ("B", "v " + "w " * 65_536)], workers=workers)
    assert len(Index.open(tmp_path / "index")) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file"):
        build_index(tmp_path / "file" / "index", documents())
