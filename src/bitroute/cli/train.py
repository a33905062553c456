"""The commands that train, evaluate and report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bitroute.cli.extras import need
from bitroute.cli.options import Cores, Data, Device, Dtype, Engine, Free, Low, Model, Out, RunPath, SuiteName, examples
from bitroute.envs.models import find_model
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.errors import ConfigError, DataError

if TYPE_CHECKING:
    from bitroute.envs.suite import Suite
    from bitroute.evaluation.results import Evaluation
    from bitroute.experiment.config import ExperimentConfig

app = typer.Typer()
train = typer.Typer(help="Train the agent's language model, or a router.")
app.add_typer(train, name="train")


@train.callback(invoke_without_command=True)
def train_root(context: typer.Context) -> None:
    """Train the agent's language model, or a router."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@train.command(
    "lm",
    epilog=examples(
        "bitroute train lm --tokens 1e6",
        "bitroute train lm --network router --out runs/backbone",
        "bitroute train lm --suite SUITE --from MODEL --max-length 2048",
    ),
)
def train_lm(
    out: Out = Path("runs/lm"),
    tokens: Annotated[
        float, typer.Option(min=1, help="Training tokens in all; raise it to train a finished run further.")
    ] = 16e6,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 0,
    suite: SuiteName = DEFAULT,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Where the tokenizer is: a bundled model's name, or a directory. By default the suite's."),
    ] = None,
    network: Annotated[
        Literal["agent", "router"] | None,
        typer.Option(
            help="agent: the reference agent's 3.3 M network; router: the 0.3 M one that encoders start from. By default agent."
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Start from the weights and with the tokenizer of this model: a bundled one, or a directory."
        ),
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=64, help="Tokens of an episode that are learned from; its model plays four times as many.")
    ] = 1024,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; its own choice by default.")] = None,
    device: Device = None,
    published: Annotated[bool, typer.Option("--published", help="Mix in the training tasks of the suite's publisher.")] = False,
    data: Data = None,
) -> None:
    """Train the agent's language model, or the router's backbone, from scratch or from another model's weights.

    It learns from expert episodes, as the suite demonstrates them. A stopped training goes on.
    """
    chosen = load_suite(suite, data)
    if start is not None and (network or tokenizer):
        raise ConfigError("--from takes network and tokenizer with the weights: leave --network and --tokenizer out")
    reader = find_model(start or tokenizer or chosen.defaults.model, chosen)
    from bitroute.envs.suite import demonstrating  # noqa: PLC0415
    from bitroute.nn.checkpoint import Weights, read_config  # noqa: PLC0415
    from bitroute.nn.device import pick_device  # noqa: PLC0415
    from bitroute.nn.fingerprint import fingerprint  # noqa: PLC0415
    from bitroute.nn.tokenizer import TurnTokenizer  # noqa: PLC0415
    from bitroute.routers.encoder.network import encoder_config  # noqa: PLC0415
    from bitroute.store.files import write_atomic  # noqa: PLC0415
    from bitroute.store.runs import provenance  # noqa: PLC0415
    from bitroute.training import language_model  # noqa: PLC0415

    if not math.isfinite(tokens):
        raise ConfigError(f"--tokens {tokens}: a training ends after a finite number of tokens")
    place = pick_device(device or "auto")
    words = TurnTokenizer.load(reader)
    source = demonstrating(chosen).demonstrations(chosen.agent(words), seed=seed, published=published)
    weights = Weights(reader) if start is not None else None
    recipe = language_model.LanguageModelRecipe(
        tokens=int(tokens), max_length=max_length, seed=seed, start=fingerprint(weights) if weights is not None else None
    )
    if not (out / "provenance.json").exists():
        words.save(out)
        write_atomic(out / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
    if start is not None:
        shape = read_config(reader)
    else:
        vocabulary = max(language_model.VOCABULARY, words.vocab_size)
        shape = encoder_config(vocabulary) if network == "router" else language_model.agent_config(vocabulary)
    # Playing is longer than showing: an episode that fails lasts to the suite's last step.
    shape = replace(shape, max_position_embeddings=max(shape.max_position_embeddings, 4 * max_length))
    language_model.train_language_model(
        shape, recipe, source, out, end_token=words.end, pad_token=words.pad, start=weights, device=place, threads=threads
    )
    command = f"bitroute play --model {out}" + (f" --suite {suite}" if suite != DEFAULT else "")
    typer.echo(f"the model is in {out}" + (f"; next: {command}" if network != "router" else ""))


@train.command(
    "router",
    epilog=examples(
        "bitroute train router",
        "bitroute train router --config my.json --out runs/mine --cores 4",
        "bitroute train router --traces traces.jsonl --model DIRECTORY --low w2g128-rtn --out runs/recorded",
    ),
)
def train_router(
    suite: SuiteName = DEFAULT,
    data: Data = None,
    out: Out = Path("runs/router"),
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file, see docs/reference/config.md; by default that of the run in --out, else all defaults."),
    ] = None,
    engine: Engine = None,
    device: Device = None,
    dtype: Dtype = None,
    cores: Cores = None,
    traces: Annotated[
        Path | None, typer.Option(help="Learn from these instead: what `bitroute export` wrote. Nothing is played.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Directory of the model that served the traces.")] = None,
    low: Annotated[
        str | None, typer.Option(help="Scheme of its low variant, which labels the traces together with it.")
    ] = None,
    high: Annotated[str | None, typer.Option(help="What the traces call the high variant, if that is not plain.")] = None,
    tools: Annotated[
        Path | None,
        typer.Option(help="JSON list of the tools that the recorded requests defined, as they had it; traces do not hold it."),
    ] = None,
) -> None:
    """Train the router: KL-ST, then GRPO.

    Steps of the suite's training split are labelled first. With --traces recorded steps are labelled and KL-ST alone is trained
    on them; from features without text a signals router. A stopped training goes on where it was.
    """
    from bitroute.engines.registry import find_engine_kind  # noqa: PLC0415
    from bitroute.experiment.config import ExperimentConfig  # noqa: PLC0415
    from bitroute.store.runs import CONFIG  # noqa: PLC0415

    if traces is not None:
        if config is not None:
            raise ConfigError("--config describes what is played, with --traces nothing is: use one of them")
        if data is not None or cores is not None:
            raise ConfigError("--data and --cores go with what is played, with --traces nothing is: leave them out")
        place = {"engine": engine or "torch", "device": device or "auto", "dtype": dtype or "float32"}
        _learn(traces, load_suite(suite), model, low, high, tools, out, place)
        return
    if model is not None or low is not None or high is not None:
        raise ConfigError("--model, --low and --high go with --traces; without it they stand in the configuration")
    if tools is not None:
        raise ConfigError("--tools goes with --traces")
    stored = out / CONFIG
    source = config or (stored if stored.exists() else None)
    find_engine_kind(engine or "torch")
    own = {"engine": engine or "torch", "dtype": dtype or "float32"}
    if config is None and source:
        started = _config_of(out)
    else:
        started = ExperimentConfig.load(config) if config else ExperimentConfig(suite=suite, data=data, **own)
    chosen = _with_models(started)
    given = {"suite": None if suite == DEFAULT else suite, "data": data, "engine": engine, "dtype": dtype}
    other = [f"--{name}" for name, value in given.items() if value is not None and value != getattr(chosen, name)]
    if other:
        raise ConfigError(f"{source}: says otherwise than {', '.join(other)}; leave that out, or choose another --out")
    from bitroute.experiment.experiment import experiment  # noqa: PLC0415
    from bitroute.experiment.stages import train_routers  # noqa: PLC0415

    with experiment(chosen.on(device), out, cores) as run:
        train_routers(run)
    typer.echo(f"routers are in {out / 'routers'}; next: bitroute evaluate {out}")


