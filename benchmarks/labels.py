"""What more labels are worth to stage 1: how well the encoder ranks held-out steps, by how many labelled tasks it learned from.

    python benchmarks/labels.py --config benchmarks/smollm2.json --out runs/smollm2 --seed 0

What is missing of the seed's labels is made first, and stays in the run's directory (`benchmarks/table.py` goes on from there).
Each size takes tasks of the first round in a shuffled order, then of the second, which a router from all of the first played.
The epoch is chosen on one half of the held-out episodes, the other half is ranked: by the probe's plain margin, by the
rule (the regression on the numbers beside the text, as which stage 1 begins), and by the encoder, where the configuration wants
it with the probe too. Prints the AUC for "KL is at least tau" and the part of all KL in the steps that rank highest, with 95 %
bootstrap intervals over episodes.
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
from bitroute.experiment.labels import label_mixture, label_tasks, labelled
from bitroute.experiment.stages import choose_tau, inputs_of, new_network
from bitroute.routers.encoder.network import DECISION_FEATURES, PAST_FEATURES
from bitroute.routers.features import Floats
from bitroute.store.runs import processor
from bitroute.training.supervised import LabelledTrajectory, begin_with_rule, predict, train_supervised

RESAMPLES: Final = 2000
SHARES: Final = (0.1, 0.2)
DOUBT: Final = PAST_FEATURES + DECISION_FEATURES + 2  # where the probe's 1 - margin stands among the signal features


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
            seed = args.seed
            first, every = label_mixture(run, seed)
            choose, held = every[::2], every[1::2]
            tau, own = choose_tau(run, seed, labelled(run, first), every)
            second = label_tasks(run, seed, "labels-2", Role.TRAIN, run.tasks(seed).second, [own])
            generator = np.random.default_rng(seed)
            ordered = [
                rows[i] for rows in (labelled(run, first), labelled(run, second)) for i in generator.permutation(len(rows))
            ]
            heads = ["what ranks", "AUC", *(f"captured by {share:.0%}" for share in SHARES)]
            print(f"| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
            doubts = np.array([numbers[DOUBT] for r in held for numbers in r.trajectory.signals])
            print(row("the probe's margin", doubts, held, tau), flush=True)
            for count in args.tasks or [len(ordered) // part for part in (8, 4, 2, 1)]:
                data, recipe = ordered[:count], replace(run.config.supervised, seed=seed)
                for inputs in inputs_of(run):
                    network, name = new_network(run, seed, inputs), f"{len(data)} tasks{', probe' if inputs else ''}"
                    begin_with_rule(network, data, tau)
                    print(row(f"rule, {name}", predict(network, held), held, tau), flush=True)
                    train_supervised(network, data, choose, tau, recipe, max(run.config.budgets))
                    print(row(f"encoder, {name}", predict(network, held), held, tau), flush=True)
            steps = sum(len(r.divergences) for r in held)
            print(f"seed {seed}, tau {tau:.3f} nats, {len(held)} held-out episodes of {steps} steps, {processor()}")
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
