"""The guide to WebShop is followed to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.pages import follow

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "webshop.md"


@pytest.mark.slow
def test_the_example_prints_what_the_page_shows(tmp_path: Path) -> None:
    (printed,) = follow(GUIDE, tmp_path)
    assert printed
    assert printed in GUIDE.read_text()
