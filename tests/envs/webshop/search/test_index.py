"""Searches give Lucene's lists, scores follow the formula to the last bit, and damage is refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitroute.envs.webshop.search.build import build_index
from bitroute.envs.webshop.search.index import LENGTHS, Hit, Index
from bitroute.errors import DataError

DOCUMENTS = [
    ("B000000003", "red shoes, red laces"),
    ("B000000001", "red shoes, red laces"),
    ("B000000002", "blue shoes"),
    ("B000000004", "the of"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Four documents; tests must not damage it."""
    path = tmp_path_factory.mktemp("small") / "index"
    build_index(path, DOCUMENTS)
    return Index.open(path)


def test_every_list_is_lucenes(catalogue: list[tuple[str, str]], lucene: dict[str, list[str]], tmp_path: Path) -> None:
    build_index(tmp_path / "index", catalogue)
    index = Index.open(tmp_path / "index")
    assert len(index) == len(catalogue) == 1000
    assert len(lucene) == 1000
    assert [query for query, asins in lucene.items() if [hit.asin for hit in index.search(query)] != asins] == []


def byte_length(length: int) -> int:
    """What is left of a length in one byte: above 24, the rest as a floating-point number with a mantissa of four bits."""
    if length < 24:
        return length
    rest = length - 24
    shift = max(rest.bit_length() - 4, 0)
    return 24 + (rest >> shift << shift)


def every_score(documents: Sequence[tuple[str, list[str]]], query: Sequence[str]) -> list[Hit]:
    """All hits by the formula, one number at a time, nothing left out, best first."""
    one, k1, b = np.float32(1), np.float32(0.9), np.float32(0.4)
    searchable = [document for _, document in documents if document]
    totals: dict[str, float] = {}
    for term, count in Counter(query).items():
        with_term = [(asin, document) for asin, document in documents if term in document]
        idf = np.float32(math.log(1 + (len(searchable) - len(with_term) + 0.5) / (len(with_term) + 0.5)))
        weight = np.float32(count) * idf
        for asin, document in with_term:
            mean = np.float32(sum(map(len, searchable)) / len(searchable))
            inverse = one / (k1 * ((one - b) + b * np.float32(byte_length(len(document))) / mean))
            summand = weight - weight / (one + np.float32(document.count(term)) * inverse)
            totals[asin] = totals.get(asin, 0.0) + float(summand)
    hits = (Hit(asin, float(np.float32(total))) for asin, total in totals.items())
    return sorted(hits, key=lambda hit: (-hit.score, hit.asin))


