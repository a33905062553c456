"""Which width loses how much: every scheme alone on `validation`, constrained and free, before any routing.

    python benchmarks/widths.py --out runs/widths                                  # the small agent on ALFWorld
    python benchmarks/widths.py --suite alfworld-3 --model alfworld-agent-goals --tasks 200 --out runs/widths-goals
    python benchmarks/widths.py --suite alfworld-2 --model smollm2-agent --schemes w3g64-gptq w2.5g64-gptq --dtype auto

By this table the low variant of a benchmark is chosen: the largest bits a weight that lose 8 points or more, made by the best
quantiser at that width and group. Each line: success with Wilson's 95 % interval, what is lost against the high variant on the
same tasks (paired bootstrap; exact McNemar test), bits a weight of the block layers, and KL(high || low) a step in nats, along
the high variant's own episodes on the first --labelled tasks. One process, one thread; what was played is not played again, and
--tasks, --schemes and --decoding may differ when a run goes on. The lines also go to widths.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitroute.engines.loading import variant_path
from bitroute.engines.registry import fingerprint_of, make_variants
from bitroute.engines.spec import EngineSpec
from bitroute.envs.models import find_model, model_name
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.envs.suite import Role, Suite, split_for
from bitroute.episode import Episode
from bitroute.errors import BitrouteError
from bitroute.evaluation.statistics import Floats, bootstrap_difference, bootstrap_mean, mcnemar, wilson
from bitroute.evaluation.tables import align
from bitroute.quantization.store import read_info
from bitroute.rollout.host import calibration_batches, load_player
from bitroute.rollout.workers import Hosting, Job, Shard, Workers
from bitroute.store.files import write_atomic
from bitroute.store.runs import RunDirectory, processor

SCHEMES: Final = tuple(
    f"w{bits}{group}-{method}" for bits in "432" for group in ("g64", "g128", "row") for method in ("gptq", "rtn")
)
DECODING: Final = ("constrained", "free")
HEADINGS: Final = ("scheme", "bits", "success", "95 %", "loses", "95 %", "p", "KL a step", "same", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where a table is measured: `spec` without schemes, `labelled` tasks for the divergence."""

    suite: Suite
    name: str
    split: str
    spec: EngineSpec
    tasks: int
    labelled: int
    out: Path


@contextmanager
def player(setting: Setting, schemes: Sequence[str]) -> Iterator[Workers]:
    """Plays in this process, loaded when the first shard asks for it."""
    loaded: list[Any] = []

    def submit(shard: Shard) -> Future[list[Episode]]:
        if not loaded:
            spec = replace(setting.spec, schemes=tuple(schemes))
            make_variants(spec, lambda: calibration_batches(setting.suite, spec.model))
            loaded.append(load_player(Hosting(setting.name, None, spec)))
        done: Future[list[Episode]] = Future()
        done.set_result(loaded[0](shard))
        return done

    yield Workers(submit)


def measure(setting: Setting, scheme: str | None, free: bool) -> dict[str, Any]:
    """One line of a table: a scheme's figures, or the high variant's for None."""
    name, decoding = scheme or setting.spec.high, DECODING[free]
    job = Job(
        setting.split,
        setting.tasks,
        f"always:{'high' if scheme is None else 'low'}",
        name,
        free=free,
        max_steps=setting.suite.defaults.max_steps,
    )
    with player(setting, [scheme] if scheme else []) as pool:
        episodes = pool.record(job, setting.out / decoding / f"{name}.jsonl", f"{name} {decoding}")
        found: dict[str, Any] = {
            "scheme": name,
            "decoding": decoding,
            "bits": 16.0 if scheme is None else read_info(variant_path(setting.spec.variants, name)).bits_per_weight,
            "won": [int(e.success) for e in episodes],
            "steps": float(np.mean([len(e.steps) for e in episodes])),
        }
        if scheme and setting.labelled:
            along = replace(job, count=min(setting.labelled, setting.tasks), router="always:high", label=True)
            stored = pool.record(along, setting.out / decoding / f"labels-{name}.jsonl", f"{name} labels")
            labels = [s.sensitivity for e in stored for s in e.steps if s.sensitivity]
            found |= {
                "kl": float(np.mean([label.kl_sum for label in labels])),
                "same": float(np.mean([label.agrees for label in labels])),
            }
    return found


