"""The commands that train, evaluate and report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bitroute.cli.extras import need
from bitroute.cli.options import MODEL, AlfworldData, Cores, Model, Out, RunPath, examples, use_alfworld_data
from bitroute.errors import ConfigError

if TYPE_CHECKING:
    from bitroute.experiment.stages import Experiment

app = typer.Typer()
train = typer.Typer(help="Train the agent's language model, or a router.")
app.add_typer(train, name="train")


@train.callback(invoke_without_command=True)
def train_root(context: typer.Context) -> None:
    """Train the agent's language model, or a router."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@train.command(
    "lm", epilog=examples("bitroute train lm --tokens 1e6", "bitroute train lm --network router --out runs/backbone")
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
    from bitroute.routers.encoder.network import encoder_config  # noqa: PLC0415
    from bitroute.store.files import write_atomic  # noqa: PLC0415
    from bitroute.store.runs import provenance  # noqa: PLC0415
    from bitroute.training import language_model  # noqa: PLC0415

    if not math.isfinite(tokens):
        raise ConfigError(f"--tokens {tokens}: a training ends after a finite number of tokens")
    use_alfworld_data(alfworld_data)
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
    epilog=examples(
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
    tools: Annotated[
        Path | None,
        typer.Option(help="JSON list of the tools that the recorded requests defined, as they had it; traces do not hold it."),
    ] = None,
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
        _learn(traces, model, low, high, tools, out)
        return
    if model is not None or low is not None or high is not None:
        raise ConfigError("--model, --low and --high go with --traces; without it they stand in the configuration")
    if tools is not None:
        raise ConfigError("--tools goes with --traces")
    use_alfworld_data(alfworld_data)
    stored = out / CONFIG
    source = config or (stored if stored.exists() else None)
    with experiment(ExperimentConfig.load(source) if source else ExperimentConfig(), out, cores) as run:
        run.supervise()
        run.both_stages()
    typer.echo(f"routers are in {out / 'routers'}; next: bitroute evaluate {out}")


@app.command(epilog=examples("bitroute evaluate runs/router"))
def evaluate(run: RunPath, cores: Cores = None, alfworld_data: AlfworldData = None) -> None:
    """Compare all policies of a run at its budgets.

    Calibrates them on validation, plays the evaluated splits, prints the table and writes the report.

    What was done before is not done again; a training that was stopped is finished first.
    """
    need("torch", "report")
    from bitroute.experiment.stages import experiment  # noqa: PLC0415

    use_alfworld_data(alfworld_data)
    with experiment(_config_of(run), run, cores) as opened:
        _whole(opened)


@app.command(epilog=examples("bitroute report runs/router"))
def report(run: RunPath, alfworld_data: AlfworldData = None) -> None:
    """Write the report of an evaluated run anew.

    report.html, report.json and figures/, from the run's traces. Nothing is played.
    """
    from bitroute.experiment.stages import Experiment  # noqa: PLC0415
    from bitroute.rollout.workers import Shard, Workers  # noqa: PLC0415
    from bitroute.store.runs import RunDirectory  # noqa: PLC0415

    def refuse(_: Shard) -> Any:
        raise ConfigError(f"{run}: is not evaluated to the end; run bitroute evaluate {run}")

    use_alfworld_data(alfworld_data)
    config = _config_of(run)
    with RunDirectory(run, config.model_dump(mode="json")) as directory:
        opened = Experiment(config, directory, Workers(refuse))
        opened.report(opened.evaluate())
    typer.echo(f"report: {run / 'report.html'}")


@app.command(epilog=examples("bitroute demo", "bitroute demo --out runs/again --cores 1"))
def demo(out: Out = Path("runs/demo"), model: Model = MODEL, cores: Cores = None) -> None:
    """The whole method in minutes.

    Quantizes, labels, trains both stages, calibrates, evaluates and reports, on as few tasks as still say something.
    """
    need("torch", "report")
    from bitroute.experiment.config import demo_config  # noqa: PLC0415
    from bitroute.experiment.stages import experiment  # noqa: PLC0415

    with experiment(demo_config(model), out, cores) as run:
        _whole(run)


def _learn(traces: Path, model: Path | None, low: str | None, high: str | None, tools: Path | None, out: Path) -> None:
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
    need("torch", "transformers")
    from bitroute.agents.template import read_tools  # noqa: PLC0415
    from bitroute.envs.alfworld.suite import FAILURES  # noqa: PLC0415
    from bitroute.training.recorded import train_recorded  # noqa: PLC0415

    definitions = read_tools(tools) if tools else ()
    found = train_recorded(traces, model, low, high, out, failures=FAILURES, tools=definitions)
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
