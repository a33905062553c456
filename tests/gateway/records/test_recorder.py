"""What is recorded, what is not, and what happens to it when the database or the gateway goes away."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from bitroute.episode import Signals, View
from bitroute.errors import BitrouteError, ConfigError, DataError
from bitroute.gateway.core.values import Attempt, Caller, StepContext, Tokens
from bitroute.gateway.records import tables
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.records.tables import episodes, open_database, steps
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.sessions.store import MemoryStore
from support.traffic import CALLER, Play, call, outcome, recorder, routing, turn, until


def rows(recorder: Recorder, table: Any) -> list[dict[str, Any]]:
    until(lambda: recorder.pending == 0)
    with recorder.engine.connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def test_a_step_is_recorded_with_all_that_is_known_of_it(url: str) -> None:
    kept = recorder(url)
    before = time.time()
    ruled = routing(
        "high",
        score=1.5,
        threshold=0.75,
        propensity=0.3,
        intended="low",
        arm="b",
        budget=0.2,
        flipped=True,
        seconds=0.002,
        features=(1.0, 0.5),
        floor="high",
    )
    played = Play(kept)
    cost = played.step(
        "look",
        "go north",
        ruled,
        signals=Signals((-0.5,), (-0.25,), (0.7,), (0.1,)),
        attempts=[Attempt("high", "http://a", None, 0.1, "refused"), Attempt("high", "http://b", 200, 0.4)],
    )
    assert cost == 4 + 0.1 * 10 + 2 * 5
    (row,) = rows(kept, steps)
    assert before - 0.5 <= row.pop("at") <= time.time()
    assert json.loads(row.pop("attempts")) == [
        {"variant": "high", "replica": "http://a", "status": None, "seconds": 0.1, "error": "refused"},
        {"variant": "high", "replica": "http://b", "status": 200, "seconds": 0.4, "error": None},
    ]
    assert row == {
        "id": 1,
        "scope": "",
        "episode": "e",
        "step": 0,
        "endpoint": "/v1/chat/completions",
        "model": "auto",
        "stream": False,
        "tool": None,
        "retry": False,
        "variant": "high",
        "decision": "high",
        "intended": "low",
        "score": 1.5,
        "threshold": 0.75,
        "propensity": 0.3,
        "policy": "signals@1",
        "arm": "b",
        "budget": 0.2,
        "flipped": True,
        "reason": "signals",
        "source": "x-session-id",
        "prefill": 10,
        "cached": 20,
        "decode": 5,
        "cost": cost,
        "router": 0.002,
        "overhead": 0.001,
        "first_token": 0.25,
        "total": 0.5,
        "status": 200,
        "ended": "complete",
        "digest": call([turn("user", "look")]).digest.hex(),
        "chain": call([turn("user", "look")]).digest.hex(),
        "turns": 1,
        "newest": turn("user", "look").digest.hex(),
        "answer": turn("assistant", "go north").digest.hex(),
        "features": "[1.0,0.5]",
        "signals": '{"logprobs":[-0.5],"constrained":[-0.25],"entropy":[0.7],"margin":[0.1]}',
        "message": None,
        "action": None,
        "floor": "high",
    }
    kept.close()


def test_an_episode_has_one_row_and_its_outcome_closes_it(url: str) -> None:
    kept = recorder(url)
    played = Play(kept, caller=Caller("key", "task 7", "metadata", explicit=True), parent=("p", 3))
    for message in "abc":
        played.step(message, ruled=routing(policy="dmr@2", arm="new"))
    kept.outcome("key", "e", success=None, reward=0.5)
    kept.outcome("key", "e", success=True, reward=None)
    kept.outcome("another key", "e", success=False, reward=9.0)
    kept.outcome("key", "nobody's", success=False, reward=None)
    (row,) = rows(kept, episodes)
    assert row.pop("started") <= row.pop("ended") <= time.time()
    assert row == {
        "scope": "key",
        "id": "e",
        "session": "task 7",
        "explicit": True,
        "source": "metadata",
        "parent": "p",
        "parent_step": 3,
        "first": 0,
        "history": None,
        "policy": "dmr@2",
        "arm": "new",
        "ladder": "low,high",
        "seed": 7,
        "success": True,
        "reward": 0.5,
        "kind": None,
    }
    assert [r["step"] for r in rows(kept, steps)] == [0, 1, 2]
    kept.close()


def test_an_episode_that_began_before_a_restart_keeps_its_row(tmp_path: Path) -> None:
    for session in ("first", "second"):
        kept = recorder(tmp_path / "r.db")
        Play(kept, caller=Caller("", session, "x-session-id", explicit=True), opened=session == "first").step("a")
        kept.close()
    kept = recorder(tmp_path / "r.db")
    assert [row["session"] for row in rows(kept, episodes)] == ["first"]
    assert len(rows(kept, steps)) == 2
    kept.close()


def test_text_is_stored_only_where_that_is_asked_for(tmp_path: Path) -> None:
    for content in (False, True):
        path = tmp_path / f"{content}.db"
        kept = recorder(path, store_content=content)
        Play(kept).step("a secret question", "a secret answer")
        late = Play(kept, episode="later", messages=["told before"], actions=["done before"], variants=["high"])
        late.step("and then?")
        history = [row["history"] for row in rows(kept, episodes)]
        found = [(row["message"], row["action"]) for row in rows(kept, steps)]
        kept.close()
        stored = b"".join(p.read_bytes() for p in tmp_path.glob(f"{content}.db*"))
        assert (b"secret" in stored) is (b"before" in stored) is content
        assert found == ([("a secret question", "a secret answer"), ("and then?", "answer")] if content else [(None, None)] * 2)
        assert history == ([None, '[["told before"],["done before"],["high"]]'] if content else [None, None])


def test_a_bypass_and_a_failure_are_rows_too(tmp_path: Path) -> None:
    kept = recorder(tmp_path / "r.db")
    played = Play(kept)
    assert played.step("a", None, tokens=None) == 0.0
    cost = played.step("a", retried=routing())
    kept.step(
        CALLER,
        call([turn("user", "x")]),
        StepContext("s", "", "single", 0, View(("x",)), 1, True),
        None,
        outcome(variant="high", tokens=None),
    )
    failed, again, bypass = rows(kept, steps)
    assert (failed["status"], failed["ended"], failed["answer"], failed["prefill"], failed["retry"]) == (
        502,
        "error",
        None,
        None,
        False,
    )
    assert (again["status"], again["step"], again["retry"], again["cost"]) == (200, 0, True, cost)
    assert (bypass["decision"], bypass["propensity"], bypass["variant"], bypass["cost"]) == (None, None, "high", 4.0)
    kept.close()


def test_what_no_database_can_hold_is_made_storable(url: str) -> None:
    kept = recorder(url, store_content=True)
    Play(kept).step(
        "nul \0, half \ud800", "ok", tokens=Tokens(10**30, 0, 1), ruled=routing(score=float("inf"), threshold=float("-inf"))
    )
    kept.outcome("", "e", None, float("nan"))
    (row,) = rows(kept, steps)
    assert (row["message"], row["prefill"], row["score"], row["threshold"]) == ("nul \ufffd, half ?", 2**63 - 1, None, None)
    assert kept.dropped == kept.failures == 0
    kept.close()


# A database that does not do as it should


def test_rows_wait_while_the_database_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tables, "BUSY", 0.01)
    kept = recorder(tmp_path / "r.db")
    other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING):
        played = Play(kept)
        played.step("a")
        until(lambda: kept.failures >= 3)
        played.step("b")
        assert (kept.pending, kept.dropped) == (3, 0)  # an episode and two steps
        other.execute("COMMIT")
        assert [row["step"] for row in rows(kept, steps)] == [0, 1]
    assert [r.message for r in caplog.records] == [
        "records: the database does not take rows, they wait (database is locked)",
        "records: the database takes rows again",
    ]
    kept.close()
    other.close()


def test_rows_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    kept = recorder(tmp_path / "r.db", store_content=True)
    limit("PRAGMA max_page_count=1", kept)
    Play(kept).step("x" * 100_000)
    until(lambda: kept.failures > 0)
    assert kept.pending == 2
    limit("PRAGMA max_page_count=100000", kept)
    assert len(rows(kept, steps)) == 1
    kept.close()


def limit(pragma: str, kept: Recorder) -> None:
    """Settings of a connection: the writer's is the only one in the pool."""
    with kept.engine.connect() as connection:
        connection.execute(text(pragma))


