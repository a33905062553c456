"""A record's fields as a table's columns: a fact is declared once, as a field. It knows types, and no meanings.

    class Visit(Record, kw_only=True):
        id: Annotated[int, Fact("Number.", key=True)]
        words: Annotated[tuple[str, ...] | None, Fact("What was said.")] = None

Texts, numbers and truths are columns as they are, bytes are hexadecimal, anything else is JSON; None is NULL.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, MetaData, RowMapping, Table, Text
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

Page = Literal["steps", "episode"]

_PLAIN: Final[dict[Any, type[TypeEngine[Any]]]] = {str: Text, int: Integer, float: Float, bool: Boolean}


@dataclass(frozen=True, slots=True)
class Fact:
    """What a field means, and where else it appears.

    `page` is where the admin page's JSON has it: in every list of steps, or where one episode is looked at. `key`: it is of the
    primary key. `large`: a number of 64 bits. `made`: the database gives it when the row is inserted.
    """

    meaning: str
    page: Page | None = None
    key: bool = False
    large: bool = False
    made: bool = False


class Record(msgspec.Struct, frozen=True, gc=False):
    """A row: its fields are annotated with a `Fact` each.

    The garbage collector does not look at records, of which thousands may wait: they hold values, and so are in no circle.
    """

    @classmethod
    def of_row(cls, row: RowMapping) -> Self:
        """The record in a row as it was read."""
        values: dict[str, Any] = {**row}
        for name, decode in _codec(cls).decoders:
            if values[name] is not None:
                values[name] = decode(values[name])
        return cls(**values)

    def row(self) -> dict[str, Any]:
        """The row to be inserted."""
        codec = _codec(type(self))
        values = msgspec.structs.asdict(self)
        for name in codec.made:
            del values[name]
        for name, encode in codec.encoders:
            if values[name] is not None:
                values[name] = encode(values[name])
        return values

    def plain(self) -> dict[str, Any]:
        """What JSON can write: its values by name, bytes hexadecimal."""
        return {name: v.hex() if isinstance(v, bytes) else v for name, v in msgspec.structs.asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Field:
    """A field as declared: the type of what is not None, whether it may be None, and its fact."""

    name: str
    type: Any
    nullable: bool
    fact: Fact

    @property
    def plain(self) -> bool:
        """Whether its values are a column's as they are."""
        return self.type in _PLAIN

    @property
    def column(self) -> Column[Any]:
        """A new column for it."""
        kind: TypeEngine[Any] = _PLAIN.get(self.type, Text)()
        if self.fact.large:
            kind = BigInteger().with_variant(Integer, "sqlite") if self.fact.made else BigInteger()
        return Column(self.name, kind, primary_key=self.fact.key, nullable=self.nullable)


@functools.cache
def fields_of(record: type[Record]) -> tuple[Field, ...]:
    """The fields of a record. Raises TypeError for one that is not annotated with a fact."""
    hints = get_type_hints(record, include_extras=True)
    return tuple(_field(name, hints[name]) for name in record.__struct_fields__)


def _field(name: str, hint: Any) -> Field:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{name} has no Fact")
    type_, fact = get_args(hint)
    nullable = get_origin(type_) in (Union, types.UnionType) and types.NoneType in get_args(type_)
    if nullable:
        (type_,) = (member for member in get_args(type_) if member is not types.NoneType)
    return Field(name, type_, nullable, fact)


def table(name: str, record: type[Record], metadata: MetaData, *more: SchemaItem) -> Table:
    """The table of a record; `more` are its indexes."""
    return Table(name, metadata, *(field.column for field in fields_of(record)), *more)


def shown(record: type[Record], page: Page) -> Sequence[Field]:
    """The fields that the page's JSON has there, in their order."""
    return [field for field in fields_of(record) if field.fact.page == page]


@dataclass(frozen=True, slots=True)
class _Codec:
    """How a record becomes a row and back: what the database makes, and what to do with values that are not plain."""

    made: tuple[str, ...]
    encoders: tuple[tuple[str, Callable[[Any], str]], ...]
    decoders: tuple[tuple[str, Callable[[str], Any]], ...]


@functools.cache
def _codec(record: type[Record]) -> _Codec:
    fields = fields_of(record)
    coded = [field for field in fields if not field.plain]
    return _Codec(
        tuple(field.name for field in fields if field.fact.made),
        tuple((field.name, bytes.hex if field.type is bytes else _json) for field in coded),
        tuple((f.name, bytes.fromhex if f.type is bytes else msgspec.json.Decoder(f.type).decode) for f in coded),
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