@app.command(epilog=examples("bitroute evaluate runs/router"))
def evaluate(run: RunPath, device: Device = None, cores: Cores = None) -> None:
    """Compare all policies of a run at its budgets.

    Calibrates them on validation, plays the evaluated splits, prints the table and writes the report.

    What was done before is not done again; a training that was stopped is finished first.
    """
    need("torch", "report")
    config = _with_models(_config_of(run))
    from bitroute.experiment.experiment import experiment  # noqa: PLC0415
    from bitroute.experiment.method import run_method  # noqa: PLC0415

    with experiment(config.on(device), run, cores) as opened:
        _tell(run_method(opened), run)


@app.command(epilog=examples("bitroute report runs/router"))
def report(run: RunPath) -> None:
    """Write the report of an evaluated run anew.

    report.html, report.json and figures/, from the run's traces. Nothing is played.
    """
    need("torch", "report")
    config = _with_models(_config_of(run))
    from bitroute.experiment.experiment import open_run  # noqa: PLC0415
    from bitroute.experiment.report import evaluate_policies  # noqa: PLC0415
    from bitroute.experiment.report import write_run_report as write_report  # noqa: PLC0415
    from bitroute.rollout.workers import Shard, Workers  # noqa: PLC0415
    from bitroute.store.runs import RunDirectory  # noqa: PLC0415

    def refuse(_: Shard) -> Any:
        raise ConfigError(f"{run}: is not evaluated to the end; run bitroute evaluate {run}")

    with RunDirectory(run, config.model_dump(mode="json")) as directory:
        done = open_run(config, directory, Workers(refuse), lambda _: nullcontext(Workers(refuse)))
        write_report(done, evaluate_policies(done))
    typer.echo(f"report: {run / 'report.html'}")