def test_a_full_queue_drops_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BUSY", 0.01)
    kept = recorder(tmp_path / "r.db", room=4, patience=0.0)
    other = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    played = Play(kept)
    for number in range(10):
        played.step(str(number))
    Play(kept, episode="one more").step("a")  # neither the episode's row nor the step's
    kept.outcome("", "e", True, None)
    assert (kept.pending, kept.dropped) == (4, 7 + 2 + 1)
    kept.close()  # in vain: what waits is lost as well
    assert (kept.pending, kept.dropped) == (4, 14)
    other.close()


def test_a_row_that_is_refused_does_not_hold_up_the_others(url: str, caplog: pytest.LogCaptureFixture) -> None:
    kept = recorder(url)
    played = Play(kept)
    played.step("a")
    played.step("b", ended=None)
    played.step("c")
    assert [row["turns"] for row in rows(kept, steps)] == [1, 5]
    assert (kept.dropped, kept.failures) == (1, 1)
    assert [r.message for r in caplog.records] == ["records: the database refuses a row of steps (IntegrityError)"]
    kept.close()


CHILD = """
import sys, time
from pathlib import Path
from support.traffic import Play, recorder
kept = recorder(Path(sys.argv[1]), flush=float(sys.argv[2]))
played = Play(kept)
for line in sys.stdin:
    played.step(line)
    print(time.time(), flush=True)
"""


