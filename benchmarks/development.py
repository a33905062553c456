"""The policies of an experiment on tasks of the validation split that none of its stages saw: to look at before anything is
frozen, so that the test split need not be played for it.

    python benchmarks/development.py --config benchmarks/smollm2.json --out runs/smollm2 --tasks 96
    python benchmarks/development.py --config benchmarks/smollm2.json --out runs/smollm2 --policies all-high all-low dmr@0.2

What is missing of the pipelines of the configuration's seeds is made first (hours; `benchmarks/table.py` goes on from the same
directory). A policy of several seeds plays each. What was played is not played again. Prints a line a policy as it comes, and
the table with intervals at the end; --images draws success against cost and pooled share, as `benchmarks/table.py` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from bitroute.envs.suite import Role
from bitroute.errors import BitrouteError
from bitroute.evaluation.evaluate import evaluate
from bitroute.evaluation.figures import pareto, svg
from bitroute.evaluation.results import Evaluation, Measure, PolicyRun
from bitroute.evaluation.tables import summary_table
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.costs import cost_model
from bitroute.experiment.experiment import Experiment, experiment
from bitroute.experiment.policies import PolicyRow, policies
from bitroute.experiment.stages import train_routers
from bitroute.store.files import write_atomic
from bitroute.store.runs import processor
from table import standalone

START: Final = 20_000  # the first task: far behind those that pipelines take


def draw(name: str, found: Evaluation, images: Path) -> None:
    """Both pictures."""
    for measure in (Measure.COST, Measure.POOLED):
        element = svg(pareto(found, found.splits()[0], measure), (8.6, 5.4), f"{name}-{measure.value}")
        write_atomic(images / f"{name}-{measure.value}.svg", standalone(element))


def play(run: Experiment, row: PolicyRow, tasks: int) -> PolicyRun:
    """One policy of one seed."""
    options = {"threshold": row.threshold, "limit": row.limit, "start": START, "seeds": (row.seed,)}
    job = run.job(run.split(Role.VALIDATION), tasks, row.router, row.name, **options)
    episodes = run.record(f"development/{row.name}-{row.seed}", job)
    high = [[step.decision.variant == run.ladder[-1] for step in e.steps] for e in episodes]
    share = sum(sum(steps) / max(1, len(steps)) for steps in high) / tasks
    print(f"{row.name} seed {row.seed}: success {sum(e.success for e in episodes) / tasks:.1%}, K {share:.1%}", flush=True)
    return PolicyRun(row.name, row.seed, episodes, row.role, row.family, row.budget)


def main() -> None:
    """Read the arguments, make what is missing, play, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--policies", nargs="+", help="names of rows; by default all but those of another low variant")
    parser.add_argument("--images", type=Path, help="where the pictures go")
    parser.add_argument("--cores", type=int)
    args = parser.parse_args()
    try:
        with experiment(ExperimentConfig.load(args.config), args.out, args.cores) as run:
            train_routers(run)
            rows = [row for row in policies(run) if row.scheme is None]
            chosen = [row for row in rows if args.policies is None or row.name in args.policies]
            played = [play(run, row, args.tasks) for row in chosen]
            suite, cost = run.suite, cost_model(run, rows)
            found = evaluate(played, environment=suite.title, ladder=run.ladder, cost=cost, action_kind=suite.action_kind)
            print(summary_table(found))
            if args.images:
                draw(args.config.stem, found, args.images)
            print(f"{args.tasks} tasks of {run.split(Role.VALIDATION)} from {START}, seeds {run.config.seeds}, {processor()}")
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
