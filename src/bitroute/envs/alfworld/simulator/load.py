"""Reads official ALFWorld game directories as they are. It knows the file format and the domain's words, and plays nothing.

A game directory holds `game.tw-pddl` (JSON: pddl_domain, grammar with the task line filled in, pddl_problem, solvable,
walkthrough) and `traj_data.json` (of which the task type is read). Splits are directories below `json_2.1.1`.
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec

from bitroute.envs.alfworld.simulator.game import (
    GOAL_JOINT,
    TASK_MARK,
    AlfworldTask,
    Game,
    Goal,
    Receptacle,
    TaskKind,
    Thing,
    numbered_names,
)
from bitroute.errors import ConfigError, DataError

GAME_FILE = "game.tw-pddl"
TRAJECTORY_FILE = "traj_data.json"

# Which split of a table an official directory belongs to: valid_seen shares its tasks with train.
SPLITS = {
    "train": "official-train",
    "valid_train": "official-valid-train",
    "valid_seen": "official-seen",
    "valid_unseen": "official-unseen",
}

_TEMPLATES = {
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
_ACTIONS = frozenset(name.lower() for name in _TEMPLATES)
# Predicates of the initial state with their number of arguments.
_PREDICATES = {
    "receptacleType": 2,
    "objectType": 2,
    "canContain": 2,
    "pickupable": 1,
    "cleanable": 1,
    "heatable": 1,
    "coolable": 1,
    "toggleable": 1,
    "sliceable": 1,
    "openable": 1,
    "isReceptacleObject": 1,
    "isCool": 1,
    "inReceptacle": 2,
    "inReceptacleObject": 2,
    "receptacleAtLocation": 2,
    "objectAtLocation": 2,
    "atLocation": 2,
}
_FACT = re.compile(r"\(([^()]+)\)")
_ACTION = re.compile(r"\(:action\s+(\w+)")
_TEMPLATE = re.compile(r'action\s+(\w+)\s*\{\s*template\s*::\s*"([^"]*)"')
_TASK = re.compile(r'"task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*("(?:[^"\\]|\\.)*")')
_GOAL_TYPE = re.compile(r"\((objectType|receptacleType)\s+\?(\w+)\s+(\w+)\)")


class _GameFile(msgspec.Struct):
    pddl_domain: str
    grammar: str
    pddl_problem: str
    solvable: bool = True
    walkthrough: list[str] | None = None


class _TrajectoryFile(msgspec.Struct):
    task_type: str


_FileT = TypeVar("_FileT", _GameFile, _TrajectoryFile)


def load_task(path: str | Path, split: str = "official") -> AlfworldTask:
    """Read one official game; `path` is its directory or its `game.tw-pddl`.

    Raises DataError, naming the file, when a file is missing or truncated, holds another domain or wording than ALFWorld's
    current one, or is marked unsolvable.
    """
    path = Path(path)
    file = path / GAME_FILE if path.is_dir() else path
    game = load_game(file)
    return AlfworldTask(game.id, game.goal.kind.value, split, game, str(file))


def load_game(file: Path) -> Game:
    """The game of one `game.tw-pddl`; a `traj_data.json` beside it must name the same task type. Raises DataError."""
    data = _decode(file, _GameFile)
    if not data.solvable:
        raise DataError(f"{file}: the game is marked unsolvable")
    problem = _known_wording(data, file)
    start, end = problem.find("(:init"), problem.find("(:goal")
    if not 0 <= start < end:
        raise DataError(f"{file}: pddl_problem has no (:init ...) followed by a (:goal ...)")
    *earlier, goal = _goals(problem[end:], data.grammar, file)
    trajectory = file.with_name(TRAJECTORY_FILE)
    if trajectory.exists() and (said := _decode(trajectory, _TrajectoryFile).task_type) != goal.kind:
        raise DataError(f"{trajectory}: task_type is {said!r}, but the goal of {GAME_FILE} is {goal.kind.value!r}")
    facts = _facts(problem[start + len("(:init") : end], file)
    game = _assemble("/".join(file.parts[-3:-1]), goal, facts, tuple(data.walkthrough or ()), file)
    return replace(game, earlier=tuple(earlier))


def find_games(root: str | Path | None, split: str) -> list[Path]:
    """The game files of an official split, sorted by path; games with movable receptacles or slices are left out.

    `root` is the directory that holds `json_2.1.1` (or is it); None stands for $ALFWORLD_DATA. Raises ConfigError when
    neither is given or the split is unknown there.
    """
    if root is None and not (root := os.environ.get("ALFWORLD_DATA")):
        raise ConfigError("no official games: set ALFWORLD_DATA to the directory that holds json_2.1.1, or name it by --data")
    base = Path(root)
    if (base / "json_2.1.1").is_dir():
        base = base / "json_2.1.1"
    directory = base / split
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such split directory (known names: {', '.join(SPLITS)})")
    found = []
    for game in directory.rglob(GAME_FILE):
        below = str(game.parent.relative_to(directory))
        if "movable" not in below and "Sliced" not in below and (game.parent / TRAJECTORY_FILE).is_file():
            found.append(game)
    return sorted(found)


def load_split(root: str | Path | None, split: str) -> Iterator[AlfworldTask]:
    """The tasks of an official split, read one at a time, under the split's name in tables (`SPLITS`)."""
    for file in find_games(root, split):
        yield load_task(file, SPLITS.get(split, split))


