"""What more labels are worth to stage 1: how well the encoder ranks held-out steps, by how many labelled tasks it learned from.

    python benchmarks/labels.py --config benchmarks/smollm2.json --out runs/smollm2 --seed 0

What is missing of the seed's labels is made first, and stays in the run's directory (`benchmarks/table.py` goes on from there).
Each row learns from the first tasks of one shuffled order, with the probe and without, the epoch chosen as stage 1 does; "rule"
is what it began as, the regression on the numbers beside the text. Prints the AUC for "KL is at least tau" (the top fifth, by
the configuration) and the part of all KL in the steps that rank highest, with 95 % bootstrap intervals over held-out episodes,
the probe's plain margin beside.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from bitroute.envs.suite import Role
from bitroute.errors import BitrouteError
from bitroute.evaluation.ranking import auc, captured
from bitroute.evaluation.statistics import percentile_interval
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.experiment import experiment
from bitroute.experiment.labels import MIXTURE, label_mixture, label_tasks, labelled
from bitroute.experiment.stages import choose_tau, inputs_of, new_network
from bitroute.routers.features import Floats
from bitroute.store.runs import processor
from bitroute.training.supervised import LabelledTrajectory, begin_with_rule, predict, train_supervised

RESAMPLES: Final = 2000
SHARES: Final = (0.1, 0.2)


def row(name: str, scores: Floats, held: Sequence[LabelledTrajectory], tau: float) -> str:
    """A line of the table: AUC and captured shares of `scores` on the held-out steps, with intervals over episodes."""
    divergences = np.concatenate([r.divergences for r in held])
    ends = np.cumsum([len(r.divergences) for r in held])
    parts = np.split(np.arange(len(divergences)), ends[:-1])
    generator = np.random.default_rng(0)
    drawn = [np.concatenate([parts[i] for i in generator.integers(len(parts), size=len(parts))]) for _ in range(RESAMPLES)]
    cells = []
    for measure in (
        lambda at: auc(scores[at], divergences[at] >= tau),
        *(lambda at, share=share: captured(scores[at], divergences[at], share) for share in SHARES),
    ):
        low, high = percentile_interval(np.array([measure(at) for at in drawn]))
        cells.append(f"{measure(np.arange(len(scores))):.3f} [{low:.3f}, {high:.3f}]")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Read the arguments, label what is missing, train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tasks", type=int, nargs="+", help="sizes; by default an eighth, a quarter, half, and all labelled tasks"
    )
    parser.add_argument("--cores", type=int)
    args = parser.parse_args()
    try:
        with experiment(ExperimentConfig.load(args.config), args.out, args.cores) as run:
            seed, tasks = args.seed, run.tasks(args.seed)
            first, held = label_mixture(run, seed)
            tau, own = choose_tau(run, seed, labelled(run, first), held)
            second = label_tasks(run, seed, "labels-2", Role.TRAIN, tasks.second, [own])
            every = labelled(run, [*first, *second])
            holdout = label_tasks(run, seed, "labels-holdout", Role.VALIDATION, tasks.holdout, MIXTURE[:3])
            margins = [1 - min(s.sensitivity.low.margin, default=1.0) for e in holdout for s in e.steps if s.sensitivity]
            order = np.random.default_rng(seed).permutation(len(every))
            heads = ["what ranks", "AUC", *(f"captured by {share:.0%}" for share in SHARES)]
            print(f"| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
            print(row("the probe's margin", np.array(margins), held, tau), flush=True)
            for count in args.tasks or [len(every) // part for part in (8, 4, 2, 1)]:
                data = [every[i] for i in order[:count]]
                recipe = replace(run.config.supervised, seed=seed)
                for inputs in inputs_of(run):
                    network = new_network(run, seed, inputs)
                    begin_with_rule(network, data, tau)
                    name = f"{count} tasks{', probe' if inputs else ''}"
                    print(row(f"rule, {name}", predict(network, held), held, tau), flush=True)
                    train_supervised(network, data, held, tau, recipe, max(run.config.budgets))
                    print(row(f"encoder, {name}", predict(network, held), held, tau), flush=True)
            steps = sum(len(r.divergences) for r in held)
            print(f"seed {seed}, tau {tau:.3f} nats, {len(held)} held-out episodes of {steps} steps, {processor()}")
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
