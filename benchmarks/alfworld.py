"""What labels and single choices of the method are worth on ALFWorld, beside a run of benchmarks/table.py, which is read.

    python benchmarks/table.py --config benchmarks/alfworld.json --out runs/alfworld/method
    python benchmarks/alfworld.py --config benchmarks/alfworld.json --out runs/alfworld --only credit

Every part prints its table with n, seeds and machine; files stay in --out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

from bitroute.engines.caching import CachingEngine
from bitroute.engines.registry import load_engine, make_variants
from bitroute.engines.sensitivity import exact_divergence
from bitroute.envs.alfworld.suite import AlfworldSuite
from bitroute.errors import BitrouteError
from bitroute.evaluation.statistics import bootstrap_difference, mcnemar
from bitroute.evaluation.tables import summary_table
from bitroute.experiment.config import ExperimentConfig
from bitroute.experiment.experiment import experiment, spec_of
from bitroute.experiment.method import run_method
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.branches import branches, summarise_branches
from bitroute.rollout.host import calibration_batches
from bitroute.rollout.player import Player, play
from bitroute.routers.encoder.router import load_encoder
from bitroute.store.files import write_atomic
from bitroute.store.runs import processor
from bitroute.store.traces import read_traces
from bitroute.training.calibration import realised_share

SUITE = AlfworldSuite()


def choices(config: ExperimentConfig, out: Path, tasks: int) -> None:
    """Stage 1 again with one choice changed at a time, on `tasks` tasks of unseen, beside `kl-st` of the method's run in `out`.

    Labels are the method's own. (Without iterations of GRPO the run's `dmr` is KL-ST.)
    """
    changed: dict[str, dict[str, Any]] = {
        "text-only": {"use_signals": False},  # the router that a gateway can use: few servers tell log-probabilities
        "trained-for-0.1": {"budgets": (0.1,), "quantiles": (0.9,)},  # as many steps are sensitive as may be spent
        "trained-for-0.3": {"budgets": (0.3,), "quantiles": (0.7,)},
    }
    small = {
        "seeds": config.seeds[:1],
        "splits": {"unseen": tasks},
        "grpo": replace(config.grpo, iterations=0),
        "ablations": (),
        "probe": False,
        "baselines": (),
        "beside": (),
    }
    for name, values in changed.items():
        chosen = config.model_copy(update=small | values)
        for labels in (out / "method" / "traces").glob("seed-*/labels-*.jsonl"):
            write_atomic(out / name / "traces" / labels.parent.name / labels.name, labels.read_bytes())
        with experiment(chosen, out / name) as run:
            results = run_method(run)
        for result in results:
            print(summary_table(result))
        for budget in chosen.budgets:
            beside(out, name, budget, chosen, tasks)


def beside(out: Path, name: str, budget: float, config: ExperimentConfig, tasks: int) -> None:
    """One choice against the method's KL-ST on the same tasks, where both were played."""
    seed, ladder = config.seeds[0], spec_of(config, out).ladder
    paths = [out / "method/traces/unseen" / f"kl-st@{budget:g}-{seed}.jsonl"]
    paths.append(out / name / "traces/unseen" / f"dmr@{budget:g}-{seed}.jsonl")
    if all(path.exists() for path in paths):
        before, after = (list(islice(read_traces(path), tasks)) for path in paths)
        won, wins = (np.array([float(e.success) for e in episodes]) for episodes in (before, after))
        gain, test = bootstrap_difference(wins, won), mcnemar(wins > 0, won > 0)
        print(
            f"{name}, K = {budget:g}: {wins.mean():.1%} at {realised_share(after, ladder):.1%}, "
            f"kl-st {won.mean():.1%} at {realised_share(before, ladder):.1%}; "
            f"difference {gain.value:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}], n {len(wins)}, p {test.p:.2g}"
        )


def credit(config: ExperimentConfig, out: Path, tasks: int) -> None:
    """Ground truth for labels and credit, on the sampled episodes from which GRPO learns: stage 1 of the method's run in `out`.

    How often a group's outcomes differ; branches in which one step alone changes its precision; exact divergences.
    """
    spec = spec_of(config, out)
    agent = SUITE.agent(Tokenizer.load(spec.model))
    make_variants(spec, lambda: calibration_batches(SUITE, spec.model))
    engine = CachingEngine(load_engine(spec, agent.end))
    trained = load_encoder(out / "method/routers/kl-st-0", model=engine.fingerprint, variants=engine.ladder)
    router = trained.with_options(sample=True)
    player = Player(SUITE.environment, agent, engine, router, max_steps=config.max_steps)
    chosen = [SUITE.task("router-train", 2 * config.label_tasks + i) for i in range(tasks)]
    print(f"\nSampled episodes of KL-ST (trajectory alone, seed 0), router-train, {processor()}")

    group = config.grpo.group
    jobs = [(task, seed) for task in chosen[: tasks // 4] for seed in range(group)]
    episodes = list(tqdm(play(player, jobs, "kl-st"), desc="groups", unit="episode", total=len(jobs)))
    won = Counter(e.task_id for e in episodes if e.success)
    mixed = sum(0 < won[task.id] < group for task in chosen[: tasks // 4])
    print(
        f"{tasks // 4} groups of {group}: success {np.mean([e.success for e in episodes]):.1%} at "
        f"{realised_share(episodes, engine.ladder):.1%} high; "
        f"outcomes differ within {mixed} groups ({mixed / (tasks // 4):.0%})"
    )

    branching = branches(player, [(task, 0) for task in chosen], rate=0.3, batch=32)
    found = list(tqdm(branching, desc="branches", unit="state"))
    cut = float(np.quantile([b.sensitivity.kl_sum for b in found], 0.8))
    print(f"One step at the other precision, {tasks} tasks: {summarise_branches(found)}")
    print(f"  where KL is at least {cut:.3f} nats: {summarise_branches([b for b in found if b.sensitivity.kl_sum >= cut])}")
    print(f"  elsewhere: {summarise_branches([b for b in found if b.sensitivity.kl_sum < cut])}", flush=True)

    exact, labels = [], []
    for task in tqdm(chosen[: tasks // 8], desc="exact divergence", unit="episode"):
        running = player.start(task, 0)
        while not running.done:
            commands = [agent.completion(c) for c in running.observation.admissible]
            exact.append(exact_divergence(engine, running.context, commands))
            labels.append(player.sensitivities([running])[0].kl_sum)
            player.advance([running])
        player.finish(running, "")
    rank = spearmanr(exact, labels)
    print(
        f"Exact action-level KL against the label on {len(exact)} steps: Spearman {rank.statistic:.3f}, "
        f"means {np.mean(exact):.4f} and {np.mean(labels):.4f} nats"
    )


def main() -> None:
    """Read the arguments and run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="that of the run in OUT/method")
    parser.add_argument("--out", type=Path, default=Path("runs/alfworld"))
    parser.add_argument("--only", choices=("credit", "choices"))
    parser.add_argument("--tasks", type=int, default=400, help="tasks of the parts credit (router-train) and choices (unseen)")
    args = parser.parse_args()
    try:
        config = ExperimentConfig.load(args.config)
        if args.only in (None, "credit"):
            credit(config, args.out, args.tasks)
        if args.only in (None, "choices"):
            choices(config, args.out, args.tasks)
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
