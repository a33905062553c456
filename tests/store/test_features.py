"""Tables of features: what is written is read back, what is no table is named."""

import re
from pathlib import Path

import pytest

from bitroute.errors import DataError
from bitroute.store.features import FeatureRow, feature_line, is_features, read_features

ROW = FeatureRow(
    "key/e", 3, "p@1", "main", ("low", "high"), (0.1, 2.0), "low", "high", "low", 0.5, False, None, 1.5, True, None
)


def test_rows_survive_the_way_to_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(feature_line(ROW) * 2)
    assert is_features(path)
    assert list(read_features(path)) == [ROW, ROW]


def test_what_is_no_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(feature_line(ROW) + b'{"schema":1,"episode":{}}\n')
    with pytest.raises(DataError, match="line 2: not a row of features"):
        list(read_features(path))
    path.write_bytes(b'{"schema":1,"episode":{}}\n')
    assert not is_features(path)
    for read in (is_features, lambda p: list(read_features(p))):
        with pytest.raises(DataError, match="cannot read"):
            read(tmp_path / "none")


def test_every_field_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "run-directory.md").read_text()
    table = page.partition("| field of `step` | meaning |")[2].partition("\n\n")[0]
    assert [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])] == sorted(
        FeatureRow.__struct_fields__, key=lambda name: table.index(f"`{name}`")
    )