def _decode(file: Path, kind: type[_FileT]) -> _FileT:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{file}: not a complete official file: {error}") from error


def _known_wording(data: _GameFile, file: Path) -> str:
    """Refuse domains and grammars that the simulator does not play; returns the problem."""
    if not _is_known_domain(data.pddl_domain):
        raise DataError(f"{file}: pddl_domain is not the ALFWorld domain that bitroute plays")
    templates = dict(_TEMPLATE.findall(data.grammar))
    for action, template in _TEMPLATES.items():
        if templates.get(action) != template:
            raise DataError(f"{file}: the grammar's template of {action} is {templates.get(action)!r}, expected {template!r}")
    return data.pddl_problem


@lru_cache(maxsize=4)
def _is_known_domain(domain: str) -> bool:
    code = " ".join(re.sub(r";[^\n]*", "", domain).lower().split())
    if "(domain alfred)" not in code or frozenset(_ACTION.findall(code)) != _ACTIONS:
        return False
    # The published domain has a comma too many here, which keeps all but held things from being examined.
    return "(exists (?l - location ?r - receptacle)" not in code


def _goals(text: str, grammar: str, file: Path) -> list[Goal]:
    """The goal of a published file, or all those of a conjunction that `export.py` wrote; each with its own task line."""
    line = _TASK.search(grammar)
    if line is None:
        raise DataError(f"{file}: the grammar has no task line")
    task: str = msgspec.json.decode(line[1], type=str)
    parts = _conjuncts(text)
    if len(parts) == 1:
        return [_goal(parts[0], task, file)]
    sentences = task.removeprefix(TASK_MARK).removesuffix(".").split(GOAL_JOINT)
    if len(sentences) != len(parts):
        raise DataError(f"{file}: the goal has {len(parts)} parts, its task line {len(sentences)}")
    goals = [_goal(part, f"{TASK_MARK}{said}.", file) for part, said in zip(parts, sentences, strict=True)]
    if any(goal.kind is TaskKind.LOOK for goal in goals[:-1]):
        raise DataError(f"{file}: to look at something under a lamp must be the last of several goals")
    return goals


def _conjuncts(text: str) -> list[str]:
    """The formulas joined by the outermost `and`, where each is an `and` itself; else the text as the only one."""
    inner = text.partition("(:goal")[2]
    start = re.match(r"\s*\(and(?=\s*\(and\b)", inner)
    if start is None:
        return [text]
    parts, depth, begun = [], 0, 0
    for place in range(start.end(), len(inner)):
        if inner[place] == "(":
            if depth == 0:
                begun = place
            depth += 1
        elif inner[place] == ")":
            depth -= 1
            if depth < 0:
                break
            if depth == 0:
                parts.append(inner[begun : place + 1])
    return parts


