"""Exported games: read back as they were, complete or not at all, and won in the official engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.official import OfficialAlfworldEnvironment
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.export import Rules, export_game, find_rules, problem_text
from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.load import GAME_FILE, TRAJECTORY_FILE, find_games, load_game, load_task
from bitroute.errors import DataError
from support.alfworld_rules import RULES


@pytest.mark.parametrize("index", range(12))
def test_exported_game_reads_back_equal(index: int, tmp_path: Path) -> None:
    task = splits.task("unseen", index)
    file = export_game(task.game, tmp_path, RULES)
    assert file == tmp_path / task.game.id / GAME_FILE
    assert load_game(file) == task.game
    assert sorted(entry.name for entry in file.parent.iterdir()) == [GAME_FILE, TRAJECTORY_FILE]


def test_trajectory_file_says_what_the_goal_is(tmp_path: Path) -> None:
    games = {task.kind: task.game for task in splits.split("validation", 6)}
    written = {
        kind: json.loads(export_game(game, tmp_path, RULES).with_name(TRAJECTORY_FILE).read_text())
        for kind, game in games.items()
    }
    for kind, data in written.items():
        goal = games[TaskKind(kind)].goal
        assert data["task_type"] == kind
        assert data["pddl_params"] == {
            "object_target": goal.target,
            "parent_target": goal.parent or "",
            "toggle_target": goal.lamp or "",
            "mrecep_target": "",
            "object_sliced": False,
        }
        assert data["turk_annotations"]["anns"][0]["task_desc"] == goal.text.removeprefix("Your task is to: ")
        assert data["task_id"].startswith("trial_G") and data["scene"]["scene_num"] in range(6000, 8000)


def test_things_in_two_places_cool_ones_and_contents_survive(house: Callable[..., AlfworldTask], tmp_path: Path) -> None:
    game = house(TaskKind.COOL).game
    read = load_game(export_game(game, tmp_path, RULES))
    assert set(read.things) == set(game.things)
    assert set(read.receptacles) == set(game.receptacles)
    assert read.goal == game.goal and read.can_contain == game.can_contain


def test_types_that_the_domain_names_are_always_declared() -> None:
    bathroom = next(task.game for task in splits.tasks("unseen") if any(r.type == "Toilet" for r in task.game.receptacles))
    text = problem_text(bathroom)
    for name in ("Knife", "ButterKnife", "Sink"):
        assert text.count(f"    {name}Type - otype\n") == 1
    for name in ("SinkBasin", "Microwave", "Fridge"):
        assert text.count(f"    {name}Type - rtype\n") == 1


def test_export_again_replaces_the_files(tmp_path: Path) -> None:
    game = splits.task("seen", 0).game
    first = export_game(game, tmp_path, RULES)
    before = first.read_bytes()
    first.write_bytes(before[:100])
    assert export_game(game, tmp_path, RULES) == first
    assert first.read_bytes() == before


def test_rules_come_from_a_game_file(tmp_path: Path) -> None:
    file = export_game(splits.task("seen", 0).game, tmp_path, RULES)
    found = find_rules(file)
    assert found.domain == RULES.domain
    assert export_game(splits.task("seen", 1).game, tmp_path, found).is_file()


def test_bad_rules_and_bad_places_give_one_line(tmp_path: Path) -> None:
    game = splits.task("seen", 0).game
    with pytest.raises(DataError, match="no task line"):
        export_game(game, tmp_path, Rules(RULES.domain, "grammar"))
    with pytest.raises(DataError, match=r"missing\.tw-pddl: No such file"):
        find_rules(tmp_path / "missing.tw-pddl")
    half = tmp_path / "half.tw-pddl"
    half.write_text('{"pddl_domain": "(define')
    with pytest.raises(DataError, match=r"half\.tw-pddl: not a complete official file"):
        find_rules(half)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        export_game(game, tmp_path / "file", RULES)


@pytest.mark.official
def test_published_games_survive_export(official_root: Path, tmp_path: Path) -> None:
    files = find_games(official_root, "valid_seen")[::10]
    for file in files:
        game = load_game(file)
        read = load_game(export_game(game, tmp_path, find_rules(file)))
        assert (read.id, read.goal, read.start, read.walkthrough) == (game.id, game.goal, game.start, game.walkthrough)
        assert set(read.things) == set(game.things)
        assert set(read.receptacles) == set(game.receptacles)
        assert read.can_contain == game.can_contain


@pytest.mark.official
@pytest.mark.parametrize("index", [1, 3, 4, 5])  # CLEAN, COOL, LOOK, TWO; the recorded transcripts cover all kinds
@pytest.mark.filterwarnings("ignore")
def test_official_engine_loads_and_wins_an_exported_game(index: int, tmp_path: Path) -> None:
    if find_spec("alfworld") is None or find_spec("textworld") is None:
        pytest.skip("the official engine is not installed: pip install 'bitroute[alfworld]'")
    task = load_task(export_game(splits.task("unseen", index).game, tmp_path, find_rules()))
    official, native = OfficialAlfworldEnvironment(), AlfworldEnvironment()
    assert official.reset(task) == native.reset(task)
    rewards = []
    for command in task.game.walkthrough:
        theirs, ours = official.step(command), native.step(command)
        assert theirs == ours
        rewards.append(theirs.reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert theirs.done
