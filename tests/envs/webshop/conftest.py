"""Small catalogues made by hand, and the published one with upstream's sessions where they are to be had."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bitroute.envs.webshop.goals import Goals, synthetic_goals
from bitroute.envs.webshop.products import ATTRIBUTES, HUMAN, ITEMS, Catalogue, CatalogueFiles, load_catalogue

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "webshop"
SESSIONS = PUBLISHED / "upstream_sessions.json.xz"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., CatalogueFiles]:
    """Writes the files of a catalogue: rows, what is said of each ASIN, and what people wrote."""

    def files(
        rows: Sequence[Any] | str, attributes: Mapping[str, Any] | str = "{}", human: Mapping[str, Any] | str | None = None
    ) -> CatalogueFiles:
        for name, content in ((ITEMS[1], rows), (ATTRIBUTES[1], attributes), (HUMAN, human)):
            if content is not None:
                (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return CatalogueFiles.within(tmp_path)

    return files


@pytest.fixture(scope="session")
def published() -> Catalogue:
    """The published catalogue of 1000 products; skips where it is not."""
    if not (PUBLISHED / ITEMS[1]).is_file():
        pytest.skip("no published catalogue: there is no shared data beside this checkout")
    return load_catalogue(CatalogueFiles.within(PUBLISHED))


@pytest.fixture(scope="session")
def published_goals(published: Catalogue) -> Goals:
    """Its goals as upstream draws them after `random.seed(0)`."""
    return synthetic_goals(published, compatible=0)


@pytest.fixture(scope="session")
def upstream() -> Mapping[str, Any]:
    """What upstream's own code answered: prices, goals and sessions; skips where that is not."""
    if not SESSIONS.is_file():
        pytest.skip("no sessions of upstream: there is no shared data beside this checkout")
    with lzma.open(SESSIONS) as file:
        found: Mapping[str, Any] = json.load(file)
    return found
