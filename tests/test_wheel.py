"""The built wheel, outside the clone: what a user has after `pip install`, in an empty directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Names of the installed distributions that `requirements` bring, with all that they need."""
    found: set[str] = set()
    waiting = [(canonicalize_name(r.name), frozenset(r.extras)) for r in requirements]
    seen = set(waiting)
    while waiting:
        name, extras = waiting.pop()
        try:
            needs = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        for need in needs:
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                entry = (canonicalize_name(need.name), frozenset(need.extras))
                if entry not in seen:
                    seen.add(entry)
                    waiting.append(entry)
    return found


def lay_out(names: Iterable[str], folder: Path) -> None:
    """Link the installed distributions `names` into `folder`, which is then a site directory with these alone."""
    folder.mkdir()
    for name in names:
        dist = distribution(name)
        for top in {file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))))


class Installed:
    """The wheel in a virtual environment, beside the packages that some of its extras bring."""

    def __init__(self, wheel: Path, folder: Path, extras: tuple[str, ...]) -> None:
        self.python = folder / "venv" / "bin" / "python"
        venv.create(folder / "venv", with_pip=False)
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, str(wheel)], check=True)
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        self.package = site / "bitroute"
        (metadata,) = site.glob("bitroute-*.dist-info/METADATA")
        lines = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)
        wanted = [
            need
            for need in map(Requirement, lines)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras)
        ]
        lay_out(closure(wanted) - {"bitroute"}, folder / "packages")
        (site / "packages.pth").write_text(f"{folder / 'packages'}\n")
        self.home = folder / "home"
        self.home.mkdir()
        self.environment = {"PATH": os.defpath, "HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def command(self, *words: str) -> list[str]:
        """The command line of `bitroute words`."""
        return [str(self.python.with_name("bitroute")), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `bitroute words` in an empty home."""
        return subprocess.run(
            self.command(*words), cwd=self.home, env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git knows, as a clone has them."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=clone, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def whole(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """With everything that the demonstrations need; nothing they do may write into the installed package."""
    installed = Installed(wheel, tmp_path_factory.mktemp("whole"), ("report", "serve-demo", "gateway", "torch"))
    before = files(installed.package)
    yield installed
    assert files(installed.package) == before


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Without any extra."""
    return Installed(wheel, tmp_path_factory.mktemp("core"), ("",))


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.suffix != ".pyc" and path.name != "__pycache__"}


def test_the_version_is_the_packages(whole: Installed, core: Installed) -> None:
    for installed in (whole, core):
        assert (
            installed.run("--version").stdout.strip()
            == re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
        )  # type: ignore[index]


def test_episodes_are_played(whole: Installed) -> None:
    done = whole.run("play", "--router", "alfworld-router-trained", "--tasks", "2", "--cores", "1", "--out", "played")
    assert done.returncode == 0, done.stderr
    assert "n 2" in done.stdout
    assert (whole.home / "played" / "traces.jsonl").exists()


def test_the_demo_runs_and_is_reported_again(whole: Installed) -> None:
    done = whole.run("demo", "--tasks", "4", "--cores", "1")
    assert done.returncode == 0, done.stderr
    report = whole.home / "runs" / "demo" / "report.html"
    report.unlink()
    done = whole.run("report", "runs/demo")
    assert done.returncode == 0, done.stderr
    assert report.exists()


def test_variants_are_written_where_the_user_stands(whole: Installed) -> None:
    done = whole.run("quantize", "w4g64-rtn")
    assert done.returncode == 0, done.stderr
    assert (whole.home / "variants" / "w4g64-rtn.safetensors").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_gateway_answers_before_its_own_servers(whole: Installed) -> None:
    words = ["serve", "--demo", "--port", str(free_port()), "--admin-port", str(free_port())]
    with subprocess.Popen(
        whole.command(*words), cwd=whole.home, env=whole.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            line = server.stdout.readline()
            assert line.startswith("bitroute serves "), line + server.stderr.read()
            url = line.split()[2].rstrip(":")
            body = {"model": "auto", "messages": [{"role": "user", "content": "You are in a room.\nGoal: desk put creditcard"}]}
            request = urllib.request.Request(
                f"{url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"]
        finally:
            server.send_signal(signal.SIGINT)
            _, errors = server.communicate(timeout=PATIENCE)
        assert server.returncode == 0, errors


@pytest.mark.parametrize(
    ("words", "extras"),
    [
        (["play"], "torch"),
        (["sensitivity"], "torch"),
        (["quantize", "w4g64-rtn"], "torch"),
        (["train", "router"], "torch"),
        (["demo"], "torch,report"),
        (["report", "runs/demo"], "torch,report"),
        (["serve", "--high", "http://127.0.0.1:1", "--low", "http://127.0.0.1:2"], "gateway"),
        (["serve", "--demo"], "gateway,torch,serve-demo"),
        (["export"], "gateway"),
        (["keys", "list"], "gateway"),
    ],
    ids=" ".join,
)
def test_the_core_says_in_one_line_what_to_install(core: Installed, words: list[str], extras: str) -> None:
    done = core.run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("bitroute: this needs ") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith(f"pip install 'bitroute[{extras}]'\n")
    assert list(core.home.iterdir()) == []