LETTERS = st.sampled_from("kloz")
QUERIES = st.lists(LETTERS.map("w{}".format), max_size=6)
# For each document how often it has one term, and another or the same.
CORPORA = st.lists(st.tuples(LETTERS, st.integers(0, 70), LETTERS, st.integers(0, 3)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(corpus=CORPORA, query=QUERIES, limit=st.integers(1, 5), part=st.integers(7, 31), data=st.data())
def test_the_best_are_those_of_all_scores(
    corpus: list[tuple[str, int, str, int]], query: list[str], limit: int, part: int, data: st.DataObject
) -> None:
    asins = data.draw(st.permutations([f"A{number}" for number in range(len(corpus))]))
    documents = [
        (asin, [f"w{first}"] * often + [f"w{second}"] * few)
        for asin, (first, often, second, few) in zip(asins, corpus, strict=True)
    ]
    with TemporaryDirectory() as directory:
        build_index(Path(directory) / "index", ((asin, " ".join(words)) for asin, words in documents), part=part)
        found = Index.open(Path(directory) / "index").search(" ".join(query), limit)
    assert found == every_score(documents, query)[:limit]


def test_what_is_left_out_among_many_documents_is_not_among_the_best(tmp_path: Path) -> None:
    """Rare terms with frequent ones, which are looked up for a few documents only."""
    random = np.random.default_rng(0)
    chances = 1 / np.arange(1, 201)
    picks = (random.choice(200, random.integers(5, 30), p=chances / chances.sum()) for _ in range(1500))
    documents = [(f"A{number}", [f"w{pick}" for pick in picked]) for number, picked in enumerate(picks)]
    build_index(tmp_path / "index", ((asin, " ".join(words)) for asin, words in documents))
    index = Index.open(tmp_path / "index")
    for _ in range(25):
        picked = [*random.integers(100, 200, random.integers(1, 4)), *random.integers(0, 5, random.integers(1, 5))]
        query = [f"w{pick}" for pick in picked]
        expected = every_score(documents, query)
        for limit in (1, 3, 50):
            assert index.search(" ".join(query), limit) == expected[:limit]


def test_lengths_are_stored_in_one_byte_as_lucene_publishes() -> None:
    stored = LENGTHS[np.searchsorted(LENGTHS, np.arange(100_000), side="right") - 1]
    assert stored[:41].tolist() == [*range(41)]
    assert [int(stored[length]) for length in (41, 57, 101, 500)] == [40, 56, 96, 472]
    assert stored.tolist() == [byte_length(length) for length in range(100_000)]
    assert all(shorter < longer for shorter, longer in pairwise(LENGTHS.tolist()))


def test_equal_scores_come_by_asin(small: Index) -> None:
    assert [hit.asin for hit in small.search("red")] == ["B000000001", "B000000003"]
    assert [hit.asin for hit in small.search("red", 1)] == ["B000000001"]
    assert [hit.asin for hit in small.search("shoe")] == ["B000000002", "B000000001", "B000000003"]


def test_a_word_twice_in_the_query_counts_twice(small: Index) -> None:
    once, twice = (small.search(query)[0].score for query in ("blue", "blue BLUE"))
    assert twice == 2 * once


def test_documents_without_a_term_count_nowhere(small: Index) -> None:
    """The weight of `blue` is that of one document among three, not four; their mean length is 10 / 3."""
    weight, length = math.log(1 + 2.5 / 1.5), 0.9 * (0.6 + 0.4 * 2 / (10 / 3))
    assert small.search("blue") == [Hit("B000000002", pytest.approx(weight / (1 + length), rel=1e-6))]
    assert len(small) == 4


@pytest.mark.parametrize("query", ["", " ", "the of and", "unknown", "?!", "\x00"])
def test_no_term_no_hits(small: Index, query: str) -> None:
    assert small.search(query) == []


def test_a_search_changes_nothing(small: Index) -> None:
    assert small.search("red shoes laces") == small.search("red shoes laces")


def test_an_index_of_no_documents_finds_nothing(tmp_path: Path) -> None:
    build_index(tmp_path / "index", [])
    assert Index.open(tmp_path / "index").search("red") == []
    build_index(tmp_path / "index", [("A", "the")])
    assert Index.open(tmp_path / "index").search("the red") == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index to damage."""
    build_index(tmp_path / "index", DOCUMENTS)
    return tmp_path / "index"


COLUMNS = ["asins", "lengths", "term_bytes", "term_starts", "posting_starts", "posting_documents", "frequencies"]


@pytest.mark.parametrize("name", [*(f"{column}.npy" for column in COLUMNS), "header.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off", "empty", "other"])
def test_a_damaged_file_is_named(path: Path, name: str, damage: str) -> None:
    file = path / name
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes({"cut off": data[:-1], "empty": b"", "other": b"{}" + data}[damage])
    with pytest.raises(DataError, match=rf"{name}.*build the search index"):
        Index.open(path)


@pytest.mark.parametrize("name", COLUMNS[:5])
def test_a_changed_byte_is_noticed(path: Path, name: str) -> None:
    file = path / f"{name}.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}.npy: damaged; remove {path} and build the search index again"):
        Index.open(path)


def test_postings_of_no_document_are_noticed_in_a_search(path: Path) -> None:
    file = path / "posting_documents.npy"
    np.save(file, np.full_like(np.load(file), 4))
    with pytest.raises(DataError, match=f"{path}: damaged postings; remove it and build the search index again"):
        Index.open(path).search("shoes")


def test_another_version_is_refused(path: Path) -> None:
    header = json.loads((path / "header.json").read_text())
    (path / "header.json").write_text(json.dumps({"version": 2, "news": 1}))
    with pytest.raises(DataError, match=f"version 2, this bitroute reads 1; remove {path} and build"):
        Index.open(path)
    (path / "header.json").write_text(json.dumps(header | {"surprise": 1}))
    with pytest.raises(DataError, match=r"header\.json: damaged"):
        Index.open(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere.*build the search index first"):
        Index.open(tmp_path / "nowhere")