def _goal(text: str, task: str, file: Path) -> Goal:
    """One goal of a single kind, by the predicates in its formula."""
    types = [(predicate, name.removesuffix("Type")) for predicate, _, name in _GOAL_TYPE.findall(text)]
    objects = [name for predicate, name in types if predicate == "objectType"]
    parents = {name for predicate, name in types if predicate == "receptacleType"}
    if "isToggled" in text and "holds" in text and len(objects) == 2 and not parents:
        return Goal(TaskKind.LOOK, task, target=objects[1], lamp=objects[0])
    kinds = {"isClean": TaskKind.CLEAN, "isHot": TaskKind.HEAT, "isCool": TaskKind.COOL}
    states = [kind for word, kind in kinds.items() if word in text]
    if len(parents) == 1 and len(set(objects)) == 1 and len(states) <= 1 and len(objects) <= 2 and "isSliced" not in text:
        kind = TaskKind.TWO if len(objects) == 2 else states[0] if states else TaskKind.PLACE
        return Goal(kind, task, target=objects[0], parent=parents.pop())
    raise DataError(f"{file}: the goal is none of ALFWorld's six task types")


def _facts(text: str, file: Path) -> dict[str, list[list[str]]]:
    facts: defaultdict[str, list[list[str]]] = defaultdict(list)
    for match in _FACT.findall(text):
        predicate, *arguments = match.split()
        if _PREDICATES.get(predicate) != len(arguments):
            raise DataError(f"{file}: unknown fact ({match.strip()}) in (:init ...)")
        facts[predicate].append(arguments)
    return facts


def _assemble(name: str, goal: Goal, facts: dict[str, list[list[str]]], walkthrough: tuple[str, ...], file: Path) -> Game:
    names = numbered_names({argument for rows in facts.values() for row in rows for argument in row})

    def having(predicate: str) -> set[str]:
        return {row[0] for row in facts[predicate]}

    def related(predicate: str) -> dict[str, list[str]]:
        table: defaultdict[str, list[str]] = defaultdict(list)
        for first, second in facts[predicate]:
            if second not in table[first]:
                table[first].append(second)
        return table

    def one(predicate: str) -> dict[str, str]:
        table = related(predicate)
        for first, seconds in table.items():
            if len(seconds) > 1:
                raise DataError(f"{file}: {first} has more than one {predicate}")
        return {first: seconds[0] for first, seconds in table.items()}

    def short(kind: str) -> str:
        return sys.intern(kind.removesuffix("Type"))

    starts = list(one("atLocation").values())
    if len(starts) != 1:
        raise DataError(f"{file}: exactly one atLocation fact is expected, found {len(starts)}")
    able = {name: having(name) for name, arguments in _PREDICATES.items() if arguments == 1}
    receptacle_at, receptacle_type = one("receptacleAtLocation"), one("receptacleType")
    try:
        receptacles = tuple(
            Receptacle(mangled, short(receptacle_type[mangled]), names[mangled], location, mangled in able["openable"])
            for mangled, location in receptacle_at.items()
        )
    except KeyError as error:
        raise DataError(f"{file}: the receptacle {error.args[0]} has no receptacleType") from None
    object_type, object_at, holders = one("objectType"), one("objectAtLocation"), related("inReceptacle")
    for thing, found in holders.items():
        for receptacle in found:
            if receptacle not in receptacle_at:
                raise DataError(f"{file}: {thing} is in {receptacle}, which has no receptacleAtLocation")
    contents: defaultdict[str, list[str]] = defaultdict(list)
    for inner, outers in related("inReceptacleObject").items():
        for outer in outers:
            contents[outer].append(inner)
    ids = dict.fromkeys([*object_type, *object_at, *holders, *contents, *(i for inner in contents.values() for i in inner)])
    things = tuple(
        Thing(
            mangled,
            short(object_type.get(mangled, "")),
            names[mangled],
            object_at.get(mangled),
            tuple(holders.get(mangled, ())),
            pickupable=mangled in able["pickupable"],
            cleanable=mangled in able["cleanable"],
            heatable=mangled in able["heatable"],
            coolable=mangled in able["coolable"],
            toggleable=mangled in able["toggleable"],
            sliceable=mangled in able["sliceable"],
            holds_others=mangled in able["isReceptacleObject"],
            cool=mangled in able["isCool"],
            contents=tuple(contents.get(mangled, ())),
        )
        for mangled in ids
    )
    can_contain = frozenset((short(receptacle), short(thing)) for receptacle, thing in facts["canContain"])
    return Game(name, goal, starts[0], receptacles, things, can_contain, walkthrough)
