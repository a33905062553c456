"""What tests of the records share: a new database of each kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitroute.gateway.records import tables
from bitroute.gateway.records.tables import open_database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'records.db'}"
        return
    server = os.environ.get("BITROUTE_TEST_POSTGRESQL")
    if not server:
        pytest.skip("no PostgreSQL server: set BITROUTE_TEST_POSTGRESQL to the URL of an empty database")
    yield server
    engine = open_database(server)
    tables.metadata.drop_all(engine)
    engine.dispose()
