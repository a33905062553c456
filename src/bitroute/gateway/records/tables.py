"""The database's tables, made of the records, and how it is opened and brought up to date. It knows not who writes or reads.

SQLite runs in WAL mode with `synchronous=NORMAL`: a committed row is with the operating system and survives `kill -9` of the
gateway; a loss of power can take the last commits with it (those that no checkpoint has synced), but leaves a sound database.
PostgreSQL keeps its own promise: a committed row survives both. Times are Unix seconds; digests are hexadecimal; JSON is text.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    create_engine,
    delete,
    event,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.schema import CreateIndex, CreateTable

from bitroute.errors import ConfigError, DataError
from bitroute.gateway.records.facts import table
from bitroute.gateway.records.step import EpisodeRecord, StepRecord

# What brings a database of the version before to this one, in order. SQL that both kinds of database read; once released it
# stays as it is. New tables need no entry.
MIGRATIONS: Final[Mapping[int, tuple[str, ...]]] = {
    2: ("ALTER TABLE steps ADD COLUMN floor TEXT",),
}
VERSION: Final = max(MIGRATIONS)
SETTING: Final = ("records", "url")  # what is at fault where the URL is
BUSY: Final = 5.0  # seconds that SQLite waits for another process's transaction
_LOCK: Final = 7_026_202_711  # PostgreSQL's advisory lock: one gateway at a time makes or changes the tables

metadata = MetaData()

schema = Table("schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

episodes = table(
    "episodes",
    EpisodeRecord,
    metadata,
    Index("episodes_by_session", "scope", "session", "started"),
    Index("episodes_by_start", "started"),
)

steps = table(
    "steps",
    StepRecord,
    metadata,
    Index("steps_by_episode", "scope", "episode", "step"),
    Index("steps_by_time", "at"),
)


def open_database(url: str, *, create: bool = True) -> Engine:
    """The database at `url`, its tables made where they are missing (unless `create` is False: then it must be there).

    One of an older version is brought up to date, in one transaction. Safe when several processes do it at once. Raises
    ConfigError for a URL that cannot be used, DataError for a database that cannot be opened or is of a newer version.
    """
    address = database_url(url)
    shown = address.render_as_string(hide_password=True)
    sqlite = address.get_backend_name() == "sqlite"
    if sqlite and not create and not Path(address.database or "").exists():
        raise DataError(f"{address.database}: no such database; give the gateway's records.url by --records")
    options: dict[str, Any] = {"connect_args": {"connect_timeout": 10}}
    if sqlite:
        options = {"connect_args": {"timeout": BUSY}, "paramstyle": "named"}  # rows go by name in both databases
    try:
        engine = create_engine(address, **options)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{shown}: needs {error.name}, pip install 'bitroute[postgresql]'") from error
    if sqlite:
        if create:
            with suppress(OSError):  # what is wrong is said below
                Path(address.database or "").touch(mode=0o600)  # others on this machine have no business with what was said
        event.listen(engine, "connect", _tune)
    try:
        with engine.begin() as connection:
            version = _version(connection, shown, create)
            # Others must not see the tables appear one by one, nor change them at the same time.
            if sqlite and version != VERSION:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif not sqlite and (create or version != VERSION):
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if version != VERSION:
                _update(connection, _version(connection, shown, create))  # unless somebody was faster
            if create:
                _make(connection)
    except DBAPIError as error:
        engine.dispose()
        raise DataError(f"{shown}: cannot be opened as a database of records ({_one_line(error)})") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def database_url(url: str) -> URL:
    """`url`, read. Raises ConfigError when it is not one of a database that can be used."""
    try:
        address = make_url(url)
        backend = address.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # a port that is none is a ValueError
        raise ConfigError("the URL is none of a database; want sqlite:///FILE or postgresql://...").of(*SETTING) from error
    if backend == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError(f"{backend} is not supported; want sqlite:///FILE or postgresql://...").of(*SETTING)
    if address.database in (None, "", ":memory:"):
        raise ConfigError(f"{url} is a database in memory; want sqlite:///FILE").of(*SETTING)
    return address


def _tune(connection: Any, _: Any) -> None:
    """SQLite's settings, for each new connection."""
    cursor = connection.cursor()
    deadline = time.monotonic() + BUSY
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Another process makes the file: for this one lock SQLite does not wait by itself.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _version(connection: Connection, shown: str, create: bool) -> int | None:
    """The version of the tables; None where there are none yet, which `create` says is all right."""
    names = set(inspect(connection).get_table_names())
    if schema.name not in names:
        if episodes.name in names or not create:
            raise DataError(f"{shown}: holds no records of a gateway; give the gateway's records.url")
        return None
    version = max(connection.execute(select(schema.c.version)).scalars(), default=None)
    if version is not None and version > VERSION:
        raise DataError(
            f"{shown}: holds records of version {version}, and this bitroute knows {VERSION}; "
            "upgrade it, or use another records.url"
        )
    return version


def _update(connection: Connection, version: int | None) -> None:
    """Make new tables, or bring older ones up to date."""
    if version is None:
        _make(connection)
    else:
        for number in range(version + 1, VERSION + 1):
            for statement in MIGRATIONS[number]:
                connection.exec_driver_sql(statement)
    connection.execute(delete(schema))
    connection.execute(insert(schema), {"version": VERSION})


def _make(connection: Connection) -> None:
    """Make the tables and indexes that are missing."""
    for table_ in metadata.sorted_tables:
        connection.execute(CreateTable(table_, if_not_exists=True))
        for index in sorted(table_.indexes, key=lambda i: str(i.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))


def _one_line(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())