def test_nothing_older_than_the_flush_interval_is_lost_by_kill_9(tmp_path: Path) -> None:
    path, flush = tmp_path / "r.db", 0.4
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(flush)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert child.stdin
    assert child.stdout
    told: list[float] = []
    while not told or told[-1] - told[0] < 3 * flush:
        child.stdin.write("x\n")
        child.stdin.flush()
        told.append(float(child.stdout.readline()))
    killed = time.time()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    kept = recorder(path)
    found = len(rows(kept, steps))
    assert sum(t < killed - flush for t in told) <= found <= len(told)
    assert found > 20
    kept.close()


# Opening


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("sqlite://", ConfigError, "in memory"),
        ("mysql://host/db", ConfigError, "mysql is not supported"),
        ("nonsense", ConfigError, "none of a database"),
        ("postgresql://u:secret@h:port/db", ConfigError, "none of a database"),
        ("sqlite:///{tmp}/missing/r.db", DataError, "unable to open"),
        ("sqlite:///{tmp}/text.db", DataError, "not a database"),
        ("sqlite:///{tmp}/other.db", DataError, "records of version 99"),
        ("postgresql://user:secret@127.0.0.1:1/db", DataError, "127.0.0.1:1"),
    ],
)
def test_what_cannot_be_opened_is_one_line(tmp_path: Path, address: str, error: type[BitrouteError], message: str) -> None:
    (tmp_path / "text.db").write_text("this is no database, just a text that is long enough to be read as a header")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.executescript("CREATE TABLE schema (version INTEGER PRIMARY KEY); INSERT INTO schema VALUES (99);")
    other.close()
    with pytest.raises(error, match=message) as found:
        recorder(address.format(tmp=tmp_path))
    assert "\n" not in str(found.value)
    assert "secret" not in str(found.value)


def test_reading_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such database"):
        open_database(f"sqlite:///{tmp_path / 'r.db'}", create=False)
    assert list(tmp_path.iterdir()) == []
    sqlite3.connect(tmp_path / "empty.db").close()
    with pytest.raises(DataError, match="no records"):
        open_database(f"sqlite:///{tmp_path / 'empty.db'}", create=False)


