"""The command that fine-tunes a pretrained model."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Annotated

import typer

from bitroute.cli.options import Data, Device, Out, SuiteName, examples
from bitroute.envs.models import find_model, model_name
from bitroute.envs.registry import DEFAULT, load_suite
from bitroute.errors import ConfigError
from bitroute.nn import device_names

app = typer.Typer()


@app.command(
    "adapter",
    epilog=examples(
        "bitroute train adapter --tokens 1e6",
        "bitroute train adapter --base DIRECTORY --suite SUITE --out runs/adapter",
    ),
)
def train_adapter(
    out: Out = Path("runs/adapter"),
    base: Annotated[Path, typer.Option(help="The pretrained model: a name, or a directory.")] = Path("smollm2"),
    tokens: Annotated[
        float, typer.Option(min=1, help="Training tokens in all; raise it to train a finished run further.")
    ] = 1.5e6,
    cooldown: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the tokens over which the learning rate falls, at the end.")
    ] = 0.4,
    seed: Annotated[int, typer.Option(help="Seed of the adapter and the data.")] = 0,
    suite: SuiteName = DEFAULT,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch; its own choice by default.")] = None,
    device: Device = None,
    dtype: Annotated[
        device_names.Dtype | None,
        typer.Option(
            help="Arithmetic of the frozen base's products: float32, bfloat16 or float16; by default the faster one of the "
            "first two here."
        ),
    ] = None,
    published: Annotated[bool, typer.Option("--published", help="Mix in the training tasks of the suite's publisher.")] = False,
    data: Data = None,
) -> None:
    """Fine-tune a pretrained model as the agent, by LoRA on expert episodes.

    The result is an adapter, which every --model takes. A stopped training goes on; one that goes on with another suite, or
    with more tokens, notes it as a new phase.
    """
    chosen = load_suite(suite, data)
    if not math.isfinite(tokens):
        raise ConfigError(f"--tokens {tokens}: a training ends after a finite number of tokens")
    source = find_model(base, chosen)
    from bitroute.engines.loading import identity  # noqa: PLC0415
    from bitroute.envs.suite import demonstrating  # noqa: PLC0415
    from bitroute.nn.checkpoint import load_model  # noqa: PLC0415
    from bitroute.nn.device import pick_device, pick_dtype  # noqa: PLC0415
    from bitroute.nn.tokenizer import Tokenizer  # noqa: PLC0415
    from bitroute.store.files import write_atomic  # noqa: PLC0415
    from bitroute.store.runs import provenance  # noqa: PLC0415
    from bitroute.training import lora  # noqa: PLC0415

    place = pick_device(device or "auto")
    episodes = demonstrating(chosen).demonstrations(chosen.agent(Tokenizer.load(source)), seed=seed, published=published)
    model = load_model(source, pick_dtype("float32", place, 1, 1)).to(place)
    name = model_name(source, chosen)
    told = {"base": name, "suite": suite, "tokens": f"{tokens:g}", "cooldown": f"{cooldown:g}", "seed": str(seed)}
    command = " ".join(["bitroute train adapter", *(f"--{flag} {shlex.quote(value)}" for flag, value in told.items())])
    if not (out / "provenance.json").exists():
        write_atomic(out / "provenance.json", json.dumps(provenance(), indent=2) + "\n")
    lora.train_adapter(
        model,
        (name, identity(source)),
        lora.LoraRecipe(tokens=int(tokens), cooldown=cooldown, seed=seed),
        episodes,
        out,
        dtype=pick_dtype(dtype or "auto", place, model.config.hidden_size, model.config.intermediate_size),
        command={"command": command + (" --published" if published else ""), "commit": provenance()["commit"]},
        threads=threads,
    )
    typer.echo(
        f"the adapter is in {out}; next: bitroute play --model {out}" + (f" --suite {suite}" if suite != DEFAULT else "")
    )
