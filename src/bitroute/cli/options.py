"""Options that several commands share, and how a command's help ends. It reads nothing and runs nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

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


def examples(*lines: str) -> str:
    """The end of a command's help: text whose lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def use_alfworld_data(alfworld_data: Path | None) -> None:
    """Let this process and its workers find the official games."""
    if alfworld_data:
        os.environ["ALFWORLD_DATA"] = str(alfworld_data)
