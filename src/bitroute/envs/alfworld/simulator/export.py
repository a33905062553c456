"""Writes a game as an official game directory, for the official engine and for anyone who reads its files. Plays nothing.

ALFWorld's domain and grammar are not part of this package: an export takes them from an official game file or from an
installed `alfworld` package. Only the problem text is written here, in the dialect of the published files.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bitroute.envs.alfworld.simulator.game import TASK_MARK, Game, Goal, TaskKind, Thing, demangled
from bitroute.envs.alfworld.simulator.load import GAME_FILE, TRAJECTORY_FILE
from bitroute.errors import CapabilityError, DataError

# Types that the domain's actions name; the translator refuses problems that do not declare them.
_OBJECT_TYPES = frozenset({"Knife", "ButterKnife", "Sink"})
_RECEPTACLE_TYPES = frozenset({"SinkBasin", "Microwave", "Fridge"})
_TASK_LINE = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)"(?:[^"\\]|\\.)*"')
_STATES = {
    TaskKind.CLEAN: ("cleanable", "isClean"),
    TaskKind.HEAT: ("heatable", "isHot"),
    TaskKind.COOL: ("coolable", "isCool"),
}
_FLAGS = {
    "pickupable": "pickupable",
    "isReceptacleObject": "holds_others",
    "cleanable": "cleanable",
    "heatable": "heatable",
    "coolable": "coolable",
    "toggleable": "toggleable",
    "sliceable": "sliceable",
    "isCool": "cool",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """ALFWorld's texts that every game file repeats: the PDDL domain and the grammar (any game's task line in it)."""

    domain: str
    grammar: str


class _RulesFile(msgspec.Struct):
    pddl_domain: str
    grammar: str


def find_rules(game_file: str | Path | None = None) -> Rules:
    """The rules of an official `game.tw-pddl`, or without one those of the installed `alfworld` package.

    Raises DataError, naming the file, when it holds no rules, and CapabilityError when `alfworld` is not installed.
    """
    if game_file is not None:
        file = Path(game_file)
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_RulesFile)
        except OSError as error:
            raise DataError(f"{file}: {error.strerror or error}") from error
        except msgspec.MsgspecError as error:
            raise DataError(f"{file}: not a complete official file: {error}") from error
        return Rules(found.pddl_domain, found.grammar)
    package = importlib.util.find_spec("alfworld")
    if package is None or package.origin is None:
        raise CapabilityError("no rules to export with: pip install 'bitroute[alfworld]' or name an official game.tw-pddl")
    data = Path(package.origin).parent / "data"
    try:
        return Rules((data / "alfred.pddl").read_text("utf-8"), (data / "alfred.twl2").read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror or error}") from error


def export_game(game: Game, root: str | Path, rules: Rules) -> Path:
    """Write `game` below `root`, in the directories that its id names, and return the path of its `game.tw-pddl`.

    `load_game` reads back an equal game. Raises DataError when the rules have no task line or a file cannot be written;
    files appear complete or not at all.
    """
    grammar, replaced = _TASK_LINE.subn(lambda found: found[1] + json.dumps(game.task_line), rules.grammar, count=1)
    if not replaced:
        raise DataError(f"{game.id}: the grammar to export with has no task line")
    content = {
        "pddl_domain": rules.domain,
        "grammar": grammar,
        "pddl_problem": problem_text(game),
        "solvable": True,
        "walkthrough": list(game.walkthrough),
    }
    directory = Path(root, *game.id.split("/"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # The loader looks for game files: the one that makes the directory a game comes last.
        _write(directory / TRAJECTORY_FILE, _trajectory(game))
        _write(directory / GAME_FILE, content)
    except OSError as error:
        raise DataError(f"{error.filename or directory}: {error.strerror or error}") from error
    return directory / GAME_FILE


def problem_text(game: Game) -> str:
    """The PDDL problem of a game: what exists, where it is at the start, and what wins."""
    lines = [f"(define (problem {_symbol(game.id)})", "(:domain alfred)", "(:objects", "agent1 - agent"]
    lines += _declarations(game)
    lines += [")", "(:init"]
    lines += [f"    ({fact})" for fact in _facts(game)]
    lines += [")", "(:goal", *_conjunction(game), ")", ")", ""]
    return "\n".join(lines)


def _declarations(game: Game) -> Iterator[str]:
    def declare(names: Iterable[str | None], kind: str) -> Iterator[str]:
        return (f"    {name} - {kind}" for name in dict.fromkeys(names) if name)

    object_types = {thing.type for thing in game.things if thing.type} | {name for _, name in game.can_contain} | _OBJECT_TYPES
    object_types |= {name for goal in game.goals for name in (goal.target, goal.lamp) if name}
    types = {receptacle.type for receptacle in game.receptacles} | {name for name, _ in game.can_contain} | _RECEPTACLE_TYPES
    types |= {goal.parent for goal in game.goals if goal.parent}
    yield from declare((f"{name}Type" for name in sorted(object_types)), "otype")
    yield from declare((f"{name}Type" for name in sorted(types)), "rtype")
    yield from declare((thing.id for thing in game.things), "object")
    yield from declare((receptacle.id for receptacle in game.receptacles), "receptacle")
    places = [receptacle.location for receptacle in game.receptacles] + [thing.location for thing in game.things]
    yield from declare([game.start, *places], "location")


def _facts(game: Game) -> Iterator[str]:
    receptacles, things = game.receptacles, game.things
    yield from (f"receptacleType {receptacle.id} {receptacle.type}Type" for receptacle in receptacles)
    yield from (f"objectType {thing.id} {thing.type}Type" for thing in things if thing.type)
    yield from (f"canContain {holder}Type {thing}Type" for holder, thing in sorted(game.can_contain))
    yield from (f"openable {receptacle.id}" for receptacle in receptacles if receptacle.openable)
    for predicate, flag in _FLAGS.items():
        yield from (f"{predicate} {thing.id}" for thing in things if _is(thing, flag))
    yield f"atLocation agent1 {game.start}"
    yield from (f"inReceptacle {thing.id} {holder}" for thing in things for holder in thing.receptacles)
    yield from (f"inReceptacleObject {inner} {thing.id}" for thing in things for inner in thing.contents)
    yield from (f"receptacleAtLocation {receptacle.id} {receptacle.location}" for receptacle in receptacles)
    yield from (f"objectAtLocation {thing.id} {thing.location}" for thing in things if thing.location is not None)


def _is(thing: Thing, flag: str) -> bool:
    return bool(getattr(thing, flag))


def _conjunction(game: Game) -> list[str]:
    """The goal as the published files have it; several of them in one conjunction."""
    if not game.earlier:
        return _goal(game.goal)
    return ["(and", *(line for goal in game.goals for line in _goal(goal)), ")"]


def _goal(goal: Goal) -> list[str]:
    target, parent = f"{goal.target}Type", f"{goal.parent}Type"
    if goal.kind is TaskKind.LOOK:
        lit = f"(objectType ?ot {goal.lamp}Type) (toggleable ?ot) (isToggled ?ot)"
        return [
            "(and",
            f"    (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and {lit}",
            "        (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))",
            f"    (exists (?o - object ?a - agent) (and (objectType ?o {target}) (holds ?a ?o)))",
            ")",
        ]
    placed = f"(objectType ?{{o}} {target}) (receptacleType ?r {parent}) (inReceptacle ?{{o}} ?r)"
    if goal.kind is TaskKind.TWO:
        other = f"(exists (?o2 - object) (and (not (= ?o1 ?o2)) {placed.format(o='o2')}))"
        wanted, name = f"{placed.format(o='o1')} {other}", "o1"
    else:
        able, state = _STATES.get(goal.kind, ("", ""))
        extra = f" ({able} ?o) ({state} ?o)" if able else ""
        wanted, name = placed.format(o="o") + extra, "o"
    return [f"(and (exists (?r - receptacle) (exists (?{name} - object) (and {wanted}))))"]


def _trajectory(game: Game) -> dict[str, object]:
    goal = game.goal
    directory, _, trial = game.id.rpartition("/")
    room = re.search(r"(\d+)$", directory)
    number = int(room[1]) if room else 0
    sentence = game.task_line.removeprefix(TASK_MARK)
    return {
        "task_id": trial,
        "task_type": goal.kind.value,
        "pddl_params": {
            "object_target": goal.target,
            "parent_target": goal.parent or "",
            "toggle_target": goal.lamp or "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {"floor_plan": f"FloorPlan{number}", "scene_num": number},
        "turk_annotations": {"anns": [{"task_desc": sentence, "high_descs": [], "votes": []}]},
    }


def _symbol(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", demangled(text))


def _write(file: Path, content: object) -> None:
    """Write JSON to a temporary file beside `file` and give it its name."""
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(content, out)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
