"""Plays `validation` games as a worker does, with whichever bitroute is on the path; prints one line of JSON.

    PYTHONPATH=<tree>/src python benchmarks/engine_steps.py <model> --games 192 --dtype bfloat16

It knows the layout of today and that of commit 185291e: `benchmarks/engine.py --baseline <tree>` runs it with both, in turns.
A ladder of two (w3g64-rtn and the checkpoint), own caches, every other step at high precision, one thread; CPU seconds of this
process, without loading and the first eight games.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOW = "w3g64-rtn"
WARM = 8


def no_calibration() -> Any:
    """Rounding needs no text."""
    raise AssertionError("rounding asks for no calibration")


def player(model: Path, variants: Path, dtype: str) -> tuple[Callable[[Any], list[Any]], type[Any]]:
    """What plays a shard, and the class of jobs, of the layout that is there."""
    try:
        from bitroute.engines.loading import quantize  # noqa: PLC0415
    except ModuleNotFoundError:
        return _former(model, variants, dtype)
    from bitroute.engines.spec import EngineSpec  # noqa: PLC0415
    from bitroute.rollout.host import load_player  # noqa: PLC0415
    from bitroute.rollout.workers import Hosting, Job  # noqa: PLC0415

    quantize(model, LOW, variants, no_calibration)
    spec = EngineSpec(model=model, schemes=(LOW,), variants=variants, device="cpu", dtype=dtype)
    return load_player(Hosting("alfworld", None, spec)), Job


def _former(model: Path, variants: Path, dtype: str) -> tuple[Callable[[Any], list[Any]], type[Any]]:
    """The layout of 185291e."""
    from importlib import import_module  # noqa: PLC0415

    hosting, alfworld, workers = (import_module(f"bitroute.{name}") for name in ("engines.hosting", "alfworld", "workers"))
    hosting.quantize(model, LOW, variants, no_calibration)
    return alfworld.load_player(workers.Hosting(model, (LOW,), variants, "own", dtype)), workers.Job


def main() -> None:
    """Parse the flags, play, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--games", type=int, default=192)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--policy", default="periodic:0.5")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        play, job = player(arguments.model.resolve(), Path(directory), arguments.dtype)
        for shard in job("validation", WARM, arguments.policy, "warm", start=arguments.games).shards():
            play(shard)
        start = time.process_time()
        episodes = [e for s in job("validation", arguments.games, arguments.policy, "measured").shards() for e in play(s)]
        seconds = time.process_time() - start
    usages = [step.usage for episode in episodes for step in episode.steps]
    print(
        json.dumps(
            {
                "games": len(episodes),
                "steps": len(usages),
                "seconds": seconds,
                "tokens": sum(u.prefill + u.decode for u in usages),
                "wins": sum(e.success for e in episodes),
                "actions": [[step.action for step in episode.steps] for episode in episodes],
            }
        )
    )


if __name__ == "__main__":
    main()
