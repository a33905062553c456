"""The small catalogue's documents and what Lucene answered over them, where these files are to be had."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from bitroute.envs.webshop.search.analysis import document_text

DATA = Path(__file__).parents[5] / "shared" / "data" / "webshop"


def _data(name: str) -> Path:
    if not (DATA / name).is_file():
        pytest.skip(f"no WebShop data: {name} is not in ../shared/data/webshop")
    return DATA / name


@pytest.fixture(scope="session")
def catalogue() -> list[tuple[str, str]]:
    """ASIN and document text of the 1,000 products, in order. Only what the text needs is read here."""
    documents: dict[str, str] = {}
    for row in json.loads(_data("items_shuffle_1000.json").read_text()):
        asin = row["asin"]
        if asin != "nan" and len(asin) <= 10 and asin not in documents:
            bullets = row["small_description"]
            options = {
                name.lower(): [value["value"].strip().replace("/", " | ").lower() for value in values]
                for name, values in (row["customization_options"] or {}).items()
                if values is not None
            }
            first = bullets[0] if isinstance(bullets, list) else bullets
            documents[asin] = document_text(row["name"], row["full_description"], first, options)
    return list(documents.items())


@pytest.fixture(scope="session")
def lucene() -> dict[str, list[str]]:
    """Queries, and the up to 50 ASINs that Lucene found, in its order."""
    with lzma.open(_data("upstream_search_top50.json.xz")) as file:
        answers: dict[str, list[str]] = json.load(file)["queries"]
    return answers
