"""The command line: it reads flags, prints results, and turns errors into one line and an exit code. Work happens elsewhere,
in modules that a command imports when it runs: `--help` stays instant and needs no extras.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from bitroute import __version__
from bitroute.cli import adapter, gateway, models, play, train
from bitroute.cli.extras import extra_of
from bitroute.cli.options import examples
from bitroute.errors import BitrouteError
from bitroute.threads import wait_passively

STOPPED: Final = 130  # the shell's convention for Ctrl-C


class Flow(TyperGroup):
    """Lists the commands in the order in which one needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, training between labels and evaluation; a command without a place of its own stands last."""
        order = [
            "quantize",
            "profile",
            "play",
            "sensitivity",
            "train",
            "evaluate",
            "report",
            "demo",
            "serve",
            "keys",
            "export",
            "estimate",
        ]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))


train.train.add_typer(adapter.app)
app = typer.Typer(cls=Flow, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
for commands in (models, play, train, gateway):
    app.add_typer(commands.app)


@app.callback(
    invoke_without_command=True,
    epilog="\b\nExit codes: 0 done, 1 other failures (a killed worker, a missing package), 2 a wrong flag or configuration,\n"
    "3 a file that is missing, damaged or cannot be written, 4 something the model or router cannot do,\n"
    "130 stopped by Ctrl-C.\n"
    "A run that was stopped or killed goes on when its command is given again.\n\n"
    + examples("bitroute demo", "bitroute play --router random:0.3 --show", "bitroute play --help"),
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Errors that bitroute raises on purpose are one line on stderr."""
    wait_passively()
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
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        return _fail(f"this needs {error.name}, not installed here: pip install 'bitroute[{extra}]'", 1)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'file system'}: {error.strerror or error}", 1)
    return _fail("stopped; the same command goes on from here", STOPPED)


def _fail(message: str, code: int) -> int:
    typer.echo(f"bitroute: {' '.join(message.split())}", err=True)
    return code
