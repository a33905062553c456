"""The command line: it reads flags, prints results, and turns errors into one line and an exit code. Work happens elsewhere,
in modules that a command imports when it runs: `--help` stays instant and needs no extras.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from typer.core import TyperGroup

from bitroute import __version__
from bitroute.cli import gateway as commands
from bitroute.errors import BitrouteError, ConfigError

if TYPE_CHECKING:
    from bitroute.episode import Episode
    from bitroute.experiment.stages import Experiment
    from bitroute.rollout.workers import Job

STOPPED: Final = 130  # the shell's convention for Ctrl-C
EXTRAS: Final = {  # what each optional package comes with
    "torch": "torch",
    "safetensors": "torch",
    "tokenizers": "torch",
    "jinja2": "report",
    "matplotlib": "report",
    "sqlalchemy": "gateway",
    "gguf": "serve-demo",
    "xllamacpp": "serve-demo",
    "alfworld": "alfworld",
    "textworld": "alfworld",
}
MODEL: Final = Path("models/alfworld-agent")

Model = Annotated[Path, typer.Option(help="Directory of the agent's language model.")]
Low = Annotated[
    str,
    typer.Option(
        help="Scheme of the low variant: w<bits>g<group>-<method>, bits 2, 3, 4 or 8, method rtn or gptq, e.g. w3g64-gptq. "
        "A nested store (w8n4g64-rtn) plays its slice."
    ),
]
SplitName = Annotated[
    str,
    typer.Option(
        help="Where the tasks come from: lm-train, seen, router-train, validation or unseen (generated games), or the "
        "publisher's files by official-NAME, e.g. official-valid_seen."
    ),
]
Tasks = Annotated[int, typer.Option(min=1, help="How many tasks of the split to play, from its first one.")]
Steps = Annotated[int, typer.Option(min=1, help="An episode that has not succeeded by then has failed.")]
Cache = Annotated[Literal["own", "shared"], typer.Option(help="A KV cache per variant, or one that every variant continues.")]
Cores = Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one for each core.")]
AlfworldData = Annotated[
    Path | None,
    typer.Option(
        exists=True, file_okay=False, help="Directory that holds the official games' json_2.1.1; by default $ALFWORLD_DATA."
    ),
]
Out = Annotated[Path, typer.Option(help="Directory of the run. An unfinished run in it is continued.")]
OwnOut = Annotated[
    Path | None,
    typer.Option(
        help="Directory of the run. An unfinished run in it is continued. By default one below runs/ that is named after the "
        "options, the same for the same ones."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the router's random decisions.")]
RunPath = Annotated[Path, typer.Argument(help="Directory of a run, made by `bitroute train router` or `bitroute demo`.")]


def _examples(*lines: str, before: str = "") -> str:
    """The end of a command's help: text whose lines stay as they are."""
    return f"{before}\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


ROUTERS: Final = """\b
Routers (--router):
  always:VARIANT            every step at one variant: high, low, or a name such as w2g128-rtn
  random:SHARE              high with this probability at each step
  periodic:SHARE            this share of the steps at high, evenly spread
  first-k:STEPS             the first steps of an episode at high
  uncertainty:MEASURE[:THRESHOLD]
                            high where low is unsure of its next action; MEASURE is entropy or margin,
                            past-entropy or past-margin look at the last action instead, which costs nothing
  oracle[:THRESHOLD]        high where KL(high || low) of the coming action exceeds the threshold in nats
  heuristic[:THRESHOLD]     high at signs of trouble (failures, repetition, the goal in sight), weighed by hand, not trained
  PATH                      a trained router, e.g. runs/router/routers/dmr-0 or runs/router/routers/signals.json

"""


