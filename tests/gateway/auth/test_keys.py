"""Keys at their boundary: headers in, a client or an error out; a database that several gateways share; the commands."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bitroute.cli.main import main
from bitroute.errors import ConfigError, DataError
from bitroute.gateway.auth.keys import Client, Grant, Keys, add_key, list_keys, revoke_key
from bitroute.gateway.auth.limits import DAY
from bitroute.gateway.core.values import GatewayError, Tokens
from bitroute.gateway.records.tables import open_database

NOON = 20_000 * DAY + DAY / 2


class Desk:
    """A database with keys, a clock to turn, and gateways that read them."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'records.db'}"
        self.engine = open_database(self.url)
        self.now = NOON
        self.gateways: list[Keys] = []

    def add(self, **grant: Any) -> str:
        return add_key(self.engine, "test", Grant(**grant), self.now)

    def gateway(self, required: bool = False, refresh: float = 3600.0) -> Keys:
        keys = Keys(self.url, required, clock=lambda: self.now, refresh=refresh)
        keys.start()
        self.gateways.append(keys)
        return keys

    def close(self) -> None:
        for keys in self.gateways:
            keys.close()
        self.engine.dispose()


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    made = Desk(tmp_path)
    yield made
    made.close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def refused(keys: Keys, headers: dict[str, str]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        keys.authenticate(headers)
    return caught.value


# Who it is


def test_without_any_key_everyone_is_welcome(desk: Desk) -> None:
    keys = desk.gateway()
    assert keys.open
    assert keys.authenticate({}) == Client(scope="")
    assert keys.authenticate(bearer("sk-whatever")) == Client(scope="")
    assert keys.admit(Client(), "auto") == {}
    keys.charge(Client(), Tokens(1, 2, 3), 1.0)


def test_required_keys_close_the_door_before_there_is_one(desk: Desk) -> None:
    keys = desk.gateway(required=True)
    assert not keys.open
    error = refused(keys, {})
    assert (error.status, error.kind, error.code) == (401, "invalid_request_error", "invalid_api_key")
    assert error.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_a_key_is_taken_from_either_header(desk: Desk, name: str) -> None:
    key = desk.add(force="high", floor="low", models=("auto*",))
    client = desk.gateway().authenticate(bearer(key) if name == "authorization" else {name: key})
    assert client == Client(scope=key[3:11], name="test", models=("auto*",), force="high", floor="low")


def test_another_scheme_leaves_the_other_header_to_speak(desk: Desk) -> None:
    key = desk.add()
    assert desk.gateway().authenticate({"authorization": "Basic Zm9vOmJhcg==", "x-api-key": key}).scope == key[3:11]


def test_bearer_is_read_in_any_case(desk: Desk) -> None:
    key = desk.add()
    assert desk.gateway().authenticate({"authorization": f"bearer   {key} "}).scope == key[3:11]


def test_the_prefix_alone_opens_nothing(desk: Desk) -> None:
    key = desk.add()
    keys = desk.gateway()
    other = "a" if key[-1] != "a" else "b"
    for wrong in (key[:-1] + other, key[:12] + "A" * 43, key[3:11], key + "x", key[:-1] + "ä", "br_"):
        assert refused(keys, bearer(wrong)).code == "invalid_api_key"
    assert key not in refused(keys, bearer(key + "x")).message


def test_keys_have_256_random_bits_and_are_not_stored(desk: Desk, tmp_path: Path) -> None:
    made = [desk.add() for _ in range(20)]
    assert all(re.fullmatch(r"br_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", key) for key in made)
    assert len({key[12:] for key in made}) == 20
    desk.engine.dispose()
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert made[0][3:11].encode() in stored
    assert not any(key[12:].encode() in stored for key in made)


def test_a_revoked_key_is_refused_and_the_last_one_opens_nothing(desk: Desk) -> None:
    key = desk.add()
    keys = desk.gateway()
    revoke_key(desk.engine, key[3:11], desk.now)
    assert keys.authenticate(bearer(key)).scope == key[3:11]  # not read yet
    keys.refresh()
    assert refused(keys, bearer(key)).message == "This API key was revoked"
    assert refused(keys, {}).status == 401
    assert not keys.open


def test_revoking_twice_keeps_the_first_time_and_a_whole_key_names_itself(desk: Desk) -> None:
    key = desk.add()
    assert revoke_key(desk.engine, key, desk.now).revoked == NOON
    assert revoke_key(desk.engine, key[3:11], desk.now + 9).revoked == NOON
    with pytest.raises(ConfigError, match="no key with the prefix 'nothere1'"):
        revoke_key(desk.engine, "nothere1", desk.now)


# What it may


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "anything", True),
        (("auto*",), "auto-0.2", True),
        (("auto*",), "high", False),
        (("auto", "low"), "low", True),
        (("auto",), "auto-0.2", False),
        (("AUTO",), "auto", False),
    ],
)
def test_models_are_allowed_by_pattern(desk: Desk, patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    key = desk.add(models=patterns)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    if allowed:
        assert keys.admit(client, model) == {}
        return
    with pytest.raises(GatewayError) as caught:
        keys.admit(client, model)
    assert (caught.value.status, caught.value.code, caught.value.param) == (403, "model_not_allowed", "model")


def test_requests_are_counted_told_and_refused(desk: Desk) -> None:
    key = desk.add(requests=2)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    told = keys.admit(client, "auto")
    assert told == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    assert keys.admit(client, "auto")["x-ratelimit-remaining-requests"] == "0"
    desk.now += 10
    with pytest.raises(GatewayError) as caught:
        keys.admit(client, "auto")
    error = caught.value
    assert (error.status, error.kind, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "50s",
        "retry-after": "20",
    }
    desk.now += 20
    assert keys.admit(client, "auto")["x-ratelimit-remaining-requests"] == "0"


def test_tokens_are_known_afterwards_and_owed(desk: Desk) -> None:
    key = desk.add(tokens=600)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    assert keys.admit(client, "auto")["x-ratelimit-remaining-tokens"] == "600"
    keys.charge(client, Tokens(prefill=500, cached=100, decode=300), 1.0)
    with pytest.raises(GatewayError) as caught:
        keys.admit(client, "auto")
    assert caught.value.kind == "tokens"
    assert caught.value.headers["retry-after"] == "31"
    assert caught.value.headers["x-ratelimit-remaining-tokens"] == "0"
    desk.now += 31
    assert keys.admit(client, "auto")["x-ratelimit-remaining-tokens"] == "10"


def test_a_request_that_is_refused_for_tokens_counts_as_none(desk: Desk) -> None:
    key = desk.add(requests=5, tokens=60)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    keys.charge(client, Tokens(decode=60), 0.0)
    with pytest.raises(GatewayError):
        keys.admit(client, "auto")
    desk.now += 1
    assert keys.admit(client, "auto")["x-ratelimit-remaining-requests"] == "4"


def test_a_spent_budget_begins_anew_at_midnight(desk: Desk) -> None:
    key = desk.add(budget=2.5)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    keys.charge(client, Tokens(), 2.0)
    keys.refresh()
    assert keys.admit(client, "auto") == {}
    keys.charge(client, Tokens(), 1.0)
    with pytest.raises(GatewayError) as caught:
        keys.admit(client, "auto")
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.headers == {"retry-after": str(DAY // 2)}
    keys.refresh()
    desk.now += DAY / 2 + 1
    assert keys.admit(client, "auto") == {}


def test_limits_of_one_key_are_not_those_of_another(desk: Desk) -> None:
    first, second = desk.add(requests=1), desk.add(requests=1)
    keys = desk.gateway()
    keys.admit(keys.authenticate(bearer(first)), "auto")
    keys.admit(keys.authenticate(bearer(second)), "auto")
    with pytest.raises(GatewayError):
        keys.admit(keys.authenticate(bearer(first)), "auto")


# The database


def test_two_gateways_spend_one_budget(desk: Desk) -> None:
    key = desk.add(budget=10.0)
    first, second = desk.gateway(), desk.gateway()
    client = first.authenticate(bearer(key))
    first.charge(client, Tokens(), 6.0)
    second.charge(client, Tokens(), 5.0)
    assert first.admit(client, "auto") == second.admit(client, "auto") == {}
    first.refresh()
    second.refresh()
    with pytest.raises(GatewayError):
        second.admit(client, "auto")
    first.refresh()
    with pytest.raises(GatewayError):
        first.admit(client, "auto")
    assert list_keys(desk.engine)[0].spent == 11.0


def test_what_was_spent_survives_a_restart(desk: Desk) -> None:
    key = desk.add(budget=10.0)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    keys.charge(client, Tokens(), 4.0)
    keys.close()
    stored = list_keys(desk.engine)[0]
    assert (stored.day, stored.spent) == (20_000, 4.0)
    again = desk.gateway()
    again.charge(client, Tokens(), 6.0)
    with pytest.raises(GatewayError):
        again.admit(client, "auto")


def test_yesterday_is_not_added_to_today(desk: Desk) -> None:
    key = desk.add(budget=10.0)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    keys.charge(client, Tokens(), 9.0)
    keys.refresh()
    desk.now += DAY
    keys.charge(client, Tokens(), 2.0)
    keys.refresh()
    stored = list_keys(desk.engine)[0]
    assert (stored.day, stored.spent) == (20_001, 2.0)


def test_counters_outlive_a_refresh_unless_the_limit_changed(desk: Desk) -> None:
    key = desk.add(requests=3)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    keys.admit(client, "auto")
    keys.refresh()
    assert keys.admit(client, "auto")["x-ratelimit-remaining-requests"] == "1"
    with desk.engine.begin() as connection:
        connection.execute(sa.text("UPDATE keys SET requests = 9"))
    keys.refresh()
    assert keys.admit(client, "auto")["x-ratelimit-remaining-requests"] == "8"


def test_a_database_that_is_gone_leaves_the_keys_in_force(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    key = desk.add(budget=10.0)
    keys = desk.gateway()
    client = keys.authenticate(bearer(key))
    keys.charge(client, Tokens(), 4.0)
    with desk.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE keys RENAME TO away"))
    with pytest.raises(DataError, match="no such table: keys"):
        keys.refresh()
    assert keys.authenticate(bearer(key)) == client
    with desk.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO keys"))
    keys.refresh()
    assert list_keys(desk.engine)[0].spent == 4.0


def test_the_thread_reads_new_keys_and_survives_failures(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    failed, read = threading.Event(), threading.Event()

    class Watched(Keys):
        def refresh(self) -> None:
            try:
                super().refresh()
            except DataError:
                failed.set()
                raise
            if not self.open:
                read.set()

    keys = Watched(desk.url, clock=lambda: desk.now, refresh=0.001)
    keys.start()
    desk.gateways.append(keys)
    assert keys.open
    with desk.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE keys RENAME TO away"))
    assert failed.wait(10)
    with desk.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO keys"))
    key = desk.add()
    assert read.wait(10)
    assert keys.authenticate(bearer(key)).scope == key[3:11]
    assert "the keys read last stay in force" in caplog.text


def test_a_database_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_text("this is no database, but long enough to be looked at as one" * 20)
    with pytest.raises(DataError):
        Keys(f"sqlite:///{tmp_path / 'records.db'}").start()


# The commands


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--requests", "0"], "--requests: want a positive number, got 0"),
        (["--budget", "nan"], "--budget: want a positive number, got nan"),
        (["--model", ""], "--model: want a model's name or a pattern such as auto*, got an empty one"),
    ],
)
def test_wrong_limits_are_refused(desk: Desk, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "add", "ci", "--records", desk.url, *flags]) == 2
    assert capsys.readouterr().err.strip() == f"bitroute: {message}"
    assert list_keys(desk.engine) == []


def test_commands_make_list_and_revoke(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "auto*", "--model", "low", "--requests", "60", "--tokens", "1000000"]
    flags += ["--budget", "2.5", "--floor", "low"]
    assert main(["keys", "add", "my laptop", "--records", desk.url, *flags]) == 0
    key = capsys.readouterr().out.removesuffix("\n")
    assert re.fullmatch(r"br_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", key)
    (stored,) = list_keys(desk.engine)
    assert stored.grant == Grant(("auto*", "low"), 60, 1_000_000, 2.5, None, "low")

    assert main(["keys", "list", "--records", desk.url]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{key[3:11]}  my laptop  since 2")
    assert line.endswith("0 spent today  60 requests/min  1000000 tokens/min  2.5 cost/day  models auto*,low  floor low")

    assert main(["keys", "revoke", key[3:11], "--records", desk.url]) == 0
    assert capsys.readouterr().out == "revoked: my laptop\n"
    main(["keys", "list", "--records", desk.url])
    assert "  revoked  " in capsys.readouterr().out
    assert main(["keys", "revoke", "zzzzzzzz", "--records", desk.url]) == 2
