"""The figures of the README's first screen: what routing is worth beside a better quantiser and beside rules of two lines.

    python benchmarks/front_page.py --out runs/front-page --results docs/results   # resumable; half an hour on one core
    python benchmarks/front_page.py --out runs/front-page --rows repetition random # some rows only, for another time

Every row plays the same tasks of `unseen` with the bundled agent, greedily, constrained to admissible commands, seed 0.
Printed and written for each row: success with its Wilson interval, K (the mean of the episodes' shares of high steps) and the
pooled share (high steps of all steps) with bootstrap intervals over tasks, steps and prefilled tokens an episode, and the
paired differences from all-low, from all-high and from the rule `repetition` on the same tasks. At the end, `--rescues` tasks
that all-low loses and all-high wins are played again with one step at high, once for each step of the lost episode.
benchmarks/pictures.py draws what this writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from bitroute.engines.registry import load_engine, make_variants
from bitroute.engines.spec import EngineSpec
from bitroute.envs.alfworld.suite import AlfworldSuite
from bitroute.envs.models import find_model
from bitroute.episode import Episode
from bitroute.evaluation.statistics import (
    Estimate,
    Floats,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_means,
    mcnemar,
    percentile_interval,
    wilson,
)
from bitroute.evaluation.tables import align
from bitroute.nn.tokenizer import Tokenizer
from bitroute.rollout.host import calibration_batches, load_player
from bitroute.rollout.player import Player, Running
from bitroute.rollout.workers import Hosting, Job, workers
from bitroute.routers.calibrated import load_calibration, threshold_for
from bitroute.routers.registry import build_router
from bitroute.store.files import write_atomic
from bitroute.store.runs import RunDirectory, provenance
from bitroute.store.traces import TraceWriter, read_traces
from bitroute.training.calibration import spent

SUITE: Final = AlfworldSuite()
SPLIT: Final = "unseen"
ROUNDED: Final = "w2g128-rtn"
BESIDE: Final = ("all-low", "all-high", "repetition")  # rows that every row is compared with
TRAINED: Final = "alfworld-router-trained"


@dataclass(frozen=True, slots=True)
class Policy:
    """A row: its name, who decides, over which low variant, and the budget whose calibrated threshold it takes."""

    name: str
    router: str
    low: str = ROUNDED
    budget: float | None = None


ROWS: Final = (
    Policy("all-high", "always:high"),
    Policy("all-low", "always:low"),
    Policy("repetition", "repetition"),
    Policy("trained-0.1", TRAINED, budget=0.1),
    Policy("random", "random:0.1"),
    Policy("trained-0.3", TRAINED, budget=0.3),
    Policy("repetition-2", "repetition:2"),
    Policy("margin", "uncertainty:margin:0.5"),
    Policy("gptq", "always:low", low="w2g128-gptq"),
    Policy("w3", "always:low", low="w3g64-rtn"),
)


def spec_for(low: str, out: Path) -> EngineSpec:
    """The engine of a row."""
    model = find_model(SUITE.defaults.model, SUITE)
    return EngineSpec(model=model, schemes=(low,), variants=out / "variants", device="cpu", dtype="float32")


def play_rows(rows: Sequence[Policy], out: Path, tasks: int, cores: int | None) -> None:
    """Play the rows into `out`, those of one low variant by the same processes; what is there already is not played again."""
    for low in dict.fromkeys(row.low for row in rows):
        spec = spec_for(low, out)
        make_variants(spec, lambda: calibration_batches(SUITE, find_model(SUITE.defaults.model, SUITE)))
        with workers(load_player, Hosting(SUITE.name, None, spec), cores) as pool:
            for row in (row for row in rows if row.low == low):
                threshold = None
                if row.budget is not None:
                    threshold = threshold_for(load_calibration(find_model(row.router, SUITE)), row.budget)
                job = Job(SPLIT, tasks, row.router, row.name, threshold=threshold, max_steps=SUITE.defaults.max_steps)
                pool.record(job, traces(out, row), row.name)


def traces(out: Path, row: Policy) -> Path:
    """Where the episodes of a row are."""
    return out / f"{row.name}.jsonl"


def rescues(out: Path, tasks: int, wanted: int) -> list[dict[str, Any]]:
    """The first `wanted` tasks that all-low loses and all-high wins: which single steps at high would have won them.

    Low plays the episode; before each of its steps a copy takes that one step at high and low plays on to the end.
    """
    path = out / "rescues.jsonl"
    found: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    low, high = (list(read_traces(out / f"{name}.jsonl")) for name in ("all-low", "all-high"))
    lost = [i for i in range(tasks) if not low[i].success and high[i].success][:wanted]
    torch.set_num_threads(1)
    spec = spec_for(ROUNDED, out)
    agent = SUITE.agent(Tokenizer.load(spec.model))
    engine = load_engine(spec, agent.end)
    router = build_router("always:low", engine.ladder, engine.fingerprint)
    player = Player(SUITE.environment, agent, engine, router, max_steps=SUITE.defaults.max_steps)
    for index in tqdm(lost[len(found) :], initial=len(found), total=len(lost), desc="rescues", unit="task"):
        origin = player.start(SUITE.task(SPLIT, index), 0)
        copies: list[Running] = []
        while playing := [r for r in (origin, *copies) if not r.done]:
            if not origin.done:
                copies.append(player.branch(origin, engine.ladder[-1]))
                playing.append(copies[-1])
            player.advance(playing)
        outcomes = [player.finish(copy, "").success for copy in copies]
        player.finish(origin, "")
        found.append({"task": index, "steps": len(outcomes), "rescuing": [i for i, won in enumerate(outcomes) if won]})
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in found))
    return found


def described(row: Policy, played: dict[str, list[Episode]]) -> dict[str, Any]:
    """All figures of a row, as they are written."""
    ladder = (row.low, "bf16")
    episodes = played[row.name]
    won = np.array([float(e.success) for e in episodes])
    high = np.array([sum(s.decision.variant == ladder[-1] for s in e.steps) for e in episodes], dtype=np.float64)
    steps = np.array([len(e.steps) for e in episodes], dtype=np.float64)
    means = bootstrap_means(np.stack([high, steps], axis=1))
    prefill = [sum(u.prefill for s in e.steps for u in (s.usage, *s.probe_usage)) for e in episodes]
    return {
        **asdict(row),
        "n": len(episodes),
        "success": asdict(wilson(int(won.sum()), len(won))),
        "k": asdict(bootstrap_mean([spent(e, ladder) for e in episodes if e.steps])),
        "pooled": asdict(Estimate(high.sum() / steps.sum(), *percentile_interval(means[:, 0] / means[:, 1]))),
        "steps": float(steps.mean()),
        "prefill": float(np.mean(prefill)),
        "failures": sum(e.failure is not None for e in episodes),
        "over": {name: compared(won, np.array([float(e.success) for e in played[name]])) for name in BESIDE},
    }


def compared(won: Floats, other: Floats) -> dict[str, float]:
    """What a row wins more than another on the same tasks, with its interval; p is McNemar's, not corrected."""
    return asdict(bootstrap_difference(won, other)) | {"p": mcnemar(won > 0, other > 0).p}


