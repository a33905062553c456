"""Where settings come from, which of them counts, and what an error names."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from bitroute.cli.main import main
from bitroute.errors import ConfigError, DataError
from bitroute.gateway.core.config import GatewayConfig, Source, toml_file
from bitroute.gateway.core.environment import PREFIX, environment
from support.gateway import chat
from support.upstream import PATIENCE, ScriptedUpstream, answer

LOW, HIGH = ({"name": name, "urls": [f"http://{name}:8000"]} for name in ("low", "high"))
VARIANTS = json.dumps([LOW, HIGH])

# A value of each setting that is not its default, as a variable has it.
VALUES: dict[str, dict[str, str]] = {
    "server": {
        "host": "::1",
        "port": "9000",
        "admin_host": "localhost",
        "admin_port": "9001",
        "workers": "1",
        "model_name": "client",
        "max_body": "1000",
        "max_requests": "7",
        "drain": "1.5",
    },
    "routing": {
        "router": "random",
        "budget": "0.2",
        "mode": "split",
        "serve": "low",
        "splits": '[{"name": "new", "share": 0.5, "router": "random"}]',
        "explore": "0.5",
        "horizon": "3",
        "timeout": "0.5",
        "feedback": "true",
        "window": "10",
        "alarm": "0.5",
        "floors": '{"send_Money": "high"}',
        "cache": "1000",
        "reload": "9",
    },
    "sessions": {"url": "redis://there", "max": "10", "ttl": "60", "headers": '["x-mine"]'},
    "upstream": {"connect": "1", "first_token": "2", "total": "3", "health": "4", "retry_budget": "0.5"},
    "records": {"url": "sqlite:///r.db", "flush": "1", "store_content": "1", "require_keys": "true"},
    "telemetry": {"endpoint": "http://spans"},
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def test_every_setting_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITROUTE_VARIANTS", VARIANTS)
    for section, values in VALUES.items():
        for key, value in values.items():
            monkeypatch.setenv(f"BITROUTE_{section.upper()}__{key.upper()}", value)
    config = GatewayConfig.merge([environment()])
    assert [variant.urls for variant in config.variants] == [("http://low:8000",), ("http://high:8000",)]
    for name, field in GatewayConfig.model_fields.items():
        if name == "variants":
            continue
        section = getattr(config, name)
        assert isinstance(section, BaseModel) and set(VALUES[name]) == set(type(section).model_fields), name
        assert field.default is not None
        for key, value in VALUES[name].items():
            found = section.model_dump(mode="json")[key]
            if key in ("splits", "floors", "headers"):
                assert [found] if isinstance(found, dict) else found, key
            else:
                text = str(found).lower() if isinstance(found, bool) else str(found)
                assert text in (value, f"{value}.0", {"1": "true"}.get(value)), key
    assert config.routing.floors == {"send_Money": "high"} and config.sessions.headers == ("x-mine",)
    assert config.routing.splits[0].share == 0.5


def test_flags_win_over_the_file_and_that_over_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[server]\nport = 2\nadmin_port = 2\n[routing]\nfloors = { a = "low" }\n')
    monkeypatch.setenv("BITROUTE_VARIANTS", VARIANTS)
    for name in ("PORT", "ADMIN_PORT", "MAX_REQUESTS"):
        monkeypatch.setenv(f"BITROUTE_SERVER__{name}", "1")
    monkeypatch.setenv("BITROUTE_ROUTING__FLOORS", '{"b": "high"}')
    config = GatewayConfig.merge([environment(), toml_file(path), Source("flags", {"server": {"port": 3}})])
    assert (config.server.port, config.server.admin_port, config.server.max_requests) == (3, 2, 1)
    assert config.routing.floors == {"a": "low"}  # a table is one setting


def test_what_is_empty_or_named_otherwise_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SERVER__PORT", ""), ("TEST_POSTGRESQL", "postgresql://x"), ("HOME", "/"), ("PORT", "1")):
        monkeypatch.setenv(f"BITROUTE_{name}", value)
    assert environment() == Source("environment", {}, texts=True)


def test_a_section_may_be_json_and_its_keys_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITROUTE_VARIANTS", VARIANTS)
    monkeypatch.setenv("BITROUTE_ROUTING", '{"budget": 0.1, "mode": "shadow"}')
    monkeypatch.setenv("bitroute_routing__budget", "0.2")
    routing = GatewayConfig.merge([environment()]).routing
    assert (routing.budget, routing.mode) == (0.2, "shadow")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BITROUTE_SERVER__PORT", "many", "BITROUTE_SERVER__PORT: Input should be a valid integer"),
        ("BITROUTE_SERVER__PROT", "80", "BITROUTE_SERVER__PROT: there is no such setting"),
        ("BITROUTE_SERVR__PORT", "80", "BITROUTE_SERVR__PORT: there is no such setting"),
        ("BITROUTE_SERVER", "80", "BITROUTE_SERVER: want JSON, a table of settings"),
        ("BITROUTE_SERVER", "x", "BITROUTE_SERVER: want JSON, a table of settings"),
        ("BITROUTE_VARIANTS", "low=http://a", "BITROUTE_VARIANTS: want JSON"),
        ("BITROUTE_VARIANTS", '[{"name": "low"}]', "BITROUTE_VARIANTS: 0.urls: Field required"),
        ("BITROUTE_VARIANTS", json.dumps([LOW, LOW]), "BITROUTE_VARIANTS: two have one name"),
        ("BITROUTE_ROUTING__FLOORS", "pay", "BITROUTE_ROUTING__FLOORS: want JSON"),
        ("BITROUTE_ROUTING__FLOORS", '{"pay": "mid"}', "BITROUTE_ROUTING__FLOORS: pay: unknown variant 'mid'"),
        ("BITROUTE_ROUTING__SPLITS", '[{"name": "n", "share": 2}]', "BITROUTE_ROUTING__SPLITS: 0.share: "),
        ("BITROUTE_ROUTING__SERVE", "mid", "BITROUTE_ROUTING__SERVE: unknown variant 'mid'"),
        ("BITROUTE_SESSIONS__HEADERS", "x-mine", "BITROUTE_SESSIONS__HEADERS: want JSON"),
        ("BITROUTE_SERVER__WORKERS", "2", "BITROUTE_SERVER__WORKERS: several processes cannot share"),
    ],
)
def test_an_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv("BITROUTE_VARIANTS", VARIANTS)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as error:
        GatewayConfig.merge([environment(), Source("gateway.toml", {"server": {}}), Source("flags", {"routing": {}})])
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "flags", "said"),
    [
        ({"server": {"port": "many"}}, {}, "gateway.toml: server.port: Input should be"),
        ({"server": {"port": "many"}}, {"server": {"port": -1}}, "--port: Input should be greater"),
        ({"routing": {"serve": "mid"}}, {"server": {"port": 1}}, "gateway.toml: routing.serve: unknown variant 'mid'"),
        ({"server": 3}, {}, "gateway.toml: server: want a table of settings"),
        ({"variants": []}, {}, "gateway.toml: variants: "),
        ({"variants": 3}, {}, "gateway.toml: variants: Input should be"),
        ({"variants": {"low": "http://a"}}, {}, "gateway.toml: variants: Input should be"),
        ({"routing": {"floors": "pay"}}, {}, "gateway.toml: routing.floors: Input should be"),
        ({"prot": 3}, {"server": {"port": -1}}, "gateway.toml: prot: there is no such setting"),
    ],
)
def test_an_error_names_the_file_or_the_flag(file: Any, flags: Any, said: str) -> None:
    variables = Source("environment", {"variants": [LOW, HIGH]}, {("variants",): "BITROUTE_VARIANTS"})
    named = {("server", "port"): "--port"}
    with pytest.raises(ConfigError) as error:
        GatewayConfig.merge([variables, Source("gateway.toml", file), Source("flags", flags, named)])
    assert str(error.value).startswith(said)


def test_a_gateway_of_variables_alone_serves(tmp_path: Path) -> None:
    with ScriptedUpstream(answer("from low")) as low, ScriptedUpstream(answer("from high")) as high:
        variables = {
            "BITROUTE_VARIANTS": json.dumps([{"name": "low", "urls": [low.url]}, {"name": "high", "urls": [high.url]}]),
            "BITROUTE_SERVER__PORT": "0",
            "BITROUTE_SERVER__ADMIN_PORT": "0",
            "BITROUTE_ROUTING__ROUTER": "always:low",
            "BITROUTE_RECORDS__URL": f"sqlite:///{tmp_path / 'mine.db'}",
        }
        child = subprocess.Popen(
            [sys.executable, "-c", "from bitroute.cli.main import main; raise SystemExit(main())", "serve"],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        try:
            assert child.stdout
            found = re.search(r"serves (http://\S+)/v1", child.stdout.readline())
            assert found
            response = httpx.post(f"{found[1]}/v1/chat/completions", json=chat(), timeout=PATIENCE)
            assert response.json()["choices"][0]["message"]["content"] == "from low"
        finally:
            child.terminate()
            child.communicate(timeout=PATIENCE)
    assert [path.name for path in tmp_path.glob("*.db")] == ["mine.db"]


@pytest.mark.parametrize("more", [[], ["--low", "http://a"]])
def test_nothing_to_serve_names_the_variable_too(capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    assert main(["serve", *more]) == 2
    assert "BITROUTE_VARIANTS" in capsys.readouterr().err


def test_a_flag_that_is_wrong_is_named_as_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--low", "http://a", "--high", "http://b", "--admin-port", "70000"]) == 2
    assert capsys.readouterr().err.startswith("bitroute: --admin-port: ")


TWO = ["--low", "http://a", "--high", "http://b"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--config", "g.toml", "--high-model", "big"], 2, "--high-model and --low-model go with --high and --low"),
        (["--low-model", "small"], 2, "--high-model and --low-model go with --high and --low"),
        (["--config", "g.toml"], 2, "g.toml: variants: missing; name two or more"),
        (["--low", "foo", "--high", "http://b"], 2, "--low: foo: want http://host:port"),
        (["--low", "http://a", "--high", "bar"], 2, "--high: bar: want http://host:port"),
        ([*TWO, "--records", "foo"], 2, "--records: the URL is none of a database"),
        ([*TWO, "--host", "0.0.0.0"], 2, "--host: 0.0.0.0: others could use the gateway without a key"),
        ([*TWO, "--port", "TAKEN"], 2, "--port: cannot listen on 127.0.0.1:"),
        ([*TWO, "--router", "nowhere"], 2, "--router: unknown router 'nowhere'"),
        ([*TWO, "--router", "no/where"], 3, "--router: router no/where: no such file"),
        ([*TWO, "--router", "always:w3"], 4, "--router: router 'always:w3': unknown variant"),
    ],
)
def test_what_fails_at_the_start_names_its_flag_or_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("g.toml").write_text("[server]\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        own = [] if "--port" in arguments else ["--port", "0"]
        given = [port if argument == "TAKEN" else argument for argument in arguments]
        assert main(["serve", *given, *own, "--admin-port", "0"]) == code
    told = capsys.readouterr().err
    assert told.startswith(f"bitroute: {said}") and told.count("\n") == 1


@pytest.mark.parametrize("command", [["serve", *TWO, "--port", "0", "--admin-port", "0"], ["export"], ["keys", "list"]])
def test_a_wrong_url_of_the_records_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITROUTE_RECORDS__URL", "foo")
    assert main(command) == 2
    assert capsys.readouterr().err.startswith(
        "bitroute: BITROUTE_RECORDS__URL: the URL is none of a database; want sqlite:///FILE"
    )


def test_a_missing_file_is_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^cannot read .*none\.toml: No such file or directory$"):
        toml_file(tmp_path / "none.toml")