class Flow(TyperGroup):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, training between labels and evaluation."""
        return ["quantize", "play", "sensitivity", "train", "evaluate", "report", "demo", "serve", "keys", "export", "estimate"]


app = typer.Typer(cls=Flow, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
train = typer.Typer(help="Train the agent's language model, or a router.")
app.add_typer(train, name="train")
app.add_typer(commands.app)


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExit codes: 0 done, 1 other failures (a killed worker, a missing package), 2 a wrong flag or configuration,\n"
    "3 a file that is missing, damaged or cannot be written, 4 something the model or router cannot do,\n"
    "130 stopped by Ctrl-C.\n"
    "A run that was stopped or killed goes on when its command is given again.\n\n"
    + _examples("bitroute demo", "bitroute play --router random:0.3 --show", "bitroute play --help"),
)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Every step of an LLM agent at the precision it needs.

    The commands follow the flow: quantize a model, play tasks with a router, label how sensitive each step is, train a router
    on the labels and by playing, evaluate it against the alternatives, report. `bitroute demo` does all of it in minutes.
    """
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@train.callback(invoke_without_command=True)
def train_root(context: typer.Context) -> None:
    """Train the agent's language model, or a router."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    epilog=_examples(
        "bitroute quantize w4g64-gptq w2g128-rtn",
        "bitroute quantize w8n4g64-rtn --out variants",
        "bitroute quantize gguf-f16 gguf-q4_0 gguf-w2g128-rtn",
    ),
)
def quantize(
    schemes: Annotated[
        list[str],
        typer.Argument(
            help="Schemes, e.g. w4g64-gptq, w2g128-rtn, or w8n4g64-rtn: 4 bits nested in 8. For llama.cpp: gguf-f16, "
            "gguf-q8_0, gguf-q4_0, or gguf-w2g128-rtn (2 to 4 bits to nearest)."
        ),
    ],
    model: Model = MODEL,
    out: Annotated[Path | None, typer.Option(help="Directory for the variants; by default the model's own.")] = None,
) -> None:
    """Write low-bit variants of a model.

    Prints their sizes. Variants in the model's own directory are used by every later run; what is missing is made when a run
    needs it.
    """
    from bitroute.engines import loading as hosting  # noqa: PLC0415
    from bitroute.envs.alfworld.suite import calibration_batches  # noqa: PLC0415
    from bitroute.evaluation.tables import align  # noqa: PLC0415
    from bitroute.quantization.scheme import Scheme  # noqa: PLC0415

    jobs: list[tuple[str, float, Callable[[], Path]]] = []
    for scheme in schemes:
        if scheme.startswith("gguf-"):
            from bitroute.quantization.gguf import GgufScheme, export_gguf  # noqa: PLC0415

            bits = GgufScheme.parse(scheme).bits_per_weight
            jobs.append((f"{scheme} (all weights)", bits, partial(export_gguf, model, scheme, out or model)))
        else:
            bits = Scheme.parse(scheme).bits_per_weight
            calibration = partial(calibration_batches, model)
            jobs.append((f"{scheme} (block layers)", bits, partial(hosting.quantize, model, scheme, out or model, calibration)))
    size = sum(p.stat().st_size for p in model.glob("model*.safetensors"))
    lines = [("checkpoint (all weights)", "16", f"{size:,}", str(model))]
    for label, bits, make in jobs:
        path = make()
        lines.append((label, f"{bits:g}", f"{path.stat().st_size:,}", str(path)))
    typer.echo(align(("variant", "bits a weight", "bytes", "file"), lines))


@app.command(
    epilog=_examples(
        "bitroute play --router random:0.3 --tasks 64 --show",
        "bitroute play --router runs/router/routers/dmr-0 --split unseen --tasks 500",
        "bitroute play --split official-valid_seen --tasks 140 --alfworld-data ~/alfworld",
        before=ROUTERS,
    )
)
def play(
    router: Annotated[str, typer.Option(help="Who picks the precision of each step: see below.")] = "always:high",
    split: SplitName = "validation",
    tasks: Tasks = 32,
    low: Low = "w2g128-rtn",
    model: Model = MODEL,
    max_steps: Steps = 30,
    threshold: Annotated[float | None, typer.Option(help="Threshold of a router that scores; its own by default.")] = None,
    seed: Seed = 0,
    cache_mode: Cache = "own",
    out: OwnOut = None,
    free: Annotated[bool, typer.Option("--free", help="Let the model write freely, not only admissible commands.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the first episode step by step.")] = False,
    cores: Cores = None,
    alfworld_data: AlfworldData = None,
) -> None:
    """Play episodes with a router.

    They are stored as traces; success and the share of steps at high precision are printed.
    """
    from bitroute.engines.loading import HIGH  # noqa: PLC0415
    from bitroute.evaluation.statistics import wilson  # noqa: PLC0415
    from bitroute.rollout.workers import Job  # noqa: PLC0415
    from bitroute.training.calibration import spent  # noqa: PLC0415

    _use(alfworld_data)
    job = Job(split, tasks, router, router, seeds=(seed,), threshold=threshold, free=free, max_steps=max_steps)
    directory, episodes = _record("play", job, model, low, cache_mode, out, cores)
    played = [e for e in episodes if e.steps]
    success = wilson(sum(e.success for e in episodes), len(episodes))
    share = sum(spent(e, (low, HIGH)) for e in played) / max(1, len(played))
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


@app.command(epilog=_examples("bitroute sensitivity", "bitroute sensitivity --router always:low --tasks 200"))
def sensitivity(
    router: Annotated[
        str, typer.Option(help="Who plays: labels are taken along its trajectories. Routers: bitroute play --help.")
    ] = "random:0.5",
    split: SplitName = "router-train",
    tasks: Tasks = 64,
    low: Low = "w2g128-rtn",
    model: Model = MODEL,
    max_steps: Steps = 30,
    seed: Seed = 0,
    cache_mode: Cache = "own",
    out: OwnOut = None,
    cores: Cores = None,
    alfworld_data: AlfworldData = None,
) -> None:
    """Label every step with KL(high || low).

    The divergence of the two precisions over the action that the high one takes, in nats. Prints what the labels look like.
    """
    from bitroute.evaluation.labels import summarise  # noqa: PLC0415
    from bitroute.evaluation.tables import align  # noqa: PLC0415
    from bitroute.rollout.workers import Job  # noqa: PLC0415

    _use(alfworld_data)
    job = Job(split, tasks, router, router, seeds=(seed,), label=True, max_steps=max_steps)
    directory, episodes = _record("sensitivity", job, model, low, cache_mode, out, cores)
    labels = [s.sensitivity for e in episodes for s in e.steps if s.sensitivity]
    if not labels:
        raise BitrouteError(f"no step could be labelled: {episodes[0].failure}")
    summary = summarise(labels)
    _metrics(directory, episodes=len(episodes), **dataclasses.asdict(summary))
    typer.echo(
        f"{summary.steps} steps, KL(high || low) in nats: median {summary.median:.3f}, p90 {summary.p90:.3f}, "
        f"p99 {summary.p99:.3f}; the top fifth of the steps holds {summary.top_mass:.0%}; "
        f"low would act otherwise on {summary.disagree:.1%}"
    )
    rows = [(v.verb, f"{v.steps}", f"{v.mean:.3f}", f"{v.mass:.1%}", f"{v.disagree:.1%}") for v in summary.verbs]
    typer.echo(align(("action", "steps", "mean KL", "part of all KL", "low differs"), rows))
    typer.echo(f"labels: {directory / 'traces.jsonl'}")


@train.command(
    "lm", epilog=_examples("bitroute train lm --tokens 1e6", "bitroute train lm --network router --out runs/backbone")
)
def train_lm(
    out: Out = Path("runs/lm"),
    tokens: Annotated[
        float, typer.Option(min=1, help="Training tokens in all; raise it to train a finished run further.")
    ] = 16e6,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    tokenizer: Annotated[Path, typer.Option(help="Directory of the tokenizer.")] = MODEL,
    network: Annotated[
        Literal["agent", "router"],
        typer.Option(help="agent: the reference agent's 3.3 M network; router: the 0.3 M one that encoders start from."),
    ] = "agent",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; its own choice by default.")] = None,
    official: Annotated[bool, typer.Option("--official", help="Mix in the official training games.")] = False,
    alfworld_data: AlfworldData = None,
) -> None:
    """Train the agent's language model, or the router's backbone, from scratch.

    It learns from noisy expert episodes of lm-train. A stopped training goes on.
    """
    from bitroute.envs.alfworld import corpus  # noqa: PLC0415
    from bitroute.envs.alfworld.agent import AlfworldAgent  # noqa: PLC0415
    from bitroute.envs.alfworld.suite import agent_config, official_tasks  # noqa: PLC0415
    from bitroute.nn.tokenizer import Tokenizer  # noqa: PLC0415
    from bitroute.routers.encoder import encoder_config  # noqa: PLC0415
    from bitroute.store.files import write_atomic  # noqa: PLC0415
    from bitroute.store.runs import provenance  # noqa: PLC0415
    from bitroute.training import language_model  # noqa: PLC0415

    if not math.isfinite(tokens):
        raise ConfigError(f"--tokens {tokens}: a training ends after a finite number of tokens")
    _use(alfworld_data)
    if threads:
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)
    agent = AlfworldAgent(Tokenizer.load(tokenizer))
    source = corpus.expert_source(agent, seed, official_tasks("train") if official else ())
    recipe = language_model.Recipe(tokens=int(tokens), seed=seed)
    if not (out / "provenance.json").exists():
        agent.tokenizer.save(out)
        write_atomic(out / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
    end, pad = agent.tokenizer.end, agent.tokenizer.pad
    shape = agent_config() if network == "agent" else encoder_config(agent_config().vocab_size)
    language_model.train(shape, recipe, source, out, end_token=end, pad_token=pad)
    typer.echo(f"the model is in {out}" + (f"; next: bitroute play --model {out}" if network == "agent" else ""))


@train.command(
    "router",
    epilog=_examples(
        "bitroute train router",
        "bitroute train router --config my.json --out runs/mine --cores 4",
        "bitroute train router --traces traces.jsonl --model models/alfworld-agent --low w2g128-rtn --out runs/recorded",
    ),
)
def train_router(
    out: Out = Path("runs/router"),
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file, see docs/reference/config.md; by default that of the run in --out, else all defaults."),
    ] = None,
    cores: Cores = None,
    alfworld_data: AlfworldData = None,
    traces: Annotated[
        Path | None, typer.Option(help="Learn from these instead: what `bitroute export` wrote. Nothing is played.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Directory of the model that served the traces.")] = None,
    low: Annotated[
        str | None, typer.Option(help="Scheme of its low variant, which labels the traces together with it.")
    ] = None,
    high: Annotated[str | None, typer.Option(help="What the traces call the high variant, if that is not plain.")] = None,
) -> None:
    """Train the router: KL-ST, then GRPO.

    Steps of router-train are labelled first. With --traces recorded steps are labelled and KL-ST alone is trained on them; from
    features without text a signals router. A stopped training goes on where it was.
    """
    from bitroute.experiment.config import ExperimentConfig  # noqa: PLC0415
    from bitroute.experiment.stages import experiment  # noqa: PLC0415
    from bitroute.store.runs import CONFIG  # noqa: PLC0415

    if traces is not None:
        if config is not None:
            raise ConfigError("--config describes what is played, with --traces nothing is: use one of them")
        _learn(traces, model, low, high, out)
        return
    if model is not None or low is not None or high is not None:
        raise ConfigError("--model, --low and --high go with --traces; without it they stand in the configuration")
    _use(alfworld_data)
    stored = out / CONFIG
    source = config or (stored if stored.exists() else None)
    with experiment(ExperimentConfig.load(source) if source else ExperimentConfig(), out, cores) as run:
        run.supervise()
        run.both_stages()
    typer.echo(f"routers are in {out / 'routers'}; next: bitroute evaluate {out}")


@app.command(epilog=_examples("bitroute evaluate runs/router"))
def evaluate(run: RunPath, cores: Cores = None, alfworld_data: AlfworldData = None) -> None:
    """Compare all policies of a run at its budgets.

    Calibrates them on validation, plays the evaluated splits, prints the table and writes the report.

    What was done before is not done again; a training that was stopped is finished first.
    """
    from bitroute.experiment.stages import experiment  # noqa: PLC0415

    _use(alfworld_data)
    with experiment(_config_of(run), run, cores) as opened:
        _whole(opened)


@app.command(epilog=_examples("bitroute report runs/router"))
def report(run: RunPath, alfworld_data: AlfworldData = None) -> None:
    """Write the report of an evaluated run anew.

    report.html, report.json and figures/, from the run's traces. Nothing is played.
    """
    from bitroute.experiment.stages import Experiment  # noqa: PLC0415
    from bitroute.rollout.workers import Shard, Workers  # noqa: PLC0415
    from bitroute.store.runs import RunDirectory  # noqa: PLC0415

    def refuse(_: Shard) -> Any:
        raise ConfigError(f"{run}: is not evaluated to the end; run bitroute evaluate {run}")

    _use(alfworld_data)
    config = _config_of(run)
    with RunDirectory(run, config.model_dump(mode="json")) as directory:
        opened = Experiment(config, directory, Workers(refuse))
        opened.report(opened.evaluate())
    typer.echo(f"report: {run / 'report.html'}")


@app.command(epilog=_examples("bitroute demo", "bitroute demo --out runs/again --cores 1"))
def demo(out: Out = Path("runs/demo"), model: Model = MODEL, cores: Cores = None) -> None:
    """The whole method in minutes.

    Quantizes, labels, trains both stages, calibrates, evaluates and reports, on as few tasks as still say something.
    """
    from bitroute.experiment.config import demo_config  # noqa: PLC0415
    from bitroute.experiment.stages import experiment  # noqa: PLC0415

    with experiment(demo_config(model), out, cores) as run:
        _whole(run)


def _learn(traces: Path, model: Path | None, low: str | None, high: str | None, out: Path) -> None:
    """Train on what was recorded."""
    from bitroute.store.features import is_features  # noqa: PLC0415
    from bitroute.training.effects import train_effects  # noqa: PLC0415

    if is_features(traces):
        router = out / "routers" / "signals.json"
        fitted = train_effects(traces, router)
        typer.echo(f"fitted on {fitted.choices} choices drawn at random, {fitted.high} of them high; the router is {router}")
        return
    if model is None or low is None:
        raise ConfigError("--traces needs --model and --low: their steps are labelled with both variants of the model")
    from bitroute.training.recorded import train_recorded  # noqa: PLC0415

    found = train_recorded(traces, model, low, high, out)
    typer.echo(
        f"{found['steps']} steps of {found['episodes']} episodes labelled; {found['captured']:.0%} of the held-out divergence "
        f"lies in the 30 % of the steps that score highest; routers are in {out / 'routers'}: kl-st and signals.json"
    )


def _whole(run: Experiment) -> None:
    """Every stage up to the report; those that are done are read."""
    from bitroute.evaluation.tables import summary  # noqa: PLC0415

    run.supervise()
    run.both_stages()
    results = run.evaluate()
    run.report(results)
    for result in results:
        typer.echo(summary(result))
    typer.echo(f"report: {run.path / 'report.html'}")


def _config_of(run: Path) -> Any:
    """The configuration that a run was started with."""
    from bitroute.experiment.config import ExperimentConfig  # noqa: PLC0415
    from bitroute.store.runs import CONFIG, read_json  # noqa: PLC0415

    if not (run / CONFIG).exists():
        raise ConfigError(f"{run}: no run is here ({CONFIG} is missing); start one with bitroute train router --out {run}")
    stored = read_json(run / CONFIG)
    if not isinstance(stored, dict) or "budgets" not in stored:  # every experiment has them, a run of play or a model has not
        raise ConfigError(f"{run}: holds no run of bitroute train router or bitroute demo")
    return ExperimentConfig.load(run / CONFIG)


def _record(
    kind: str, job: Job, model: Path, low: str, cache_mode: str, out: Path | None, cores: int | None
) -> tuple[Path, list[Episode]]:
    """Play one job into its own run directory: the directory and the episodes. Wrong input is refused before it is made."""
    from bitroute.engines import loading as hosting  # noqa: PLC0415
    from bitroute.envs.alfworld.suite import calibration_batches, check_tasks, load_player  # noqa: PLC0415
    from bitroute.nn.tokenizer import Tokenizer  # noqa: PLC0415
    from bitroute.quantization.scheme import Scheme  # noqa: PLC0415
    from bitroute.rollout.workers import Hosting, workers  # noqa: PLC0415
    from bitroute.routers.registry import build_router  # noqa: PLC0415
    from bitroute.routers.threshold import ThresholdRouter  # noqa: PLC0415
    from bitroute.store.runs import RunDirectory, digest, directory_for  # noqa: PLC0415

    Scheme.parse(low)
    check_tasks(job.split, job.count)
    Tokenizer.load(model)
    identity = hosting.identity(model)
    try:
        router = build_router(job.router, (low, hosting.HIGH), identity)
    except BitrouteError as error:
        raise type(error)(f"--router {job.router}: {error}") from error
    if job.threshold is not None:
        if not isinstance(router, ThresholdRouter):
            raise ConfigError(f"--threshold {job.threshold}: router {job.router} does not score steps, it has no threshold")
        router.set_thresholds(job.threshold)
    trained = Path(job.router)
    settings = {
        "model": str(model),
        "fingerprint": identity,
        "low": low,
        "cache_mode": cache_mode,
        **dataclasses.asdict(job),
        "router_file": digest(trained) if trained.exists() else None,
    }
    path = out or directory_for(Path("runs") / kind, f"{job.router}-{job.split}", settings)
    with RunDirectory(path, settings):
        hosting.quantize(model, low, path / "variants", lambda: calibration_batches(model))
        host = Hosting(model, (low,), path / "variants", cache_mode, "float32")
        with workers(load_player, host, cores) as pool:
            return path, pool.record(job, path / "traces.jsonl", f"{job.router} on {job.split}")


def _metrics(directory: Path, **values: Any) -> None:
    from bitroute.store.files import write_atomic  # noqa: PLC0415

    write_atomic(directory / "metrics.json", json.dumps(values, indent=2) + "\n")


def _show(episode: Episode) -> None:
    for step in episode.steps:
        typer.echo(f"{step.message}\n  [{step.decision.variant}] > {step.action}\n")


def _use(alfworld_data: Path | None) -> None:
    """Let this process and its workers find the official games."""
    if alfworld_data:
        os.environ["ALFWORLD_DATA"] = str(alfworld_data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Errors that bitroute raises on purpose are one line on stderr."""
    try:
        code = app(arguments, prog_name="bitroute", standalone_mode=False)
        if code != STOPPED:
            return int(code or 0)
    except (KeyboardInterrupt, typer.Abort):
        pass
    except typer.TyperException as error:  # wrong flags
        return _fail(error.format_message(), error.exit_code)
    except BitrouteError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _fail(f"this needs {package}, which is not installed: pip install 'bitroute[{EXTRAS[package]}]'", 1)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'file system'}: {error.strerror or error}", 1)
    return _fail("stopped; the same command goes on from here", STOPPED)


def _fail(message: str, code: int) -> int:
    typer.echo(f"bitroute: {' '.join(message.split())}", err=True)
    return code
