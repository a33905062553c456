"""Splits: the same task forever, balanced, and never shared."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice

import pytest

from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.simulator.game import AlfworldTask, TaskKind
from bitroute.envs.alfworld.simulator.generator import ROOM_KINDS, game_hash, layout_hash
from bitroute.errors import ConfigError

SIZES = {"lm-train": 1200, "seen": 300, "router-train": 600, "validation": 600, "unseen": 1800}


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[AlfworldTask]]:
    return {name: splits.split(name, size) for name, size in SIZES.items()}


def room_seed(task: AlfworldTask) -> int:
    return int(task.game.id.split("/")[0].rpartition("-")[2])


def test_names() -> None:
    assert list(splits.SPLITS) == ["lm-train", "seen", "router-train", "validation", "unseen"]


def test_task_is_the_same_by_index_by_list_and_by_iterator() -> None:
    listed = splits.split("unseen", 12, start=30)
    assert listed == [splits.task("unseen", index) for index in range(30, 42)]
    assert listed == list(islice(splits.tasks("unseen", 30), 12))
    assert [task.id for task in listed[:2]] == ["unseen-30", "unseen-31"]
    assert all(task.split == "unseen" and task.source is None for task in listed)


def test_tasks_stay_what_they_were() -> None:
    """Recorded results name tasks by split and index: these must never change again."""
    found = {name: game_hash(splits.task(name, 7).game)[:12] for name in SIZES}
    assert found == {
        "lm-train": "9a0764dbb9a1",
        "seen": "d8f8d4f8ebbf",
        "router-train": "1632c0f6869e",
        "validation": "c125a19ce045",
        "unseen": "82009dfcdbc4",
    }


def test_a_room_forgotten_by_the_cache_comes_back_the_same() -> None:
    before = splits.task("seen", 5)
    splits.room_of.cache_clear()
    assert splits.task("seen", 5) == before


@pytest.mark.slow
def test_every_prefix_is_balanced_over_kinds(drawn: dict[str, list[AlfworldTask]]) -> None:
    for tasks in drawn.values():
        for size in (6, 60, 300):
            assert Counter(task.kind for task in tasks[:size]) == dict.fromkeys(TaskKind, size // 6)
        assert all(task.kind == task.game.goal.kind for task in tasks)


@pytest.mark.slow
def test_no_game_occurs_twice(drawn: dict[str, list[AlfworldTask]]) -> None:
    hashes = [game_hash(task.game) for tasks in drawn.values() for task in tasks]
    assert len(set(hashes)) == len(hashes) == 4500
    identifiers = [task.game.id for tasks in drawn.values() for task in tasks]
    assert len(set(identifiers)) == len(identifiers)


@pytest.mark.slow
def test_rooms_and_layouts_are_disjoint_but_for_seen(drawn: dict[str, list[AlfworldTask]]) -> None:
    seeds = {name: {room_seed(task) for task in tasks} for name, tasks in drawn.items()}
    layouts = {name: {layout_hash(splits.room_of(seed)) for seed in found} for name, found in seeds.items()}
    for one, other in combinations(SIZES, 2):
        if {one, other} != {"lm-train", "seen"}:
            assert seeds[one].isdisjoint(seeds[other])
            assert layouts[one].isdisjoint(layouts[other])
    shared = seeds["seen"] & seeds["lm-train"]
    assert len(shared) > 0.5 * len(seeds["seen"])
    assert {name: len(found) > 150 for name, found in seeds.items()} == dict.fromkeys(SIZES, True)


@pytest.mark.slow
def test_seeds_of_games_are_disjoint_even_in_shared_rooms(drawn: dict[str, list[AlfworldTask]]) -> None:
    seeds = {name: {int(task.game.id.rpartition("_G")[2]) for task in drawn[name]} for name in SIZES}
    for one, other in combinations(SIZES, 2):
        assert seeds[one].isdisjoint(seeds[other])


@pytest.mark.slow
def test_rooms_of_a_kind_follow_the_published_games(drawn: dict[str, list[AlfworldTask]]) -> None:
    rooms = Counter((task.kind, ROOM_KINDS[room_seed(task) % 4].value) for task in drawn["lm-train"])
    assert rooms[TaskKind.HEAT, "kitchen"] == rooms[TaskKind.COOL, "kitchen"] == 200
    assert abs(rooms[TaskKind.CLEAN, "bathroom"] / 200 - 0.234) < 0.08
    assert abs(rooms[TaskKind.LOOK, "living room"] / 200 - 0.159) < 0.07
    assert all(rooms[TaskKind.TWO, room.value] > 15 for room in ROOM_KINDS)


def test_unknown_split_and_negative_index_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^unknown split 'test'; generated splits are lm-train, seen, .*unseen$"):
        splits.task("test", 0)
    with pytest.raises(ConfigError, match="unknown split"):
        splits.tasks("valid_seen")
    with pytest.raises(ConfigError, match="must not be negative"):
        splits.task("unseen", -1)
