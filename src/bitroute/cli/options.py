"""Options that several commands share, and how a command's help ends. It reads nothing and runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from bitroute.envs.registry import suite_names
from bitroute.nn import device_names

SuiteName = Annotated[
    str,
    typer.Option(
        help=f"Environment with its tasks, agent and models: {', '.join(suite_names())}, or module:attribute of your own."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        file_okay=False,
        help="Directory of the files that the suite's publisher offers; by default where the suite looks itself.",
    ),
]
Model = Annotated[
    Path | None, typer.Option(help="The agent's language model: a bundled one's name, or a directory. By default the suite's.")
]
Low = Annotated[
    str | None,
    typer.Option(
        help="Scheme of the low variant: w<bits>g<group>-<method>, e.g. w3g64-gptq; docs/reference/schemes.md lists all. "
        "A nested store (w8n4g64-rtn) plays its slice. By default the suite's."
    ),
]
Free = Annotated[bool, typer.Option("--free", help="Let the model write freely, not only admissible commands.")]
Tasks = Annotated[int, typer.Option(min=1, help="How many tasks of the split to play, from its first one.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="An episode that has not succeeded by then has failed. By default the suite's.")
]
Cache = Annotated[Literal["own", "shared"], typer.Option(help="A KV cache per variant, or one that every variant continues.")]
Engine = Annotated[
    str | None,
    typer.Option(help="Kind of engine that hosts the model: torch (by default), or one that an installed package adds."),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps. By default auto, or what the run's "
        "configuration says."
    ),
]
Dtype = Annotated[
    device_names.Dtype | None,
    typer.Option(
        help="Arithmetic of the products, by default float32, which published figures are made with; auto measures which of "
        "float32 and bfloat16 is faster here."
    ),
]
Cores = Annotated[int | None, typer.Option(min=1, help="Worker processes; by default one for each core, on a GPU one.")]
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


def examples(*lines: str) -> str:
    """The end of a command's help: text whose lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
