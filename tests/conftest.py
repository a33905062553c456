"""What several packages' tests need: a tiny model on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.checkpoint import write_checkpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory; tests must not write into it."""
    return write_checkpoint(tmp_path_factory.mktemp("model"))
