"""Databases of other versions: what an older gateway wrote is brought up to date, and goes on; a newer one is refused.

`fixtures/gateway/records-0.1.db` was written by the gateway of 0.1.0 (tables of version 1); beside it is what that exported and
showed of it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import Engine, inspect, select, text

from bitroute.cli.main import main
from bitroute.cost import CostModel
from bitroute.errors import DataError
from bitroute.gateway.auth.keys import keys
from bitroute.gateway.records import tables
from bitroute.gateway.records.evidence import gather
from bitroute.gateway.records.export import export_records
from bitroute.gateway.records.history import History
from bitroute.gateway.records.reading import Filter
from bitroute.gateway.records.tables import VERSION, episodes, open_database, schema, steps
from bitroute.store.traces import read_traces
from support.gateway import gateway_config, running
from support.traffic import CALLER, Play, recorder, routing, until
from support.upstream import ScriptedUpstream, answer

FIXTURES = Path(__file__).parents[2] / "fixtures" / "gateway"
KEY = "br_etovcl9l_200gDWDALGAiY_WvLyW6KDbYaterHdjYbyMKJlWUaGA"  # of the second session in the file
SCOPE = KEY[3:11]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the database that version 0.1 wrote."""
    return Path(shutil.copy(FIXTURES / "records-0.1.db", tmp_path / "records.db"))


def at(path: Path) -> str:
    return f"sqlite:///{path}"


def columns(engine: Engine) -> dict[str, dict[str, tuple[str, bool, bool]]]:
    """Type, whether it may be NULL, and whether it is of the primary key, by table and column."""
    found: dict[str, dict[str, tuple[str, bool, bool]]] = {}
    for name in (table.name for table in tables.metadata.sorted_tables):
        key = inspect(engine).get_pk_constraint(name)["constrained_columns"]
        found[name] = {c["name"]: (str(c["type"]), c["nullable"], c["name"] in key) for c in inspect(engine).get_columns(name)}
    return found


def count(engine: Engine, table: Any) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(table)).all())


