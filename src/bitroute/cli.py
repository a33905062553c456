"""The command line: `bitroute COMMAND --help` teaches. Commands mirror the flow from tasks to report; work happens
elsewhere.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from bitroute import __version__
from bitroute.errors import BitrouteError, ConfigError

if TYPE_CHECKING:
    from bitroute.episode import Episode

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
train = typer.Typer(no_args_is_help=True, help="Train the agent's language model, or a router.")
app.add_typer(train, name="train")

MODEL = Path("models/alfworld-agent")
Model = Annotated[Path, typer.Option(help="Directory of the agent's language model.")]
Low = Annotated[str, typer.Option(help="Scheme of the low variant, e.g. w2g64-rtn, w3g64-gptq, w8n4g64-rtn.")]
SplitName = Annotated[
    str, typer.Option(help="lm-train, router-train, seen, validation, unseen, or official-valid_seen (needs $ALFWORLD_DATA).")
]
Tasks = Annotated[int, typer.Option(min=1, help="How many tasks of the split to play, from its first one.")]
Steps = Annotated[int, typer.Option(min=1, help="An episode that has not succeeded by then has failed.")]
Cache = Annotated[str, typer.Option(help="own: a KV cache per variant; shared: one that every variant continues.")]
Cores = Annotated[int | None, typer.Option(min=1, help="Worker processes; all cores by default.")]
Out = Annotated[Path, typer.Option(help="Where results go. A directory that holds an unfinished run is continued.")]
RunPath = Annotated[Path, typer.Argument(help="Directory of a run.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Every step of an LLM agent at the precision it needs."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def quantize(
    schemes: Annotated[list[str], typer.Argument(help="Schemes such as w4g64-gptq, w2g64-rtn, w8n4g64-rtn (nested).")],
    model: Model = MODEL,
    out: Annotated[Path | None, typer.Option(help="Directory for the variants; the model's own by default.")] = None,
) -> None:
    """Write low-bit variants of a model and report their size.

    Example: bitroute quantize w4g64-gptq w2g64-rtn
    """
    from bitroute.alfworld import calibration_batches  # noqa: PLC0415  (commands import what they need: --help stays instant)
    from bitroute.engines import hosting  # noqa: PLC0415

    checkpoint = sum(p.stat().st_size for p in model.glob("model*.safetensors"))
    typer.echo(f"{'bf16 checkpoint':18} {checkpoint:>12,} bytes")
    for scheme in schemes:
        path = hosting.quantize(model, scheme, out or model, lambda: calibration_batches(model))
        typer.echo(f"{scheme:18} {path.stat().st_size:>12,} bytes  (block layers only)  {path}")


@app.command()
def play(
    router: Annotated[
        str, typer.Option(help="always:high, random:0.3, uncertainty:entropy, ... or a trained router's path.")
    ] = ("always:high"),
    split: SplitName = "validation",
    tasks: Tasks = 32,
    low: Low = "w2g64-rtn",
    model: Model = MODEL,
    max_steps: Steps = 30,
    threshold: Annotated[float | None, typer.Option(help="Threshold of a scoring router; its own by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the router's random decisions.")] = 0,
    cache_mode: Cache = "own",
    out: Out = Path("runs/play"),
    show: Annotated[bool, typer.Option(help="Print the first episode step by step.")] = False,
    cores: Cores = None,
) -> None:
    """Play episodes with a router and store them as traces.

    Example: bitroute play --router random:0.3 --split validation --tasks 64 --show
    """
    job = f"{router} on {split}".replace("/", "_")
    episodes = _play(model, low, cache_mode, out, cores, job, router, split, tasks, max_steps, threshold, seed, label=False)
    if show:
        _show(episodes[0])
    _summary(episodes, router)


@app.command()
def sensitivity(
    router: Annotated[str, typer.Option(help="Who plays: labels are taken along its trajectories.")] = "random:0.5",
    split: SplitName = "router-train",
    tasks: Tasks = 64,
    low: Low = "w2g64-rtn",
    model: Model = MODEL,
    max_steps: Steps = 30,
    seed: Annotated[int, typer.Option(help="Seed of the router's random decisions.")] = 0,
    cache_mode: Cache = "own",
    out: Out = Path("runs/sensitivity"),
    cores: Cores = None,
) -> None:
    """Label every step with KL(high || low) and print what the labels look like.

    Example: bitroute sensitivity --router random:0.5 --tasks 200
    """
    import numpy as np  # noqa: PLC0415

    job = f"labels {router} on {split}".replace("/", "_")
    episodes = _play(model, low, cache_mode, out, cores, job, router, split, tasks, max_steps, None, seed, label=True)
    labels = [s.sensitivity for e in episodes for s in e.steps if s.sensitivity]
    kl = np.array([x.kl_sum for x in labels])
    top = np.sort(kl)[::-1][: max(1, len(kl) // 5)].sum() / max(kl.sum(), 1e-12)
    quantiles = "  ".join(f"p{q} {np.percentile(kl, q):.3f}" for q in (10, 50, 90, 99))
    typer.echo(f"{len(kl)} steps, KL(high || low) in nats: {quantiles}; the top 20 % of steps hold {top:.0%}")
    typer.echo(f"low would act otherwise on {np.mean([not x.agrees for x in labels]):.1%} of the steps")
    verbs = Counter(x.action.partition(" ")[0] for x in labels)
    for verb, count in verbs.most_common():
        chosen = [x for x in labels if x.action.partition(" ")[0] == verb]
        differs = np.mean([not x.agrees for x in chosen])
        typer.echo(f"  {verb:10} n {count:6}  mean KL {np.mean([x.kl_sum for x in chosen]):.3f}  low differs {differs:.1%}")


@train.command("lm")
def train_lm(
    out: Out = Path("runs/lm"),
    tokens: Annotated[float, typer.Option(help="Training tokens in all; raise it to train a finished run further.")] = 16e6,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    tokenizer: Annotated[Path, typer.Option(help="Directory of the tokenizer.")] = MODEL,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; its own choice by default.")] = None,
    official: Annotated[bool, typer.Option(help="Mix in the official training games of $ALFWORLD_DATA.")] = False,
) -> None:
    """Train the reference agent's language model from scratch on noisy expert episodes. Stopped runs continue.

    Example: bitroute train lm --tokens 16e6 --out runs/lm
    """
    from bitroute.agents.alfworld import AlfworldAgent  # noqa: PLC0415
    from bitroute.agents.tokenizer import Tokenizer  # noqa: PLC0415
    from bitroute.alfworld import official_tasks, reference_network  # noqa: PLC0415
    from bitroute.training import corpus, language_model  # noqa: PLC0415

    if threads:
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)
    agent = AlfworldAgent(Tokenizer.load(tokenizer))
    source = corpus.expert_source(agent, seed, official_tasks("train") if official else ())
    recipe = language_model.Recipe(tokens=int(tokens), seed=seed)
    agent.tokenizer.save(out)
    end, pad = agent.tokenizer.end, agent.tokenizer.pad
    language_model.train(reference_network(), recipe, source, out, end_token=end, pad_token=pad)


@train.command("router")
def train_router(
    out: Out = Path("runs/router"),
    config: Annotated[Path | None, typer.Option(help="JSON file; every field and default: docs/reference/config.md.")] = None,
    cores: Cores = None,
) -> None:
    """Label steps, then train the router: KL-ST, then GRPO. Stopped runs continue.

    Example: bitroute train router --config my.json --out runs/router
    """
    from bitroute.config import ExperimentConfig  # noqa: PLC0415
    from bitroute.experiment import experiment  # noqa: PLC0415

    with experiment(ExperimentConfig.load(config) if config else ExperimentConfig(), out, cores) as run:
        run.supervise()
        run.both_stages()
    typer.echo(f"routers are in {out / 'routers'}; next: bitroute evaluate {out}")


@app.command()
def evaluate(run: RunPath, cores: Cores = None) -> None:
    """Calibrate every policy of a run to its budgets, play the evaluated splits, print the table.

    Example: bitroute evaluate runs/router
    """
    _finish(run, cores)


@app.command()
def report(run: RunPath, cores: Cores = None) -> None:
    """Write report.html, report.json and figures of a run (what is not evaluated yet is evaluated first).

    Example: bitroute report runs/router
    """
    _finish(run, cores)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    model: Model = MODEL,
    cores: Cores = None,
) -> None:
    """The whole method in minutes: quantize, label, train both stages, calibrate, evaluate, report.

    Example: bitroute demo
    """
    from bitroute.config import demo_config  # noqa: PLC0415
    from bitroute.experiment import experiment  # noqa: PLC0415

    with experiment(demo_config(model), out, cores) as run:
        run.supervise()
        run.both_stages()
    _finish(out, cores)


def _finish(path: Path, cores: int | None) -> None:
    """Evaluate and report the run in `path`."""
    from bitroute.config import ExperimentConfig  # noqa: PLC0415
    from bitroute.evaluation.tables import summary  # noqa: PLC0415
    from bitroute.experiment import experiment  # noqa: PLC0415

    stored = path / "config.json"
    if not stored.exists():
        raise ConfigError(f"{path}: no run is here (config.json is missing); start with bitroute train router --out {path}")
    with experiment(ExperimentConfig.load(stored), path, cores) as run:
        run.supervise()
        run.both_stages()
        results = run.evaluate()
        run.report(results)
    for result in results:
        typer.echo(summary(result))
    typer.echo(f"report: {path / 'report.html'}")


def _play(
    model: Path,
    low: str,
    cache_mode: str,
    out: Path,
    cores: int | None,
    name: str,
    router: str,
    split: str,
    tasks: int,
    max_steps: int,
    threshold: float | None,
    seed: int,
    *,
    label: bool,
) -> list[Episode]:
    """Play one job into `out`/`name`.jsonl."""
    from bitroute import workers  # noqa: PLC0415
    from bitroute.alfworld import calibration_batches, load_player  # noqa: PLC0415
    from bitroute.engines.hosting import quantize as make  # noqa: PLC0415
    from bitroute.runs import RunDirectory  # noqa: PLC0415

    if cache_mode not in ("own", "shared"):
        raise ConfigError(f"--cache-mode {cache_mode!r}: want own or shared")
    job = workers.Job(split, tasks, router, router, seeds=(seed,), threshold=threshold, label=label, max_steps=max_steps)
    settings = {"model": str(model), "low": low, "cache_mode": cache_mode, "job": repr(job)}
    RunDirectory(out, settings)
    make(model, low, out / "variants", lambda: calibration_batches(model))
    hosting = workers.Hosting(model, (low,), out / "variants", cache_mode, "float32")
    with workers.workers(load_player, hosting, cores) as pool:
        return pool.record(job, out / "traces.jsonl", name)


def _show(episode: Episode) -> None:
    for step in episode.steps:
        typer.echo(f"{step.message}\n  [{step.decision.variant}] > {step.action}\n")


def _summary(episodes: list[Episode], router: str) -> None:
    from bitroute.evaluation.statistics import bootstrap_mean  # noqa: PLC0415
    from bitroute.experiment import share  # noqa: PLC0415

    success = bootstrap_mean([float(e.success) for e in episodes])
    steps = sum(len(e.steps) for e in episodes) / len(episodes)
    typer.echo(
        f"{router}: success {success.value:.1%} (95 % interval {success.low:.1%} to {success.high:.1%}, n {len(episodes)}), "
        f"high precision on {share(episodes):.1%} of the steps, {steps:.1f} steps an episode"
    )
    for failure, count in Counter(e.failure for e in episodes if e.failure).items():
        typer.echo(f"  {count} episodes broke: {failure}")


def main() -> None:
    """Entry point: errors that bitroute raises on purpose are one line and an exit code."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BitrouteError as error:
        typer.echo(f"bitroute: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        typer.echo("bitroute: stopped; the same command goes on from here", err=True)
        sys.exit(130)
    except BrokenProcessPool:
        typer.echo("bitroute: a worker process was killed (out of memory?); try --cores 1, the same command goes on", err=True)
        sys.exit(1)
    except OSError as error:
        typer.echo(f"bitroute: {error.filename or 'file system'}: {error.strerror}", err=True)
        sys.exit(1)