@app.command(epilog=examples("bitroute demo", "bitroute demo --tasks 32 --out runs/small --cores 1"))
def demo(
    suite: SuiteName = DEFAULT,
    out: Out = Path("runs/demo"),
    model: Model = None,
    low: Low = None,
    free: Free = False,
    tasks: Annotated[
        int, typer.Option(min=1, help="Tasks to compare on; labels and training take theirs in proportion. Fewer say less.")
    ] = 512,
    device: Device = None,
    dtype: Dtype = None,
    cores: Cores = None,
) -> None:
    """The whole method in minutes.

    Quantizes, labels, trains both stages, calibrates, evaluates and reports, on as few tasks as still say something.
    """
    need("torch", "report")
    from bitroute.experiment.config import demo_config  # noqa: PLC0415

    config = _with_models(demo_config(suite, model, tasks, dtype or "float32", low, free=free))
    from bitroute.experiment.experiment import experiment  # noqa: PLC0415
    from bitroute.experiment.method import run_method  # noqa: PLC0415

    with experiment(config.on(device), out, cores) as run:
        _tell(run_method(run), out)


def _learn(
    traces: Path,
    suite: Suite,
    model: Path | None,
    low: str | None,
    high: str | None,
    tools: Path | None,
    out: Path,
    place: dict[str, str],
) -> None:
    """Train on what was recorded; how the suite refuses an action is one of the signals."""
    from bitroute.store.features import is_features  # noqa: PLC0415
    from bitroute.training.effects import train_effects  # noqa: PLC0415

    if is_features(traces):
        if any(value is not None for value in (model, low, high, tools)):
            raise ConfigError(f"--model, --low, --high and --tools are for labels, {traces} holds features: leave them out")
        router = out / "routers" / "signals.json"
        fitted = train_effects(traces, router)
        typer.echo(f"fitted on {fitted.choices} choices drawn at random, {fitted.high} of them high; the router is {router}")
        return
    if model is None or low is None:
        raise ConfigError("--traces needs --model and --low: their steps are labelled with both variants of the model")
    source = find_model(model, suite)
    need("torch", "transformers")
    from bitroute.agents.template import read_tools  # noqa: PLC0415
    from bitroute.training.recorded import train_recorded  # noqa: PLC0415

    definitions = read_tools(tools) if tools else ()
    found = train_recorded(traces, source, low, high, out, failures=suite.failures, tools=definitions, **place)
    typer.echo(
        f"{found['steps']} steps of {found['episodes']} episodes labelled; {found['captured']:.0%} of the held-out divergence "
        f"lies in the 30 % of the steps that score highest; routers are in {out / 'routers'}: kl-st and signals.json"
    )


def _tell(results: Sequence[Evaluation], out: Path) -> None:
    from bitroute.evaluation.tables import summary_table  # noqa: PLC0415

    for result in results:
        typer.echo(summary_table(result))
    typer.echo(f"report: {out / 'report.html'}")


def _with_models(config: ExperimentConfig) -> ExperimentConfig:
    """`config`, whose model and backbone are found: to be told of a missing one needs no torch, and no time."""
    suite = config.open_suite()
    find_model(config.model, suite)
    if config.backbone:
        find_model(config.backbone, suite)
    return config


def _config_of(run: Path) -> ExperimentConfig:
    """The configuration that a run was started with. Raises DataError where none is or it is damaged."""
    from bitroute.experiment.config import ExperimentConfig  # noqa: PLC0415
    from bitroute.store.runs import CONFIG, read_config  # noqa: PLC0415

    if not (run / CONFIG).exists():
        raise DataError(f"{run}: no run is here ({CONFIG} is missing); start one with bitroute train router --out {run}")
    if "budgets" not in read_config(run):  # every experiment has them, a run of play or a model has not
        raise ConfigError(f"{run}: holds no run of bitroute train router or bitroute demo")
    return ExperimentConfig.load(run / CONFIG)
