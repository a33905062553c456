"""Records what the official engine answers on generated games: tests/fixtures/alfworld/generated.json and several-goals.json.

Needs the extra: pip install 'bitroute[alfworld]'. Takes minutes:
    python tests/tools/record_alfworld.py
    python tests/tools/record_alfworld.py --goals 2 3 --games 4

A third of the games play their walkthrough, two thirds wander (admissible commands and nonsense, with the walkthrough's
commands now and then). Strings are stored once a game and referred to by number; fields at their default are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from bitroute.envs.alfworld.official import OfficialAlfworldEnvironment
from bitroute.envs.alfworld.simulator.differential import following, play_both, wandering
from bitroute.envs.alfworld.simulator.game import AlfworldTask, Game, Thing
from bitroute.envs.alfworld.splits import split

FIXTURES = Path(__file__).parents[1] / "fixtures" / "alfworld"
SPLITS = ("lm-train", "validation", "unseen")
DEFAULTS = {field.name: field.default for field in dataclasses.fields(Thing) if field.default is not dataclasses.MISSING}


def compact(game: Game) -> dict[str, Any]:
    """The game as JSON values, things without the fields that are at their default."""
    value = dataclasses.asdict(game)
    value["can_contain"] = sorted(game.can_contain)
    value["things"] = [
        {name: field for name, field in thing.items() if name not in DEFAULTS or field != DEFAULTS[name]}
        for thing in value["things"]
    ]
    return value


def record(engine: OfficialAlfworldEnvironment, task: AlfworldTask, steps: int, seed: int) -> dict[str, Any]:
    """The transcript of one game."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    plan = task.game.walkthrough
    choose = following(plan) if seed // 6 % 3 == 0 else wandering(Random(seed), steps, winning=plan)
    frames = [
        [
            None if frame.command is None else number(frame.command),
            number(frame.text),
            [number(command) for command in frame.admissible],
            float(frame.won),
            frame.done,
        ]
        for frame in play_both(engine, task, choose)
    ]
    return {"split": task.split, "kind": task.kind, "game": compact(task.game), "frames": frames, "strings": list(numbers)}


def main() -> None:
    """Record the first games of the splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=12, help="games a split")
    parser.add_argument(
        "--goals", type=int, nargs="+", default=[1], help="goals of a game; several numbers for as many games each"
    )
    parser.add_argument("--steps", type=int, default=45)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    engine = OfficialAlfworldEnvironment()
    several = arguments.goals != [1]
    starts = [number * arguments.games if several else 0 for number in range(len(SPLITS))]  # kinds take turns by index
    tasks = [
        task
        for goals in arguments.goals
        for name, start in zip(SPLITS, starts, strict=True)
        for task in split(name, arguments.games, start, goals)
    ]
    transcripts = [record(engine, task, arguments.steps, seed) for seed, task in enumerate(tqdm(tasks))]
    FIXTURES.mkdir(parents=True, exist_ok=True)
    (FIXTURES / ("several-goals.json" if several else "generated.json")).write_text(
        "[\n" + ",\n".join(json.dumps(t, separators=(",", ":")) for t in transcripts) + "\n]\n"
    )


if __name__ == "__main__":
    main()
