import json
import os
import subprocess
from pathlib import Path

import pytest

import bitroute
from bitroute.errors import ConfigError, DataError
from bitroute.store.runs import RunDirectory, commit, digest, directory_for, provenance, read_json

CONFIG = {"model": "m", "budgets": (0.1, 0.3)}


def test_a_run_notes_its_configuration_and_where_it_comes_from(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "deep" / "run", CONFIG) as run:
        assert json.loads((run.path / "config.json").read_text()) == {"model": "m", "budgets": [0.1, 0.3]}
        about = json.loads((run.path / "provenance.json").read_text())
    assert about == provenance()
    assert about["version"] == bitroute.__version__
    assert about["command"][0] == "bitroute"
    assert about["processor"].endswith(f"{os.cpu_count()} cores")


def test_the_same_configuration_goes_on_another_is_refused(tmp_path: Path) -> None:
    RunDirectory(tmp_path, CONFIG).close()
    before = (tmp_path / "config.json").read_bytes()
    RunDirectory(tmp_path, CONFIG).close()
    other = {"model": "n", "budgets": (0.1, 0.3), "low": "w2g64-rtn"}
    with pytest.raises(ConfigError, match=r"holds a run with another low, model; choose another --out$"):
        RunDirectory(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before
    RunDirectory(tmp_path, CONFIG).close()  # the refused one let go of it


def test_what_is_free_may_differ_and_stays_as_it_was(tmp_path: Path) -> None:
    RunDirectory(tmp_path, CONFIG | {"device": "cuda"}, free=("device",)).close()
    RunDirectory(tmp_path, CONFIG | {"device": "cpu"}, free=("device",)).close()
    RunDirectory(tmp_path, CONFIG, free=("device",)).close()
    assert json.loads((tmp_path / "config.json").read_text())["device"] == "cuda"
    with pytest.raises(ConfigError, match="another low;"):
        RunDirectory(tmp_path, CONFIG | {"device": "cpu", "low": "w3g64-rtn"}, free=("device",))
    with pytest.raises(ConfigError, match="another device;"):
        RunDirectory(tmp_path, CONFIG | {"device": "cpu"})


def test_one_at_a_time(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, CONFIG), pytest.raises(ConfigError, match="another bitroute is at work here"):
        RunDirectory(tmp_path, CONFIG)
    run = RunDirectory(tmp_path, CONFIG)
    run.close()
    run.close()


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model": ')
    with pytest.raises(DataError, match=r"config\.json: damaged \(Expecting value"):
        RunDirectory(tmp_path, CONFIG)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*file/run: Not a directory"):
        RunDirectory(tmp_path / "file" / "run", CONFIG)


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    RunDirectory(tmp_path, CONFIG).close()
    (tmp_path / "thresholds").mkdir()
    leftovers = [tmp_path / ".report.json.99.tmp", tmp_path / "thresholds" / ".a.json.99.tmp"]
    for path in leftovers:
        path.write_text("half")
    RunDirectory(tmp_path, CONFIG).close()
    assert not any(path.exists() for path in leftovers)


def test_a_directory_that_holds_no_run_keeps_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    foreign = [tmp_path / ".mine.tmp", tmp_path / "deep" / ".mine.tmp"]
    leftover = tmp_path / ".config.json.99.tmp"
    for path in (*foreign, leftover):
        path.write_text("half")
    RunDirectory(tmp_path, CONFIG).close()
    assert all(path.exists() for path in foreign)
    assert not leftover.exists()


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"config\.json: is no configuration of a run"):
        RunDirectory(tmp_path, CONFIG)


def test_a_result_is_made_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, object]:
        calls.append(1)
        return {"curve": (1, 2)}

    for _ in range(2):
        with RunDirectory(tmp_path, CONFIG) as run:
            assert run.once("stage/one", make) == {"curve": [1, 2]}  # the first caller sees what later ones will read
    assert len(calls) == 1
    (tmp_path / "stage" / "one.json").write_text("{")
    with RunDirectory(tmp_path, CONFIG) as run, pytest.raises(DataError, match=r"one\.json: damaged .*; remove it"):
        run.once("stage/one", make)


def test_nothing_is_kept_of_a_stage_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with RunDirectory(tmp_path, CONFIG) as run, pytest.raises(KeyboardInterrupt):
        run.once("stage", fail)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "config.json", "provenance.json"]


def test_directories_are_named_after_what_they_hold() -> None:
    path = directory_for(Path("runs"), "runs/router/dmr-0 on unseen", {"a": 1})
    assert path.parent == Path("runs")
    assert path.name.startswith("runs-router-dmr-0-on-unseen-")
    assert path == directory_for(Path("runs"), "runs/router/dmr-0 on unseen", {"a": 1})
    assert path != directory_for(Path("runs"), "runs/router/dmr-0 on unseen", {"a": 2})
    assert directory_for(Path("runs"), "../..", {}).parent == Path("runs")


def test_the_digest_of_a_directory_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1")
    first = digest(tmp_path / "a")
    assert first == digest(tmp_path / "a") == digest(tmp_path / "a" / "x")
    (tmp_path / "a" / "x").write_text("2")
    second = digest(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert len({first, second, digest(tmp_path / "a")}) == 3


def test_the_commit_is_that_of_the_checkout_that_tracks_the_package(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *command], check=True, capture_output=True, text=True
        ).stdout.strip()

    for name in ("tracked", "installed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    assert commit(tmp_path / "tracked") is None
    git("init", "--quiet")
    git("add", "tracked")
    git("commit", "--quiet", "--message", "one")
    assert commit(tmp_path / "tracked") == git("rev-parse", "--short=12", "HEAD")
    assert commit(tmp_path / "installed") is None
    (tmp_path / "tracked" / "__init__.py").write_text("x = 1\n")
    assert commit(tmp_path / "tracked") == git("rev-parse", "--short=12", "HEAD") + "-dirty"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.json: No such file"):
        read_json(tmp_path / "none.json")