def versions(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT version FROM schema")]
    finally:
        connection.close()


# Bringing up to date


@pytest.mark.parametrize("create", [True, False])
def test_an_older_database_becomes_what_a_new_one_is(old: Path, tmp_path: Path, create: bool) -> None:
    assert versions(old) == [1]
    engine, new = open_database(at(old), create=create), open_database(at(tmp_path / "new.db"))
    assert columns(engine) == columns(new)
    assert versions(old) == versions(tmp_path / "new.db") == [VERSION]
    assert (count(engine, episodes), count(engine, steps), count(engine, keys)) == (13, 30, 1)
    again = open_database(at(old), create=create)
    assert count(again, steps) == 30 and versions(old) == [VERSION]
    for one in (engine, new, again):
        one.dispose()


def test_every_version_has_a_way_to_the_next() -> None:
    assert list(tables.MIGRATIONS) == list(range(2, VERSION + 1))


def test_what_is_new_and_was_taken_away_comes_back(url: str) -> None:
    """The same in both kinds of database: tables as version 1 had them, then opened."""
    engine = open_database(url)
    fresh = columns(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE steps DROP COLUMN floor"))
        connection.execute(schema.update().values(version=1))
    engine.dispose()
    engine = open_database(url, create=False)
    assert columns(engine) == fresh
    with engine.connect() as connection:
        assert connection.execute(select(schema.c.version)).scalars().all() == [VERSION]
    engine.dispose()


def test_a_change_that_fails_leaves_the_database_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sqlite3.connect(old).execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    monkeypatch.setattr(
        tables, "MIGRATIONS", {2: ("ALTER TABLE steps ADD COLUMN floor TEXT", "ALTER TABLE nowhere ADD x TEXT")}
    )
    with pytest.raises(DataError, match="no such table: nowhere") as error:
        open_database(at(old))
    assert "\n" not in str(error.value)
    assert sqlite3.connect(old).execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall() == before
    assert versions(old) == [1]
    monkeypatch.undo()
    open_database(at(old)).dispose()
    assert versions(old) == [VERSION]


def test_several_open_an_older_database_at_once(old: Path) -> None:
    found: list[Engine] = []
    threads = [threading.Thread(target=lambda: found.append(open_database(at(old)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [count(engine, steps) for engine in found] == [30] * 4 and versions(old) == [VERSION]
    for engine in found:
        engine.dispose()


@pytest.mark.parametrize("create", [True, False])
def test_a_newer_database_is_refused_and_left_alone(old: Path, create: bool) -> None:
    connection = sqlite3.connect(old)
    with connection:
        connection.execute("UPDATE schema SET version = ?", (VERSION + 1,))
    connection.close()
    before = old.read_bytes()
    with pytest.raises(DataError, match=f"records of version {VERSION + 1}, and this bitroute knows {VERSION}") as error:
        open_database(at(old), create=create)
    assert "\n" not in str(error.value)
    assert old.read_bytes()[100:] == before[100:]  # but for the header: WAL mode is written there


# What was written before


def test_traces_and_features_are_exported_as_before(old: Path, tmp_path: Path) -> None:
    engine = open_database(at(old), create=False)
    done = export_records(engine, tmp_path / "traces.jsonl", Filter(scope=SCOPE))
    assert (done.form, done.episodes, done.steps, done.closed) == ("traces", 6, 11, 1)
    assert list(read_traces(tmp_path / "traces.jsonl")) == list(read_traces(FIXTURES / "records-0.1-traces.jsonl"))
    done = export_records(engine, tmp_path / "features.jsonl", Filter(policy="heuristic"))
    assert (done.form, done.episodes, done.steps, done.closed) == ("features", 6, 18, 5)
    assert (tmp_path / "features.jsonl").read_bytes() == (FIXTURES / "records-0.1-features.jsonl").read_bytes()
    engine.dispose()


def test_the_page_shows_what_it_showed(old: Path) -> None:
    open_database(at(old)).dispose()
    ladder = ("low", "high")
    history = History(at(old), ladder, CostModel.steps(ladder))
    before = json.loads((FIXTURES / "records-0.1-page.json").read_text())
    id_ = before["episode"]["id"]
    found = {"steps": history.steps(None, 200), "episodes": history.episodes(None, 50), "episode": history.episode(SCOPE, id_)}
    assert found["episode"] is not None
    assert [list(row) for row in found["steps"]] == [list(row) for row in before["steps"]]  # in this order, too
    new = {name for row in found["episode"]["played"] for name in row} - set(before["episode"]["played"][0])
    assert new == {"floor"}
    for row in found["episode"]["played"]:
        assert row.pop("floor") is None
    assert found == before
    history.close()


def test_flips_and_outcomes_are_evidence_as_before(old: Path) -> None:
    engine = open_database(at(old), create=False)
    found = gather(engine, Filter(policy="heuristic"), target="always:low")
    assert [(p.success, sum(c.flipped for c in p.steps)) for p in found.episodes] == [(n % 2 == 0, 1) for n in range(1, 6)]
    assert found.unknown == ["main"]
    engine.dispose()


def test_the_commands_read_it(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list", "--records", at(old)]) == 0
    assert main(["export", "--records", at(old), "--out", str(tmp_path / "t.jsonl")]) == 0
    said = capsys.readouterr().out
    assert f"{SCOPE}  laptop  since" in said and "6 episodes, 1 with an outcome" in said


# Going on


def test_sessions_go_on_where_the_older_gateway_left_them(old: Path) -> None:
    """A history that continues, an agent of fresh messages, and a new branch of an episode that was closed."""
    headers = {"authorization": f"Bearer {KEY}"}

    async def main() -> None:
        async with (
            ScriptedUpstream(answer("and on")) as upstream,
            running(gateway_config(old.parent, upstream.url, upstream.url)) as gateway,
            aiohttp.ClientSession(headers=headers) as client,
        ):

            async def ask(messages: list[Mapping[str, str]], session: str, **more: str) -> tuple[str, int]:
                body = {"model": "auto", "messages": messages}
                named = {"x-session-id": session, **more}
                async with client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=named) as response:
                    assert response.status == 200
                    return response.headers["x-bitroute-episode"], int(response.headers["x-bitroute-step"])

            history: list[Mapping[str, str]] = [
                {"role": "system", "content": "You are an agent."},
                {"role": "user", "content": "open: observation 0"},
                {"role": "assistant", "content": "wait"},
                {"role": "user", "content": "open: observation 1"},
                {"role": "assistant", "content": "wait"},
                {"role": "user", "content": "open: observation 2"},
            ]
            assert await ask(history, "open") == (episode_of["open"], 2)
            assert await ask([{"role": "user", "content": "fresh 3"}], "stepped", **{"x-step": "3"}) == (
                episode_of["stepped"],
                3,
            )
            url = f"{gateway.url}/v1/episodes/open/outcome"
            async with client.post(url, json={"success": True}) as response:
                assert (await response.json())["episode"] == episode_of["open"]

    connection = sqlite3.connect(old)
    episode_of = dict(connection.execute("SELECT session, id FROM episodes WHERE scope = ?", (SCOPE,)))
    connection.close()
    asyncio.run(main())
    engine = open_database(at(old), create=False)
    with engine.connect() as connection_:
        query = select(episodes.c.session, episodes.c.success).where(episodes.c.session.in_(("open", "stepped")))
        assert sorted(connection_.execute(query).all()) == [("open", True), ("stepped", None)]
        played = connection_.execute(select(steps.c.step).where(steps.c.episode == episode_of["open"]).order_by(steps.c.id))
        assert played.scalars().all() == [0, 1, 2]
    engine.dispose()


def test_a_retry_after_a_restart_keeps_its_floor(tmp_path: Path) -> None:
    """The first fact that was added to older tables: without it another variant below the floor could answer."""
    kept = recorder(tmp_path / "r.db")
    Play(kept).step("a", None, ruled=routing("high", floor="high"))
    Play(kept, "without").step("a", None, ruled=routing("high"))
    until(lambda: kept.pending == 0)
    found = asyncio.run(kept.restore(CALLER.scope, CALLER.session))
    kept.close()
    assert found is not None
    decided = {episode.id: episode.pending and episode.pending.decided for episode in found.episodes}
    assert {name: routed and routed.floor for name, routed in decided.items()} == {"e": "high", "without": None}
