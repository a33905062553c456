"""The gateway's commands, which the command line takes in. Each imports what it works with when it runs, so that `--help` is
instant and needs no extras.
"""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()  # its commands stand beside those of `cli`

Records = Annotated[str, typer.Option(help="Database of the gateway's records: sqlite:///FILE or postgresql://...")]
RECORDS = "sqlite:///bitroute.db"


def _examples(*lines: str) -> str:
    """The end of a command's help: text whose lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