def line(found: dict[str, Any], high: Floats) -> list[str]:
    """A line as text; `high` is 1 for each task that the high variant wins."""
    won = np.array(found["won"], dtype=np.float64)
    success = wilson(int(won.sum()), len(won))
    cells = [found["scheme"], f"{found['bits']:.2f}", f"{success.value:.1%}", f"{success.low:.1%} to {success.high:.1%}"]
    if "kl" not in found and found["bits"] == 16.0:
        return [*cells, "", "", "", "", "", f"{found['steps']:.1f}"]
    loss, test = bootstrap_difference(high, won), mcnemar(high > 0, won > 0)
    cells += [f"{100 * loss.value:+.1f}", f"{100 * loss.low:+.1f} to {100 * loss.high:+.1f}", f"{test.p:.2g}"]
    return [*cells, *(f"{found[key]:.3f}" if key in found else "" for key in ("kl", "same")), f"{found['steps']:.1f}"]


def table(setting: Setting, schemes: Sequence[str], free: bool) -> list[dict[str, Any]]:
    """All lines of one suite and decoding, printed as they come and, in order of bits, at the end."""
    rows = [measure(setting, None, free)]
    high = np.array(rows[0]["won"], dtype=np.float64)
    interval = bootstrap_mean(high)
    print(
        f"\n{setting.name}, {DECODING[free]} decoding, {setting.split}, n {setting.tasks}, {setting.spec.model.name}, "
        f"{setting.spec.dtype}, seed 0, {processor()}: high {interval.value:.1%}"
    )
    for scheme in schemes:
        rows.append(measure(setting, scheme, free))
        print("  ".join(line(rows[-1], high)), flush=True)
    ordered = [rows[0], *sorted(rows[1:], key=lambda row: -row["bits"])]
    print(align(HEADINGS, [line(row, high) for row in ordered]), flush=True)
    return ordered


def main() -> None:
    """Parse the flags, play, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=[DEFAULT], help="suites, one table each and decoding")
    parser.add_argument("--model", type=Path, help="by default the suite's")
    parser.add_argument("--schemes", nargs="+", default=list(SCHEMES))
    parser.add_argument("--decoding", nargs="+", choices=DECODING, default=list(DECODING))
    parser.add_argument("--tasks", type=int, default=300, help="of the validation split")
    parser.add_argument("--labelled", type=int, default=32, help="tasks on which the divergence is measured; 0 for none")
    parser.add_argument("--dtype", default="float32", help="arithmetic of the products: float32, bfloat16 or auto")
    parser.add_argument("--out", type=Path, default=Path("runs/widths"))
    flags = parser.parse_args()
    try:
        for name in flags.suite:
            suite = load_suite(name)
            model = find_model(flags.model or suite.defaults.model, suite)
            spec = EngineSpec(model=model, schemes=(), variants=flags.out / "variants", device="cpu", dtype=flags.dtype)
            spec = replace(spec, fingerprint=fingerprint_of(spec))
            out, split = flags.out / name, split_for(suite, Role.VALIDATION)
            about = {"suite": name, "model": model_name(model, suite), "fingerprint": spec.fingerprint, "dtype": flags.dtype}
            setting = Setting(
                suite=suite, name=name, split=split, spec=spec, tasks=flags.tasks, labelled=flags.labelled, out=out
            )
            with RunDirectory(out, about):
                rows = [row for decoding in flags.decoding for row in table(setting, flags.schemes, decoding == "free")]
                write_atomic(out / "widths.json", json.dumps(about | {"tasks": flags.tasks, "rows": rows}) + "\n")
    except BitrouteError as error:
        parser.exit(error.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
