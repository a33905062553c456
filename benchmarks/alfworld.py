"""The full-size ALFWorld benchmark: which widths lose how much, then the whole method, then what single choices are worth.

    python benchmarks/alfworld.py --out runs/benchmark             # everything; hours on two cores, resumable
    python benchmarks/alfworld.py --out runs/benchmark --only widths

Every part prints its table with n, seeds and machine; files stay in --out. Official games are played when $ALFWORLD_DATA is
set.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bitroute.alfworld import OFFICIAL, calibration_batches, load_player
from bitroute.cli import MODEL
from bitroute.config import ExperimentConfig
from bitroute.engines.hosting import HIGH, quantize
from bitroute.errors import BitrouteError
from bitroute.evaluation.statistics import Floats, bootstrap_difference, bootstrap_mean, mcnemar
from bitroute.evaluation.tables import summary
from bitroute.experiment import experiment
from bitroute.runs import RunDirectory, processor
from bitroute.workers import Hosting, Job, workers

SCHEMES = (
    "w8g64-rtn",
    "w4g64-rtn",
    "w4g64-gptq",
    "w3g64-rtn",
    "w3g64-gptq",
    "w2g32-rtn",
    "w2g64-rtn",
    "w2g128-rtn",
    "w2g32-gptq",
    "w2g64-gptq",
)


def widths(model: Path, out: Path, tasks: int) -> None:
    """Success of every width alone on `validation`: the choice of the low variant, made before any routing."""
    outcomes: dict[str, Floats] = {}
    print(f"Widths alone on {tasks} tasks of validation, {processor()}; 95 % paired-bootstrap intervals, McNemar exact")
    for scheme in (HIGH, *SCHEMES):
        low = SCHEMES[0] if scheme == HIGH else scheme
        quantize(model, low, out / "variants", lambda: calibration_batches(model))
        hosting = Hosting(model, (low,), out / "variants", "own", "float32")
        job = Job("validation", tasks, f"always:{'high' if scheme == HIGH else low}", scheme)
        with workers(load_player, hosting) as pool:
            episodes = pool.record(job, out / "widths" / f"{scheme}.jsonl", scheme)
        outcomes[scheme] = np.array([float(e.success) for e in episodes])
        success = bootstrap_mean(outcomes[scheme])
        loss = bootstrap_difference(outcomes[HIGH], outcomes[scheme])
        test = mcnemar(outcomes[HIGH] > 0, outcomes[scheme] > 0)
        print(
            f"{scheme:12} success {success.value:6.1%} [{success.low:.1%}, {success.high:.1%}]   "
            f"loses {loss.value:+6.1%} [{loss.low:+.1%}, {loss.high:+.1%}]   p {test.p:.2g}",
            flush=True,
        )


def method(config: ExperimentConfig, out: Path) -> None:
    """Both stages, calibration, every policy on every split."""
    with experiment(config, out) as run:
        run.supervise()
        run.both_stages()
        results = run.evaluate()
        run.report(results)
    print(f"\nThe method, {processor()}, router seeds {config.seeds}")
    for result in results:
        print(summary(result))


def choices(config: ExperimentConfig, out: Path) -> None:
    """The same run with one choice changed at a time: shared cache, text only."""
    changed: dict[str, dict[str, Any]] = {"shared-cache": {"cache_mode": "shared"}, "text-only": {"use_signals": False}}
    small = {
        "seeds": config.seeds[:1],
        "budgets": (max(config.budgets),),
        "ablations": False,
        "baselines": ("random", "oracle"),
    }
    for name, values in changed.items():
        method(config.model_copy(update=small | values), out / name)


def main() -> None:
    """Read the arguments and run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--config", type=Path, help="JSON file instead of the full-size defaults")
    parser.add_argument("--only", choices=("widths", "method", "choices"))
    parser.add_argument("--tasks", type=int, default=400, help="validation tasks per width")
    args = parser.parse_args()
    config = ExperimentConfig.load(args.config) if args.config else ExperimentConfig(model=args.model)
    if os.environ.get("ALFWORLD_DATA") and not args.config:
        config = config.model_copy(update={"splits": config.splits | {OFFICIAL + "valid_seen": 140}})
    try:
        if args.only in (None, "widths"):
            RunDirectory(args.out / "widths", {"model": str(args.model), "tasks": args.tasks, "schemes": json.dumps(SCHEMES)})
            widths(args.model, args.out, args.tasks)
        if args.only in (None, "method"):
            method(config, args.out / "method")
        if args.only in (None, "choices"):
            choices(config, args.out)
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
