"""How many high steps a lost task needs: of the tasks that low loses and high wins, how many one high step on low's own
trajectory rescues, how many two, and at which share of the positions.

    python benchmarks/rescues.py --suite alfworld-3 --low w2g128-rtn --tasks 300
    python benchmarks/rescues.py --suite alfworld-2 --low w3g64-gptq --split validation --lost 40 --rate 0.25 --free

All tasks are played by both variants; then every position of low's trajectory is tried alone, and for tasks that no single step
rescues a share --rate of the pairs. Prints counts with 95 % intervals (shares of tasks: Wilson; of positions: bootstrap over
tasks). One process, one thread. A file of --out per setting holds a line a lost task, which is not searched again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bitroute.engines.caching import CachingEngine
from bitroute.engines.engine import CacheMode, Engine
from bitroute.engines.registry import load_engine, make_variants
from bitroute.engines.spec import EngineSpec
from bitroute.envs.models import find_model
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.episode import Task
from bitroute.errors import BitrouteError
from bitroute.evaluation.statistics import bootstrap_mean, wilson
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.host import calibration_batches
from bitroute.rollout.player import Player, play
from bitroute.rollout.rescues import Rescue, rescues
from bitroute.routers.rules import Always
from bitroute.store.runs import processor


def outcomes(player: Player, tasks: list[Task], label: str) -> dict[str, bool]:
    """Who of the tasks is won."""
    episodes = play(player, [(task, 0) for task in tasks], label)
    return {e.task_id: e.success for e in tqdm(episodes, desc=label, total=len(tasks), unit="episode")}


def stored(path: Path) -> dict[str, Rescue]:
    """What an earlier run found; a half-written last line is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    rows = [row | {"positions": tuple(row["positions"]), "pairs": tuple(map(tuple, row["pairs"]))} for row in found]
    return {row["task_id"]: Rescue(**row) for row in rows}


def summarise(found: list[Rescue], rate: float) -> None:
    """Print what single steps and pairs are worth."""
    if not found:
        print("no lost task to look at")
        return
    n = len(found)
    alone = [rescue for rescue in found if rescue.positions]
    pairs = [rescue for rescue in found if rescue.pairs]
    share = bootstrap_mean(np.array([len(rescue.positions) / rescue.length for rescue in found]))
    for label, count in (("one high step", len(alone)), ("one or two", len(alone) + len(pairs))):
        interval = wilson(count, n)
        print(f"rescued by {label}: {count} of {n} ({count / n:.0%} [{interval.low:.0%}, {interval.high:.0%}])")
    print(f"positions that rescue alone: {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of a lost episode's steps")
    tried = sum(rescue.tried for rescue in found)
    if tried:
        won = sum(len(rescue.pairs) for rescue in found)
        print(f"pairs tried where no step alone does (share {rate:g}): {tried}, of which {won} rescue ({won / tried:.1%})")


def main() -> None:
    """Play, search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default=DEFAULT)
    parser.add_argument("--data", type=Path, help="directory of the publisher's files")
    parser.add_argument("--model", help="a bundled model's name or a directory (default: the suite's)")
    parser.add_argument("--low", help="scheme of the low variant (default: the suite's)")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--lost", type=int, default=40, help="lost tasks to search, from the first one")
    parser.add_argument("--rate", type=float, default=0.25, help="share of the pairs to try; 0 for none")
    parser.add_argument("--steps", type=int, help="an episode's steps (default: the suite's)")
    parser.add_argument("--free", action="store_true", help="write freely instead of choosing among admissible commands")
    parser.add_argument("--variants", type=Path, default=Path("variants"), help="where quantized variants are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/rescues"))
    args = parser.parse_args()
    try:
        torch.set_num_threads(1)
        suite = load_suite(args.suite, args.data)
        model = find_model(args.model or suite.defaults.model, suite)
        low = args.low or suite.defaults.low
        spec = EngineSpec(model=model, schemes=(low,), variants=args.variants, device="cpu", dtype="float32")
        make_variants(spec, lambda: calibration_batches(suite, model))
        agent = suite.agent(Tokenizer.load(model))
        hosted = load_engine(spec, agent.end)
        engine: Engine[Any] = CachingEngine(hosted) if hosted.cache_mode is CacheMode.OWN else hosted
        steps = args.steps or suite.defaults.max_steps

        def player(variant: str) -> Player:
            router = Always(engine.ladder, variant)
            return Player(suite.environment, agent, engine, router, max_steps=steps, constrained=not args.free)

        tasks = [suite.task(args.split, index) for index in range(args.tasks)]
        lows = outcomes(player(engine.ladder[0]), tasks, "low")
        highs = outcomes(player(engine.ladder[-1]), tasks, "high")
        lost = [task for task in tasks if highs[task.id] and not lows[task.id]]
        won_low, won_high = (float(np.mean(list(won.values()))) for won in (lows, highs))
        print(
            f"{args.suite}, {args.split}, {args.tasks} tasks, {'free' if args.free else 'constrained'}, {steps} steps, "
            f"{processor()}: {low} {won_low:.1%}, {engine.ladder[-1]} {won_high:.1%}, {len(lost)} lost by low and won by high"
        )
        way = "free" if args.free else "constrained"
        path = args.out / f"{args.suite}-{args.split}-{model.name}-{low}-{way}-{steps}-{args.rate:g}.jsonl"
        known = stored(path)
        chosen = lost[: args.lost]
        missing = [task for task in chosen if task.id not in known]
        args.out.mkdir(parents=True, exist_ok=True)
        searching = rescues(player(engine.ladder[0]), missing, rate=args.rate)
        with path.open("a") as file:
            for rescue in tqdm(searching, desc="search", total=len(missing), unit="task"):
                known[rescue.task_id] = rescue
                file.write(json.dumps(asdict(rescue)) + "\n")
                file.flush()
        summarise([known[task.id] for task in chosen if task.id in known], args.rate)
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
