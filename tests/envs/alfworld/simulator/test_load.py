"""Reading official game directories: names, goals, splits, and one-line errors for files that are not what they should be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import TaskKind, numbered_names
from bitroute.envs.alfworld.simulator.load import find_games, load_split, load_task
from bitroute.errors import ConfigError, DataError

ACTIONS = (
    "look inventory examineReceptacle examineObject GotoLocation OpenObject CloseObject PickupObject PutObject CleanObject "
    "HeatObject CoolObject ToggleObject SliceObject help"
)
TEMPLATES = {
    "GotoLocation": "go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]",
    "OpenObject": "open {r}",
    "CloseObject": "close {r}",
    "PickupObject": "take {o} from {r}",
    "PutObject": "move {o} to {r}",
    "inventory": "inventory",
    "examineReceptacle": "examine {r}",
    "examineObject": "examine {o}",
    "ToggleObject": "use {o}",
    "HeatObject": "heat {o} with {r}",
    "CleanObject": "clean {o} with {r}",
    "CoolObject": "cool {o} with {r}",
    "SliceObject": "slice {co} with {ko}",
    "look": "look",
    "help": "help",
}
FACTS = """(receptacleType Desk_bar__plus_01 DeskType) (receptacleType Sink_bar__minus_01_bar_SinkBasin SinkBasinType)
    (objectType Pen_bar__plus_02 PenType) (objectType Pen_bar__minus_03 PenType) (canContain DeskType PenType)
    (pickupable Pen_bar__plus_02) (pickupable Pen_bar__minus_03) (atLocation agent1 loc_bar_0)
    (inReceptacle Pen_bar__plus_02 Sink_bar__minus_01_bar_SinkBasin)
    (inReceptacle Pen_bar__minus_03 Sink_bar__minus_01_bar_SinkBasin)
    (receptacleAtLocation Desk_bar__plus_01 loc_bar_1) (receptacleAtLocation Sink_bar__minus_01_bar_SinkBasin loc_bar_2)
    (objectAtLocation Pen_bar__plus_02 loc_bar_2) (objectAtLocation Pen_bar__minus_03 loc_bar_2)"""
GOAL = """(and (exists (?r - receptacle) (exists (?o - object)
    (and (inReceptacle ?o ?r) (objectType ?o PenType) (receptacleType ?r DeskType)))))"""


def content(facts: str = FACTS, goal: str = GOAL, actions: str = ACTIONS, **changes: Any) -> dict[str, Any]:
    """The fields of a small game file."""
    code = "".join(f"(:action {name} :parameters ())\n" for name in actions.split())
    templates = "".join(f'action {name} {{ template :: "{text}"; }}\n' for name, text in TEMPLATES.items())
    task = '{"task": [{"rhs": "Your task is to: put some pen on desk."}]}'
    return {
        "pddl_domain": f"; written by hand\n(define (domain alfred)\n{code})",
        "grammar": f'grammar :: """{task}""";\n{templates}',
        "pddl_problem": f"(define (problem p) (:domain alfred) (:objects agent1 - agent) (:init {facts}) (:goal {goal}))",
        "solvable": True,
        "walkthrough": ["go to sinkbasin 1"],
        **changes,
    }


def write(directory: Path, data: Any = None, task_type: str | None = "pick_and_place_simple") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "game.tw-pddl"
    file.write_text(data if isinstance(data, str) else json.dumps(data or content()))
    if task_type:
        (directory / "traj_data.json").write_text(json.dumps({"task_type": task_type, "task_id": "trial_1"}))
    return file


def test_a_directory_and_its_file_give_the_same_task(tmp_path: Path) -> None:
    file = write(tmp_path / "pick-Pen-None-Desk-1" / "trial_1")
    task = load_task(file.parent, "train")
    assert task == load_task(file, "train")
    assert (task.id, task.kind, task.split) == ("pick-Pen-None-Desk-1/trial_1", "pick_and_place_simple", "train")
    assert task.source == str(file)
    assert {r.name for r in task.game.receptacles} == {"desk 1", "sinkbasin 1"}
    assert {t.id: t.name for t in task.game.things} == {"Pen_bar__plus_02": "pen 1", "Pen_bar__minus_03": "pen 2"}
    assert task.game.walkthrough == ("go to sinkbasin 1",)
    world = AlfworldEnvironment()
    world.reset(task)
    for command in ("go to sinkbasin 1", "take pen 2 from sinkbasin 1", "go to desk 1"):
        assert world.step(command).reward == 0.0
    assert world.step("move pen 2 to desk 1").reward == 1.0


def test_names_count_backwards_in_the_order_of_lower_case_ids() -> None:
    ids = [
        "Pen_bar__plus_1",
        "Pen_bar__minus_1",
        "PEN_bar_9",
        "PenBox_bar_1",
        "Sink_bar_1_bar_SinkBasin",
        "Sink_bar_1",
        "agent1",
    ]
    assert numbered_names(ids) == {
        "Pen_bar__plus_1": "pen 1",
        "Pen_bar__minus_1": "pen 2",
        "PEN_bar_9": "pen 3",
        "PenBox_bar_1": "penbox 1",
        "Sink_bar_1_bar_SinkBasin": "sinkbasin 1",
        "Sink_bar_1": "sink 1",
        "agent1": "agent1 ",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"pddl_domain": "(def', "not a complete official file"),
        ("", "not a complete official file"),
        ({"pddl_domain": ""}, "missing required field"),
        (content(solvable=False), "unsolvable"),
        (content(actions="move-tower"), "not the ALFWorld domain"),
        (content(actions=ACTIONS + " eat"), "not the ALFWorld domain"),
        (
            content(pddl_domain=content()["pddl_domain"] + "(exists (?l - location ?r - receptacle) ())"),
            "not the ALFWorld domain",
        ),
        (content(grammar="grammar"), "template of GotoLocation is None"),
        (content(pddl_problem="(define (problem p) (:init"), "no (:init ...)"),
        (content(facts=FACTS + "(opened Desk_bar__plus_01)"), "unknown fact (opened Desk_bar__plus_01)"),
        (content(facts=FACTS + "(pickupable)"), "unknown fact (pickupable)"),
        (content(facts=FACTS.replace("(atLocation agent1 loc_bar_0)", "")), "exactly one atLocation"),
        (content(facts=FACTS + "(objectType Pen_bar__plus_02 MugType)"), "more than one objectType"),
        (content(facts=FACTS + "(receptacleAtLocation Bed_bar_1 loc_bar_0)"), "Bed_bar_1 has no receptacleType"),
        (content(facts=FACTS + "(inReceptacle Pen_bar__plus_02 Bed_bar_1)"), "which has no receptacleAtLocation"),
        (content(goal="(and (isSliced x))"), "none of ALFWorld's six task types"),
    ],
)
def test_a_bad_game_file_is_named_in_one_line(tmp_path: Path, data: Any, message: str) -> None:
    file = write(tmp_path, data)
    with pytest.raises(DataError) as caught:
        load_task(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


def test_an_older_wording_is_refused(tmp_path: Path) -> None:
    data = content()
    data["grammar"] = data["grammar"].replace("move {o} to {r}", "put {o} in/on {r}")
    write(tmp_path, data)
    with pytest.raises(DataError, match=r"template of PutObject is 'put \{o\} in/on \{r\}', expected 'move \{o\} to \{r\}'"):
        load_task(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"game\.tw-pddl: No such file"):
        load_task(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: No such file"):
        load_task(tmp_path / "nowhere")


def test_a_trajectory_of_another_task_is_refused(tmp_path: Path) -> None:
    write(tmp_path, task_type="look_at_obj_in_light")
    with pytest.raises(DataError, match=r"task_type is 'look_at_obj_in_light'"):
        load_task(tmp_path)
    (tmp_path / "traj_data.json").write_text("{")
    with pytest.raises(DataError, match=r"traj_data\.json: not a complete official file"):
        load_task(tmp_path)


def test_splits_leave_out_what_the_official_loader_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = tmp_path / "json_2.1.1" / "valid_seen"
    kept = [write(split / name / "trial_1") for name in ("b-Pen-None-Desk-1", "a-Pen-None-Desk-2")]
    write(split / "pick_and_place_with_movable_recep-Pen-Cup-Desk-1" / "trial_1")
    write(split / "a-PenSliced-None-Desk-1" / "trial_1")
    write(split / "a-Pen-None-Desk-3" / "trial_1", task_type=None)
    assert find_games(tmp_path, "valid_seen") == kept[::-1]
    assert find_games(tmp_path / "json_2.1.1", "valid_seen") == kept[::-1]
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    assert [task.split for task in load_split(None, "valid_seen")] == ["official-seen"] * 2
    with pytest.raises(ConfigError, match=r"no such split directory"):
        find_games(tmp_path, "valid_unseen")
    monkeypatch.delenv("ALFWORLD_DATA")
    with pytest.raises(ConfigError, match="ALFWORLD_DATA"):
        find_games(None, "valid_seen")


@pytest.mark.official
def test_walkthroughs_of_all_seen_games_win_natively(official_root: Path) -> None:
    kinds: Counter[str] = Counter()
    world = AlfworldEnvironment()
    for task in load_split(official_root, "valid_seen"):
        observation = world.reset(task)
        for command in task.game.walkthrough:
            assert command in observation.admissible
            outcome = world.step(command)
            observation = outcome.observation
        assert (outcome.reward, outcome.done) == (1.0, True), task.id
        kinds[task.kind] += 1
    assert sum(kinds.values()) == 140
    assert set(kinds) == set(TaskKind)
