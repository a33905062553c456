"""The commands that play episodes with one router: to look at them, and to label their steps."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bitroute.cli.options import (
    Cache,
    Cores,
    Data,
    Device,
    Dtype,
    Engine,
    Free,
    Low,
    Model,
    OwnOut,
    Seed,
    Steps,
    SuiteName,
    Tasks,
    examples,
)
from bitroute.cli.routers import RouterCommand
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.errors import BitrouteError, ConfigError

if TYPE_CHECKING:
    from bitroute.engines.spec import EngineSpec
    from bitroute.envs.suite import Suite
    from bitroute.episode import Episode
    from bitroute.rollout.workers import Job

app = typer.Typer()

SPLIT: Final = "Where the tasks come from: a split of the suite, see its guide."


@app.command(
    cls=RouterCommand,
    epilog=examples(
        "bitroute play --router random:0.3 --tasks 64 --show",
        "bitroute play --router runs/router/routers/dmr-0 --split unseen --tasks 500",
        "bitroute play --split official-valid_seen --tasks 140 --data ~/data",
    ),
)
def play(
    router: Annotated[str, typer.Option(help="Who picks the precision of each step: see below.")] = "always:high",
    suite: SuiteName = DEFAULT,
    split: Annotated[str | None, typer.Option(help=f"{SPLIT} By default the one for validation.")] = None,
    tasks: Tasks = 32,
    low: Low = None,
    model: Model = None,
    max_steps: Steps = None,
    threshold: Annotated[float | None, typer.Option(help="Threshold of a router that scores; its own by default.")] = None,
    seed: Seed = 0,
    cache_mode: Cache = "own",
    engine: Engine = None,
    device: Device = None,
    dtype: Dtype = None,
    out: OwnOut = None,
    free: Free = False,
    show: Annotated[bool, typer.Option("--show", help="Print the first episode step by step.")] = False,
    cores: Cores = None,
    data: Data = None,
) -> None:
    """Play episodes with a router.

    They are stored as traces; success and the share of steps at high precision are printed.
    """
    from bitroute.envs.suite import Role, split_for  # noqa: PLC0415
    from bitroute.rollout.workers import Job  # noqa: PLC0415

    chosen = load_suite(suite, data)
    split = split or split_for(chosen, Role.VALIDATION)
    steps_allowed = max_steps or chosen.defaults.max_steps
    job = Job(split, tasks, router, router, seeds=(seed,), threshold=threshold, free=free, max_steps=steps_allowed)
    spec = _spec(chosen, model, low, cache_mode, engine, device, dtype)
    directory, episodes = _record("play", suite, data, job, spec, out, cores)
    from bitroute.evaluation.statistics import wilson  # noqa: PLC0415
    from bitroute.training.calibration import spent  # noqa: PLC0415

    played = [e for e in episodes if e.steps]
    success = wilson(sum(e.success for e in episodes), len(episodes))
    share = sum(spent(e, spec.ladder) for e in played) / max(1, len(played))
    steps = sum(len(e.steps) for e in episodes) / len(episodes)
    failures = Counter(e.failure for e in episodes if e.failure)
    _metrics(
        directory,
        episodes=len(episodes),
        success=success.value,
        success_interval=[success.low, success.high],
        share=share,
        steps=steps,
        failures=failures,
    )
    if show:
        _show(episodes[0])
    typer.echo(
        f"{router} on {split}: success {success.value:.1%} (95 % interval {success.low:.1%} to {success.high:.1%}, "
        f"n {len(episodes)}), high precision on {share:.1%} of the steps, {steps:.1f} steps an episode"
    )
    for failure, count in failures.most_common():
        typer.echo(f"{count} episodes broke: {failure}")
    typer.echo(f"traces: {directory / 'traces.jsonl'}")


@app.command(epilog=examples("bitroute sensitivity", "bitroute sensitivity --router always:low --tasks 200"))
def sensitivity(
    router: Annotated[
        str, typer.Option(help="Who plays: labels are taken along its trajectories. Routers: bitroute play --help.")
    ] = "random:0.5",
    suite: SuiteName = DEFAULT,
    split: Annotated[str | None, typer.Option(help=f"{SPLIT} By default the one that routers learn from.")] = None,
    tasks: Tasks = 64,
    low: Low = None,
    model: Model = None,
    max_steps: Steps = None,
    seed: Seed = 0,
    cache_mode: Cache = "own",
    engine: Engine = None,
    device: Device = None,
    dtype: Dtype = None,
    out: OwnOut = None,
    free: Free = False,
    cores: Cores = None,
    data: Data = None,
) -> None:
    """Label every step with KL(high || low).

    The divergence of the two precisions over the action that the high one takes, in nats. Prints what the labels look like.
    """
    from bitroute.envs.suite import Role, split_for  # noqa: PLC0415
    from bitroute.rollout.workers import Job  # noqa: PLC0415

    chosen = load_suite(suite, data)
    split = split or split_for(chosen, Role.TRAIN)
    steps_allowed = max_steps or chosen.defaults.max_steps
    job = Job(split, tasks, router, router, seeds=(seed,), label=True, free=free, max_steps=steps_allowed)
    spec = _spec(chosen, model, low, cache_mode, engine, device, dtype)
    directory, episodes = _record("sensitivity", suite, data, job, spec, out, cores)
    from bitroute.evaluation.labels import summarise_labels  # noqa: PLC0415
    from bitroute.evaluation.tables import align  # noqa: PLC0415

    labels = [s.sensitivity for e in episodes for s in e.steps if s.sensitivity]
    if not labels:
        raise BitrouteError(f"no step could be labelled: {episodes[0].failure}")
    summary = summarise_labels(labels, chosen.action_kind)
    _metrics(directory, episodes=len(episodes), **dataclasses.asdict(summary))
    typer.echo(
        f"{summary.steps} steps, KL(high || low) in nats: median {summary.median:.3f}, p90 {summary.p90:.3f}, "
        f"p99 {summary.p99:.3f}; the top fifth of the steps holds {summary.top_mass:.0%}; "
        f"low would act otherwise on {summary.disagree:.1%}"
    )
    rows = [(v.verb, f"{v.steps}", f"{v.mean:.3f}", f"{v.mass:.1%}", f"{v.disagree:.1%}") for v in summary.verbs]
    typer.echo(align(("action", "steps", "mean KL", "part of all KL", "low differs"), rows))
    typer.echo(f"labels: {directory / 'traces.jsonl'}")


def _spec(
    suite: Suite,
    model: Path | None,
    low: str | None,
    cache_mode: str,
    engine: str | None,
    device: str | None,
    dtype: str | None,
) -> EngineSpec:
    """The engine to play with; its variants are made in the run's directory. What is not said is the suite's default."""
    from bitroute.engines.engine import CacheMode  # noqa: PLC0415
    from bitroute.engines.registry import check_scheme  # noqa: PLC0415
    from bitroute.engines.spec import EngineSpec  # noqa: PLC0415
    from bitroute.envs.models import find_model  # noqa: PLC0415

    kind, scheme = engine or "torch", low or suite.defaults.low
    check_scheme(kind, scheme)
    return EngineSpec(
        kind=kind,
        model=find_model(model or suite.defaults.model, suite),
        schemes=(scheme,),
        variants=Path("variants"),
        cache_mode=CacheMode(cache_mode),
        device=device or "auto",
        dtype=dtype or "float32",
    )


def _record(
    kind: str, name: str, data: Path | None, job: Job, spec: EngineSpec, out: Path | None, cores: int | None
) -> tuple[Path, list[Episode]]:
    """Play one job on the suite `name` into its own run directory: the directory and the episodes.

    Wrong input is refused before the directory is made.
    """
    from bitroute.engines.registry import fingerprint_of, make_variants  # noqa: PLC0415
    from bitroute.envs.models import find_router, model_name  # noqa: PLC0415
    from bitroute.envs.suite import check_tasks  # noqa: PLC0415
    from bitroute.nn.device import pick_device  # noqa: PLC0415
    from bitroute.nn.tokenizer import Tokenizer  # noqa: PLC0415
    from bitroute.rollout.host import calibration_batches, load_player  # noqa: PLC0415
    from bitroute.rollout.workers import Hosting, workers  # noqa: PLC0415
    from bitroute.routers.registry import build_router  # noqa: PLC0415
    from bitroute.store.runs import RunDirectory, digest, directory_for  # noqa: PLC0415

    suite = load_suite(name, data)
    check_tasks(suite, job.split, job.count)
    Tokenizer.load(spec.model)
    pick_device(spec.device)
    identity = fingerprint_of(spec)
    named = find_router(job.router)
    try:
        router = build_router(named, spec.ladder, identity)
    except BitrouteError as error:
        problem = str(error).removeprefix(f"router {job.router}: ").removeprefix(f"router {job.router!r}: ")
        raise type(error)(f"--router {job.router}: {problem}") from error
    if job.threshold is not None:
        try:
            router.with_options(threshold=job.threshold)
        except ConfigError as error:
            raise ConfigError(f"--threshold {job.threshold}: {error}") from error
    settings = {
        "suite": name,
        "model": model_name(spec.model, suite),
        "fingerprint": identity,
        "low": spec.schemes[0],
        "cache_mode": spec.cache_mode,
        "engine": spec.kind,
        "dtype": spec.dtype,
        **dataclasses.asdict(job),
        "router_file": digest(Path(named)) if Path(named).exists() else None,
    }
    path = out or directory_for(Path("runs") / kind, f"{job.router}-{job.split}", settings)
    with RunDirectory(path, settings):
        spec = dataclasses.replace(spec, variants=path / "variants", fingerprint=identity)
        make_variants(spec, lambda: calibration_batches(suite, spec.model))
        with workers(load_player, Hosting(name, data, spec), cores) as pool:
            return path, pool.record(job, path / "traces.jsonl", f"{job.router} on {job.split}")


def _metrics(directory: Path, **values: Any) -> None:
    from bitroute.store.files import write_atomic  # noqa: PLC0415

    write_atomic(directory / "metrics.json", json.dumps(values, indent=2) + "\n")


def _show(episode: Episode) -> None:
    for step in episode.steps:
        typer.echo(f"{step.message}\n  [{step.decision.variant}] > {step.action}\n")
