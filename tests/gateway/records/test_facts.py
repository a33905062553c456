"""Records as tables: which columns fields become, and that every value survives the way through a database."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from sqlalchemy import MetaData, create_engine, insert, select

from bitroute.gateway.records.facts import Fact, Record, fields_of, shown, table
from bitroute.gateway.records.step import EpisodeRecord, StepRecord


class Part(msgspec.Struct, frozen=True):
    words: tuple[str, ...]


class Visit(Record, frozen=True, kw_only=True):
    id: Annotated[int, Fact("Number.", key=True, large=True, made=True)] = 0
    name: Annotated[str, Fact("Name.", page="steps")]
    good: Annotated[bool, Fact("Whether it was.")]
    long: Annotated[float | None, Fact("How long.", page="episode")] = None
    large: Annotated[int | None, Fact("A large number.", large=True)] = None
    digest: Annotated[bytes | None, Fact("Bytes.", page="steps")] = None
    parts: Annotated[tuple[Part, ...] | None, Fact("Parts.")] = None


def test_fields_are_columns_of_their_type() -> None:
    made = table("visits", Visit, MetaData())
    assert [(c.name, str(c.type), c.nullable, c.primary_key) for c in made.columns] == [
        ("id", "BIGINT", False, True),
        ("name", "TEXT", False, False),
        ("good", "BOOLEAN", False, False),
        ("long", "FLOAT", True, False),
        ("large", "BIGINT", True, False),
        ("digest", "TEXT", True, False),
        ("parts", "TEXT", True, False),
    ]
    assert [field.name for field in shown(Visit, "steps")] == ["name", "digest"]
    assert [field.name for field in shown(Visit, "episode")] == ["long"]


def test_a_record_comes_back_as_it_went() -> None:
    metadata = MetaData()
    made = table("visits", Visit, metadata)
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    whole = Visit(name="a", good=True, long=0.5, large=2**60, digest=b"\0\xff", parts=(Part(("x", "ü")), Part(())))
    empty = Visit(name="", good=False)
    assert whole.row()["digest"] == "00ff" and whole.row()["parts"] == '[{"words":["x","ü"]},{"words":[]}]'
    assert "id" not in whole.row()
    assert whole.plain()["digest"] == "00ff" and whole.plain()["parts"] == whole.parts
    with engine.begin() as connection:
        connection.execute(insert(made), [whole.row(), empty.row()])
        found = [Visit.of_row(row) for row in connection.execute(select(made).order_by(made.c.id)).mappings()]
    assert found == [msgspec.structs.replace(whole, id=1), msgspec.structs.replace(empty, id=2)]
    engine.dispose()


def test_a_field_without_a_fact_is_refused() -> None:
    class Bare(Record):
        name: str

    with pytest.raises(TypeError, match="name has no Fact"):
        fields_of(Bare)


@pytest.mark.parametrize("record", [StepRecord, EpisodeRecord])
def test_what_was_added_may_be_missing_in_older_rows(record: type[Record]) -> None:
    """A column that a migration adds is NULL in the rows before it."""
    first = {"steps": 43, "episodes": 18}[{StepRecord: "steps", EpisodeRecord: "episodes"}[record]]  # of version 1
    for field in fields_of(record)[first:]:
        assert field.nullable, field.name
