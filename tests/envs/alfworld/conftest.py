"""A small hand-made house, and the official games where they are to be had."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bitroute.envs.alfworld.simulator.game import AlfworldTask, Game, Goal, Receptacle, TaskKind, Thing, numbered_names

ARCHIVE = Path(__file__).parents[4] / "shared" / "data" / "alfworld" / "alfworld_games.tar.xz"

GOALS = {
    TaskKind.PLACE: Goal(TaskKind.PLACE, "Your task is to: put some book on sidetable.", "Book", "SideTable"),
    TaskKind.CLEAN: Goal(TaskKind.CLEAN, "Your task is to: put a clean apple in fridge.", "Apple", "Fridge"),
    TaskKind.HEAT: Goal(TaskKind.HEAT, "Your task is to: put a hot apple in countertop.", "Apple", "CounterTop"),
    TaskKind.COOL: Goal(TaskKind.COOL, "Your task is to: cool some apple and put it in sidetable.", "Apple", "SideTable"),
    TaskKind.LOOK: Goal(TaskKind.LOOK, "Your task is to: examine the book with the desklamp.", "Book", lamp="DeskLamp"),
    TaskKind.TWO: Goal(TaskKind.TWO, "Your task is to: put two mug in sidetable.", "Mug", "SideTable"),
}
PLACES = {
    "CounterTop_bar_1": "loc_bar_1",
    "Drawer_bar_1": "loc_bar_2",
    "Drawer_bar_2": "loc_bar_2",
    "Fridge_bar_1": "loc_bar_3",
    "Microwave_bar_1": "loc_bar_4",
    "SideTable_bar_1": "loc_bar_5",
    "Sink_bar_1_bar_SinkBasin": "loc_bar_6",
}
# id: (receptacles, abilities)
STOCK: dict[str, tuple[tuple[str, ...], str]] = {
    "Apple_bar__minus_01": (("CounterTop_bar_1",), "pickupable cleanable heatable coolable sliceable"),
    "Apple_bar__plus_01": (("Fridge_bar_1",), "pickupable cleanable heatable coolable sliceable cool"),
    "Book_bar_1": (("CounterTop_bar_1",), "pickupable"),
    "Bowl_bar_1": (("CounterTop_bar_1",), "pickupable cleanable holds_others"),
    "ButterKnife_bar_1": (("Drawer_bar_1",), "pickupable cleanable"),
    "DeskLamp_bar_1": (("SideTable_bar_1",), "toggleable"),
    "Egg_bar_1": (("CounterTop_bar_1",), "pickupable cleanable heatable coolable"),
    "Mug_bar_1": (("CounterTop_bar_1", "Drawer_bar_2"), "pickupable cleanable heatable coolable"),
    "Mug_bar_2": (("Sink_bar_1_bar_SinkBasin",), "pickupable cleanable heatable coolable"),
    "Poster_bar_1": ((), ""),
}


def _type(mangled: str) -> str:
    return mangled.rpartition("_bar_")[2] if mangled.endswith("Basin") else mangled.partition("_bar_")[0]


@pytest.fixture
def house() -> Callable[[TaskKind], AlfworldTask]:
    """Makes the task of a kind in a kitchen with seven receptacles (two drawers at one location) and ten things."""

    def make(kind: TaskKind = TaskKind.PLACE) -> AlfworldTask:
        names = numbered_names([*PLACES, *STOCK])
        receptacles = tuple(
            Receptacle(i, _type(i), names[i], at, _type(i) in ("Drawer", "Fridge", "Microwave")) for i, at in PLACES.items()
        )
        things = tuple(
            Thing(
                i,
                _type(i),
                names[i],
                PLACES[holders[0]] if holders else "loc_bar_9",
                holders,
                **dict.fromkeys(abilities.split(), True),
                contents=("Egg_bar_1",) if i == "Bowl_bar_1" else (),
            )
            for i, (holders, abilities) in STOCK.items()
        )
        movable = {_type(i) for i, (_, abilities) in STOCK.items() if "pickupable" in abilities}
        can_contain = frozenset((r.type, t) for r in receptacles for t in movable if (r.type, t) != ("Microwave", "Book"))
        game = Game(f"house-{kind}", GOALS[kind], "loc_bar_0", receptacles, things, can_contain)
        return AlfworldTask(game.id, kind.value, "test", game)

    return make


@pytest.fixture(scope="session")
def official_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that holds `json_2.1.1` (at least some of train, and valid_seen); skips where there is none."""
    if root := os.environ.get("ALFWORLD_DATA"):
        return Path(root)
    if not ARCHIVE.is_file():
        pytest.skip("no official games: set ALFWORLD_DATA to the directory that holds json_2.1.1")
    target = tmp_path_factory.mktemp("official")
    trains = 0
    with tarfile.open(ARCHIVE, "r|xz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if member.isfile() and len(parts) == 5 and parts[1] in ("train", "valid_seen"):
                trains += parts[1] == "train"
                if parts[1] == "valid_seen" or trains % 120 in (1, 2):  # a game is two files in a row
                    data = archive.extractfile(member)
                    assert data is not None
                    (target / member.name).parent.mkdir(parents=True, exist_ok=True)
                    (target / member.name).write_bytes(data.read())
    return target