def test_several_open_a_new_database_at_once(url: str) -> None:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(open_database(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for engine in found:
        engine.dispose()


# What sessions remember


def test_a_session_goes_on_after_a_crash(url: str) -> None:
    async def episode() -> None:
        kept = recorder(url)
        store = Sessions(MemoryStore(10, 60.0), kept.restore)
        history = [turn("system", "s"), turn("user", "go")]
        names, seeds = set(), set()
        for number in range(6):
            if number in (2, 4):  # the gateway is killed, or forgets
                until(lambda: kept.pending == 0)
                store = Sessions(MemoryStore(10, 60.0), kept.restore)
            context = await store.enter(CALLER, call(history))
            assert (context.step, context.opened, context.view.variants) == (
                number,
                number == 0,
                ("high", "low") * (number // 2) + ("high",) * (number % 2),
            )
            names.add(context.episode)
            seeds.add(context.seed)
            variant = ("high", "low")[number % 2]
            ruled, done = routing(variant), outcome(f"answer {number}", variant)
            await store.leave(context, ruled, done)
            kept.step(CALLER, call(history), context, ruled, done)
            assert done.answer
            history = [*history, done.answer, turn("user", f"then {number}")]
        assert len(names) == len(seeds) == 1
        until(lambda: kept.pending == 0)
        # A retry stands where it stood; a branch begins a new episode with its parent's past.
        store = Sessions(MemoryStore(10, 60.0), kept.restore)
        again = await store.enter(Caller("", "s", "x-session-id", explicit=True, retry=True), call(history[:-2]))
        assert (again.step, again.episode, again.opened) == (5, *names, False)
        assert again.retried
        assert (again.retried.decision, again.retried.policy) == (routing("low").decision, "signals@1")
        branch = await store.enter(CALLER, call([*history[:6], turn("assistant", "answer 2"), turn("user", "something else")]))
        assert (branch.parent, branch.step, branch.opened) == ((*names, 3), 3, True)
        assert branch.view.variants == ("high", "low", "high")
        # Whose outcome was reported is not continued.
        kept.outcome("", *names, True, None)
        until(lambda: kept.pending == 0)
        store = Sessions(MemoryStore(10, 60.0), kept.restore)
        anew = await store.enter(CALLER, call(history))
        assert anew.opened
        assert {anew.episode}.isdisjoint(names)
        assert await kept.restore("", "another session") is None
        kept.close()

    asyncio.run(episode())


def test_an_agent_of_one_fresh_message_a_step_goes_on_after_a_crash(tmp_path: Path) -> None:
    async def episode() -> None:
        kept = recorder(tmp_path / "r.db", store_content=True)
        for number in range(4):
            store = Sessions(MemoryStore(10, 60.0), kept.restore)
            caller = Caller("", "s", "x-session-id", explicit=True, step=number)
            request = call([turn("user", f"seen {number}")])
            context = await store.enter(caller, request)
            assert context.step == number
            assert context.view.messages == tuple(f"seen {i}" for i in range(number + 1))
            assert context.view.actions == tuple(f"did {i}" for i in range(number))
            kept.step(caller, request, context, routing(), outcome(f"did {number}"))
            until(lambda: kept.pending == 0)
        kept.close()

    asyncio.run(episode())


def test_others_on_the_machine_cannot_read_what_was_said(tmp_path: Path) -> None:
    kept = recorder(tmp_path / "r.db")
    Play(kept).step("a")
    until(lambda: kept.pending == 0)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("r.db", "r.db-wal", "r.db-shm"), 0o600)
    kept.close()


def test_an_outcome_that_comes_before_its_episodes_row_is_kept(tmp_path: Path) -> None:
    kept = recorder(tmp_path / "r.db")
    kept.outcome("", "e", success=True, reward=None)
    kept.outcome("", "e", success=None, reward=0.5)
    until(lambda: kept.pending == 0)
    Play(kept).step("a")
    (row,) = rows(kept, episodes)
    assert (row["success"], row["reward"]) == (True, 0.5)
    kept.close()


def test_a_database_that_hangs_holds_no_request_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, free = recorder(tmp_path / "r.db"), threading.Event()
    Play(kept).step("a")
    until(lambda: kept.pending == 0)
    monkeypatch.setattr("bitroute.gateway.records.recorder.LOOKUP", 0.01)
    monkeypatch.setattr("bitroute.gateway.records.recorder.restore", lambda *_: free.wait(20))

    async def lookup() -> None:
        found = await kept.restore(CALLER.scope, CALLER.session)
        free.set()
        assert found is None

    asyncio.run(lookup())
    assert kept.failures == 1
    kept.close()


def test_a_session_that_is_new_is_not_looked_for_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = recorder(tmp_path / "r.db")
    monkeypatch.setattr("bitroute.gateway.records.recorder.restore", lambda *_: pytest.fail("it was looked for"))
    assert asyncio.run(kept.restore("", "new")) is None
    assert asyncio.run(kept.restore("", "s' OR 1=1 --")) is None
    kept.close()


def test_a_database_that_cannot_be_asked_remembers_nothing(tmp_path: Path) -> None:
    kept = recorder(tmp_path / "r.db")
    with kept.engine.begin() as connection:
        connection.execute(text("DROP TABLE steps"))
        connection.execute(text("ALTER TABLE episodes RENAME TO gone"))
    assert asyncio.run(kept.restore("", "s")) is None
    assert kept.failures == 1
    kept.close()
