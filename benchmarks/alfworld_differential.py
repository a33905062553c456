"""Compares the native ALFWorld engine with the official one, frame by frame: text, admissible commands in order, won, done.

Needs the extra: pip install 'bitroute[alfworld]', and the official games ($ALFWORLD_DATA or --data) but for generated ones. The
full run takes hours:
    python benchmarks/alfworld_differential.py
    python benchmarks/alfworld_differential.py --part random --games 10 --steps 60 --seed 3
    python benchmarks/alfworld_differential.py --part generated --goals 2 3 --games 20
Prints one line a mismatch and at the end the counts and the machine. Exit status 1 when there was any mismatch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from tqdm import tqdm

from bitroute.envs.alfworld import splits
from bitroute.envs.alfworld.official import OfficialAlfworldEnvironment
from bitroute.envs.alfworld.simulator.differential import Frame, compare, following, play_both, wandering
from bitroute.envs.alfworld.simulator.environment import AlfworldEnvironment
from bitroute.envs.alfworld.simulator.game import AlfworldTask
from bitroute.envs.alfworld.simulator.load import find_games, load_task


def difference(theirs: Frame, ours: Frame) -> dict[str, object]:
    """The fields that differ, theirs and ours."""
    found: dict[str, object] = {}
    for field in ("text", "won", "done"):
        if getattr(theirs, field) != getattr(ours, field):
            found[field] = [getattr(theirs, field), getattr(ours, field)]
    if theirs.admissible != ours.admissible:
        only = sorted(set(theirs.admissible) - set(ours.admissible)), sorted(set(ours.admissible) - set(theirs.admissible))
        found["admissible"] = only if any(only) else "another order"
    return found


def games(part: str, data: Path | None, seed: int, limit: int | None) -> list[Path]:
    """The games of a part, in an order fixed by `seed`."""
    shuffled = Random(seed)
    train = find_games(data, "train")
    shuffled.shuffle(train)
    seen = find_games(data, "valid_seen")
    shuffled.shuffle(seen)
    if part == "walkthrough":
        return (seen + train[:300])[:limit]
    return [file for pair in zip(seen, train[300:], strict=False) for file in pair][: limit or 100]


def generated(goals: list[int], limit: int | None) -> Iterator[AlfworldTask]:
    """Exported games of `validation`, the numbers of goals in turn, so that two neighbours have the same kind of last goal."""
    for number in range(limit or 20):
        yield splits.task("validation", number // len(goals), goals[number % len(goals)])


def main() -> int:
    """Parse the flags, run the parts, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory that holds json_2.1.1 (default: $ALFWORLD_DATA)")
    parser.add_argument("--part", choices=("walkthrough", "random", "generated", "all"), default="all")
    parser.add_argument("--games", type=int, help="games a part (default: 440 walkthroughs, 100 random, 20 generated)")
    parser.add_argument("--goals", type=int, nargs="+", default=[2, 3], help="goals of generated games, as many games of each")
    parser.add_argument("--steps", type=int, default=60, help="commands a game of random play")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    # This directory holds an `alfworld.py` of our own, which must not hide the official package of that name.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

    official, native = OfficialAlfworldEnvironment(), AlfworldEnvironment()
    mismatches = 0
    for part in ("walkthrough", "random", "generated") if arguments.part == "all" else (arguments.part,):
        played = frames = wrong = won = 0
        start = time.perf_counter()
        if part == "generated":
            tasks: Iterable[AlfworldTask] = generated(arguments.goals, arguments.games)
        else:
            tasks = map(load_task, games(part, arguments.data, arguments.seed, arguments.games))
        for number, task in enumerate(tqdm(tasks, desc=part)):
            plan = task.game.walkthrough
            if part == "walkthrough" or (part == "generated" and number // len(arguments.goals) % 2 == 0):
                chooser = following(plan)
            else:
                chooser = wandering(Random(arguments.seed * 1_000_003 + number), arguments.steps, winning=plan)
            for theirs, ours in compare(play_both(official, task, chooser), native, task):
                frames += 1
                won += int(theirs.won)
                if found := difference(theirs, ours):
                    wrong += 1
                    tqdm.write(json.dumps({"game": task.id, "frame": frames, "command": theirs.command, **found}))
                    sys.stdout.flush()
            played += 1
        seconds = time.perf_counter() - start
        print(f"{part}: {played} games, {frames} frames, {won} won, {wrong} mismatches, {seconds:.0f} s", flush=True)
        mismatches += wrong
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    return int(mismatches > 0)


if __name__ == "__main__":
    sys.exit(main())