def repeated(episodes: Sequence[Episode]) -> float:
    """The share of steps whose message was seen before in their episode."""
    steps = sum(len(e.steps) for e in episodes)
    return sum(len(e.steps) - len({s.message for s in e.steps}) for e in episodes) / max(1, steps)


def picture(played: dict[str, list[Episode]]) -> Episode | None:
    """The episode for the picture: one that the trained router wins and low loses, with both precisions in it; of these the one
    whose number of steps is nearest to 11, which fits a screen."""
    fitting = [
        episode
        for episode, low in zip(played["trained-0.1"], played["all-low"], strict=True)
        if episode.success and not low.success and len({s.decision.variant for s in episode.steps}) == 2
    ]
    return min(fitting, key=lambda e: (abs(len(e.steps) - 11), e.task_id), default=None)


def write_results(out: Path, results: Path, tasks: int, rescued: list[dict[str, Any]]) -> None:
    """Print the table and write it with what it was measured on; the picture's episode beside it."""
    played = {row.name: list(read_traces(traces(out, row))) for row in ROWS}
    rows = [described(row, played) for row in ROWS]
    positions = sum(r["steps"] for r in rescued)
    document: dict[str, Any] = {
        "split": SPLIT,
        "tasks": tasks,
        "seed": 0,
        "model": str(SUITE.defaults.model),
        "high": "bf16",
        "baselines": BESIDE,
        "intervals": "95 %: success Wilson; k, pooled and differences bootstrap over tasks, 10,000 resamples; p McNemar, exact",
        "measured": provenance() | {"command": ["python", "benchmarks/front_page.py"]},
        "rows": rows,
        "repeated_messages": {
            "won": repeated([e for e in played["all-low"] if e.success]),
            "lost": repeated([e for e in played["all-low"] if not e.success]),
        },
        "rescues": {
            "tasks": len(rescued),
            "rescued": asdict(wilson(sum(bool(r["rescuing"]) for r in rescued), len(rescued))) if rescued else None,
            "positions": positions,
            "rescuing": sum(len(r["rescuing"]) for r in rescued),
            "each": rescued,
        },
    }
    write_atomic(results / "front_page.json", json.dumps(document, indent=1) + "\n")
    if chosen := picture(played):
        path = results / "episode.jsonl"
        path.unlink(missing_ok=True)
        with TraceWriter(path) as writer:
            writer.write(replace(chosen, steps=tuple(replace(s, signals=None) for s in chosen.steps)))
    cells = [
        (
            row["name"],
            row["low"],
            *(percent(row[key], "") for key in ("success", "k", "pooled")),
            f"{row['steps']:.1f}",
            f"{row['prefill']:.0f}",
            *(percent(row["over"][name], "+") for name in BESIDE),
        )
        for row in rows
    ]
    print(
        align(
            ("policy", "low", "success %", "K %", "pooled %", "steps", "prefill", *(f"over {name}" for name in BESIDE)), cells
        )
    )
    print(f"{SPLIT}, n {tasks}, seed 0, {document['measured']['processor']}, commit {document['measured']['commit']}")
    print("messages of all-low seen before: " + ", ".join(f"{k} {v:.0%}" for k, v in document["repeated_messages"].items()))
    if rescued:
        several = sum(bool(r["rescuing"]) for r in rescued)
        print(
            f"one step at high rescues {several} of {len(rescued)} tasks that low loses and high wins, "
            f"at {document['rescues']['rescuing']} of {positions} positions"
        )


def percent(estimate: dict[str, float], sign: str) -> str:
    """An estimate with its interval, in percent."""
    value, low, high = (f"{100 * estimate[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def main() -> None:
    """Read the arguments, play what is missing, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/front-page"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rescues", type=int, default=40, help="how many lost tasks are tried again with one high step")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="play these only, and write no results")
    parser.add_argument("--cores", type=int)
    args = parser.parse_args()
    chosen = [row for row in ROWS if not args.rows or row.name in args.rows]
    with RunDirectory(args.out, {"split": SPLIT, "tasks": args.tasks}):
        play_rows(chosen, args.out, args.tasks, args.cores)
        if not args.rows:
            write_results(args.out, args.results, args.tasks, rescues(args.out, args.tasks, args.rescues))


if __name__ == "__main__":
    main()
