"""The database's tables and how it is opened. It knows columns and the two kinds of database, nothing of who writes or reads.

SQLite runs in WAL mode with `synchronous=NORMAL`: a committed row is with the operating system and survives `kill -9` of the
gateway; a loss of power can take the last commits with it (those that no checkpoint has synced), but leaves a sound database.
PostgreSQL keeps its own promise: a committed row survives both. Times are Unix seconds; digests are hexadecimal; JSON is text.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.schema import CreateIndex, CreateTable

from bitroute.errors import ConfigError, DataError

VERSION: Final = 1
BUSY: Final = 5.0  # seconds that SQLite waits for another process's transaction
_LOCK: Final = 7_026_202_711  # PostgreSQL's advisory lock: one gateway at a time makes the tables

metadata = MetaData()

schema = Table("schema", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

episodes = Table(
    "episodes",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("session", Text, nullable=False),
    Column("explicit", Boolean, nullable=False),
    Column("source", Text, nullable=False),  # where the session's id came from
    Column("parent", Text),  # the episode that this one branched from ...
    Column("parent_step", Integer),  # ... and the number of steps that both share
    Column("first", Integer, nullable=False),  # number of its first step that was recorded
    Column("history", Text),  # JSON, with stored content: the steps before that one as the client told them
    Column("policy", Text),
    Column("arm", Text, nullable=False),
    Column("ladder", Text, nullable=False),  # names, cheapest first, with commas between
    Column("seed", BigInteger, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),  # when its outcome was reported
    Column("success", Boolean),
    Column("reward", Float),
    Column("kind", Text),
    Index("episodes_by_session", "scope", "session", "started"),
    Index("episodes_by_start", "started"),
)

steps = Table(
    "steps",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("scope", Text, nullable=False),
    Column("episode", Text, nullable=False),
    Column("step", Integer, nullable=False),  # one step may have several rows: each try is a request
    Column("at", Float, nullable=False),  # when the request arrived
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),  # as the client asked for
    Column("stream", Boolean, nullable=False),
    Column("tool", Text),
    Column("retry", Boolean, nullable=False),  # it took over the decision of an earlier try
    Column("variant", Text),  # that answered
    Column("decision", Text),  # that was to answer; NULL: the client named the variant
    Column("intended", Text),  # that the router chose
    Column("score", Float),
    Column("threshold", Float),
    Column("propensity", Float),
    Column("policy", Text),
    Column("arm", Text),
    Column("budget", Float),
    Column("flipped", Boolean),
    Column("reason", Text),
    Column("source", Text, nullable=False),
    Column("prefill", BigInteger),
    Column("cached", BigInteger),
    Column("decode", BigInteger),
    Column("cost", Float, nullable=False),
    Column("router", Float),  # seconds, as all that follow
    Column("overhead", Float, nullable=False),
    Column("first_token", Float),
    Column("total", Float, nullable=False),
    Column("status", Integer, nullable=False),
    Column("ended", Text, nullable=False),
    Column("attempts", Text, nullable=False),  # JSON
    Column("digest", Text, nullable=False),  # of the request's body
    Column("chain", Text, nullable=False),  # of its history (gateway.sessions)
    Column("turns", Integer, nullable=False),  # number of messages in it
    Column("newest", Text, nullable=False),  # digests of the messages since the last answer, with commas between
    Column("answer", Text),  # digest of the answer as a history will repeat it
    Column("features", Text),  # JSON, routers.signals.FEATURES
    Column("signals", Text),  # JSON, episode.Signals
    Column("message", Text),  # with stored content: what the agent was told ...
    Column("action", Text),  # ... and what it answered
    Index("steps_by_episode", "scope", "episode", "step"),
    Index("steps_by_time", "at"),
)


def open_database(url: str, *, create: bool = True) -> Engine:
    """The database at `url`, its tables made where they are missing (unless `create` is False: then it must be there).

    Safe when several processes do it at once. Raises ConfigError for a URL that cannot be used, DataError for a database that
    cannot be opened or holds records of another version.
    """
    address = _address(url)
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
            if create:
                if not sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                elif not inspect(connection).has_table(schema.name):
                    connection.exec_driver_sql("BEGIN IMMEDIATE")  # else others would see the tables appear one by one
                _refuse_other_versions(connection, shown)
                _make(connection)
            else:
                _refuse_other_versions(connection, shown, empty=False)
    except DBAPIError as error:
        engine.dispose()
        raise DataError(f"{shown}: cannot be opened as a database of records ({_one_line(error)})") from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _address(url: str) -> URL:
    try:
        address = make_url(url)
        backend = address.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # a port that is none is a ValueError
        raise ConfigError("records: the URL is none of a database; want sqlite:///FILE or postgresql://...") from error
    if backend == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError(f"records: {backend} is not supported; want sqlite:///FILE or postgresql://...")
    if address.database in (None, "", ":memory:"):
        raise ConfigError(f"records: {url} is a database in memory; want sqlite:///FILE")
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


def _refuse_other_versions(connection: Any, shown: str, *, empty: bool = True) -> None:
    names = set(inspect(connection).get_table_names())
    if "schema" not in names:
        if "episodes" in names or not empty:
            raise DataError(f"{shown}: holds no records of a gateway; give the gateway's records.url")
        return
    versions = list(connection.execute(select(schema.c.version)).scalars())
    if versions and versions != [VERSION]:
        raise DataError(
            f"{shown}: holds records of version {max(versions)}, this bitroute writes {VERSION}; use another records.url"
        )


def _make(connection: Any) -> None:
    for table in metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda i: str(i.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))
    connection.execute(text("INSERT INTO schema (version) VALUES (:version) ON CONFLICT DO NOTHING"), {"version": VERSION})


def _one_line(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())
