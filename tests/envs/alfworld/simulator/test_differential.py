"""The native engine against the official one: recorded transcripts of generated games, live play of a few official ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from bitroute.envs.alfworld.official import OfficialAlfworldEnvironment
from bitroute.envs.alfworld.simulator.differential import Frame, compare, following, play_both, wandering
from bitroute.envs.alfworld.simulator.environment import NOTHING_HAPPENS, AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask, Game, TaskKind
from bitroute.envs.alfworld.simulator.load import find_games, load_task
from bitroute.errors import CapabilityError

FIXTURES = Path(__file__).parents[3] / "fixtures" / "alfworld"
INSTALLED = importlib.util.find_spec("alfworld") is not None and importlib.util.find_spec("textworld") is not None
needs_engine = pytest.mark.skipif(not INSTALLED, reason="needs the official engine: pip install 'bitroute[alfworld]'")
# The official packages use what newer versions of their own dependencies warn about.
quiet = pytest.mark.filterwarnings("ignore")


def transcripts(name: str) -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = json.loads((FIXTURES / name).read_text())
    return recorded


def task_of(transcript: dict[str, Any]) -> AlfworldTask:
    game = msgspec.convert(transcript["game"], Game)
    return AlfworldTask(game.id, transcript["kind"], transcript["split"], game)


def frames_of(transcript: dict[str, Any]) -> Iterator[Frame]:
    strings = transcript["strings"]
    for command, text, admissible, won, done in transcript["frames"]:
        said = None if command is None else strings[command]
        yield Frame(said, strings[text], tuple(strings[number] for number in admissible), bool(won), done)


def test_the_native_engine_answers_as_recorded() -> None:
    kinds: Counter[str] = Counter()
    verbs: Counter[str] = Counter()
    world, frames, won = AlfworldEnvironment(), 0, 0
    for transcript in transcripts("generated.json"):
        kinds[transcript["kind"]] += 1
        for theirs, ours in compare(frames_of(transcript), world, task_of(transcript)):
            assert ours == theirs, f"{transcript['game']['id']}, after {theirs.command!r}"
            frames += 1
            won += int(theirs.won)
            verbs["nothing" if theirs.text == NOTHING_HAPPENS else str(theirs.command).strip().split(" ")[0]] += 1
    # What the record covers: every kind, wins, every verb, and nonsense.
    assert set(kinds) == set(TaskKind)
    assert sum(kinds.values()) >= 30
    assert frames >= 900
    assert won >= 12
    common = ("go", "take", "move", "open", "close", "examine", "look", "inventory", "help", "nothing")
    assert all(verbs[verb] >= 10 for verb in common)
    assert all(verbs[verb] >= 1 for verb in ("clean", "heat", "cool", "use"))


def test_games_of_several_goals_are_answered_as_recorded() -> None:
    """The official engine has won one of them exactly when all goals held, whichever came first."""
    goals: Counter[int] = Counter()
    world, frames, won = AlfworldEnvironment(), 0, 0
    for transcript in transcripts("several-goals.json"):
        task = task_of(transcript)
        goals[len(task.game.goals)] += 1
        for theirs, ours in compare(frames_of(transcript), world, task):
            assert ours == theirs, f"{task.game.id}, after {theirs.command!r}"
            frames += 1
            won += int(theirs.won)
    assert goals == {2: 12, 3: 12}
    assert frames >= 600
    assert won >= 12


def test_without_the_extra_the_official_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(CapabilityError, match=r"pip install 'bitroute\[alfworld\]'"):
        OfficialAlfworldEnvironment()


@pytest.mark.official
@needs_engine
@quiet
@pytest.mark.parametrize("kind", TaskKind)
def test_live_official_games(official_root: Path, kind: TaskKind) -> None:
    """One game of each kind: its walkthrough, then random play of the same game, against the real engine."""
    files = [file for file in find_games(official_root, "valid_seen") if file.parts[-3].startswith(f"{kind}-")]
    task = load_task(files[len(files) // 2])
    official, native = OfficialAlfworldEnvironment(), AlfworldEnvironment()
    plan = task.game.walkthrough
    won = []
    for choose in (following(plan), wandering(Random(f"live {kind}"), 15, winning=plan)):
        for theirs, ours in compare(play_both(official, task, choose), native, task):
            assert ours == theirs
        won.append(theirs.won)
    assert won[0]


@pytest.mark.official
@needs_engine
@quiet
def test_official_copies_play_on_alone(official_root: Path) -> None:
    task = load_task(find_games(official_root, "valid_seen")[0])
    engine = OfficialAlfworldEnvironment()
    engine.reset(task)
    first, *rest = task.game.walkthrough
    engine.step(first)
    twin = engine.copy()
    ends = [[world.step(command) for command in rest] for world in (engine, twin)]
    assert ends[0] == ends[1]
    assert ends[0][-1].reward == 1.0
    assert engine.step("look").done
