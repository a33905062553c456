"""The gateway's commands, which the command line takes in. Each imports what it works with when it runs, so that `--help` is
instant and needs no extras.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bitroute.cli.extras import need
from bitroute.cli.options import examples
from bitroute.cli.routers import ServingRouterCommand
from bitroute.envs.models import find_router
from bitroute.errors import BitrouteError, ConfigError

if TYPE_CHECKING:
    from bitroute.gateway.core.config import GatewayConfig, Source

app = typer.Typer()  # its commands stand beside those of `cli`

VARIABLE = "BITROUTE_RECORDS__URL"


def _usable(records: str) -> str:
    """Raises ConfigError for a URL of no database, naming the flag, or the variable that stands in for it."""
    from bitroute.gateway.records.tables import database_url  # noqa: PLC0415

    try:
        database_url(records)
    except ConfigError as error:
        name = VARIABLE if os.environ.get(VARIABLE) == records else "--records"
        raise ConfigError(f"{name}: {error}") from error
    return records


Records = Annotated[
    str,
    typer.Option(
        envvar=VARIABLE, callback=_usable, help="Database of the gateway's records: sqlite:///FILE or postgresql://..."
    ),
]
RECORDS = "sqlite:///bitroute.db"
Policy = Annotated[str | None, typer.Option(help="Only episodes of this policy: its name, or name@version.")]
Scope = Annotated[str | None, typer.Option(help="Only episodes of the API key with this id.")]
Since = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="Only episodes that began then or later, local time."),
]


@app.command(
    cls=ServingRouterCommand,
    epilog=examples(
        "bitroute serve --demo",
        "bitroute serve --high http://127.0.0.1:8000 --low http://127.0.0.1:8001",
        "bitroute serve --high http://127.0.0.1:8000 --low http://127.0.0.1:8001 --router runs/mine/routers/dmr-0 --budget 0.2",
        "bitroute serve --config gateway.toml",
    ),
)
def serve(
    config: Annotated[Path | None, typer.Option(help="TOML file with settings; the flags below override it.")] = None,
    high: Annotated[
        list[str] | None, typer.Option(help="URL of a server of the high variant, without /v1; repeat for replicas.")
    ] = None,
    low: Annotated[list[str] | None, typer.Option(help="The same for the low variant.")] = None,
    high_model: Annotated[
        str | None, typer.Option(help="What the servers of the high variant call their model: high by default.")
    ] = None,
    low_model: Annotated[str | None, typer.Option(help="The same for the low variant: low by default.")] = None,
    router: Annotated[
        str | None, typer.Option(help="Who decides: heuristic, always:high, random, or the path of a trained router.")
    ] = None,
    budget: Annotated[float | None, typer.Option(help="K: the share of steps at high precision, 0 to 1.")] = None,
    mode: Annotated[
        Literal["enforce", "shadow", "split", "explore"] | None, typer.Option(help="What decisions are used for.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; others than this machine need a key.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API, 8080 by default.")] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="Port of the page, the metrics and the kill switch, 8081 by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; more than one needs sessions.url in the configuration.")
    ] = None,
    records: Annotated[str | None, typer.Option(help="Database of the records: sqlite:///FILE or postgresql://...")] = None,
    store_content: Annotated[bool, typer.Option("--store-content", help="Store the text of messages and answers.")] = False,
    model_name: Annotated[
        Literal["variant", "client"] | None,
        typer.Option(help="Whose name an answer's `model` gives: the variant's or the client's."),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Start two small servers of our own and stand before them.")] = False,
) -> None:
    """Serve the OpenAI API before a model's variants.

    Each step is answered at the precision it needs. Point a client's base URL at it and ask for the model `auto` (or `auto-0.2`
    for another budget, or a variant by its name). What neither a flag nor the file sets may be an environment variable, such as
    BITROUTE_SERVER__PORT.
    """
    need("gateway", *(("torch", "serve-demo") if demo else ()))
    from bitroute.gateway.core.config import GatewayConfig, Source, toml_file  # noqa: PLC0415
    from bitroute.gateway.core.environment import environment  # noqa: PLC0415
    from bitroute.gateway.http.process import log_to_stderr  # noqa: PLC0415
    from bitroute.gateway.http.process import serve as run  # noqa: PLC0415

    log_to_stderr()
    given: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port, "admin_port": admin_port, "workers": workers, "model_name": model_name},
        "routing": {"router": router, "budget": budget, "mode": mode},
        "records": {"url": records, "store_content": store_content or None},
    }
    settings: dict[str, Any] = {
        section: {name: value for name, value in values.items() if value is not None} for section, values in given.items()
    }
    names: dict[tuple[str, ...], str] = {(s, name): "--" + name.replace("_", "-") for s in given for name in given[s]}
    names |= {("records", "url"): "--records", ("variants", "0"): "--low", ("variants", "1"): "--high"}
    flags = Source("flags", settings, names, whole=False)
    variables = environment()
    if (high_model or low_model) and not (high and low):
        raise ConfigError("--high-model and --low-model go with --high and --low")
    if demo:
        if config or high or low:
            raise ConfigError("--demo brings its own servers: leave out --config, --high and --low")
        from bitroute.gateway.demo.demo import start_demo  # noqa: PLC0415

        with start_demo(flags, environment=variables) as (made, announce), _naming([variables, flags]):
            run(_with_bundled_routers(made), announce)
        return
    if config is not None:
        if high or low:
            raise ConfigError("--high and --low describe what --config describes; use one of them")
    elif high and low:
        settings["variants"] = [
            {"name": "low", "urls": low, "model": low_model or "low"},
            {"name": "high", "urls": high, "model": high_model or "high"},
        ]
    elif high or low or "variants" not in variables.settings:
        raise ConfigError(
            "what to serve: give --high and --low, or --config FILE, or --demo, or the variable BITROUTE_VARIANTS"
        )
    sources = [variables, *([toml_file(config)] if config else []), flags]
    merged = GatewayConfig.merge(sources)
    with _naming(sources):
        run(_with_bundled_routers(merged), _announce)


@contextmanager
def _naming(sources: Sequence[Source]) -> Iterator[None]:
    """Errors of a setting that shows itself wrong at work name the flag, the variable or the file it came from."""
    from bitroute.gateway.core.config import blamed  # noqa: PLC0415

    try:
        yield
    except BitrouteError as error:
        if not error.setting:
            raise
        raise type(error)(f"{blamed(sources, error.setting).named(error.setting)}: {error}") from error


def _with_bundled_routers(config: GatewayConfig) -> GatewayConfig:
    """The paths of bundled routers in place of their names."""
    routing = config.routing
    named: dict[str, object] = {
        "router": find_router(routing.router),
        "splits": tuple(split.model_copy(update={"router": find_router(split.router)}) for split in routing.splits),
    }
    return config.model_copy(update={"routing": routing.model_copy(update=named)})


def _announce(url: str, admin: str) -> None:
    typer.echo(f"bitroute serves {url}/v1 (page, metrics and kill switch: {admin})")


@app.command(
    epilog=examples(
        "bitroute export",
        "bitroute export --records postgresql://gateway@db/bitroute --since 2026-01-31 --closed --out week.jsonl",
        "bitroute export --form records --out requests.jsonl",
    )
)
def export(
    records: Records = RECORDS,
    out: Annotated[Path, typer.Option(help="File to write; one that is there is replaced.")] = Path("traces.jsonl"),
    policy: Policy = None,
    scope: Scope = None,
    since: Since = None,
    closed: Annotated[bool, typer.Option("--closed", help="Only episodes whose outcome was reported.")] = False,
    form: Annotated[
        Literal["traces", "features", "records"] | None,
        typer.Option(help="traces or features for training (by default what text allows), or records: all that is recorded."),
    ] = None,
) -> None:
    """Turn records into the traces that training reads.

    Where no text was stored it is a table of features instead: only signals routers can be trained from that.
    """
    from bitroute.gateway.records.export import export_records as write  # noqa: PLC0415
    from bitroute.gateway.records.reading import Filter  # noqa: PLC0415
    from bitroute.gateway.records.tables import open_database  # noqa: PLC0415

    wanted = Filter(policy, scope, since.timestamp() if since else None, closed)
    done = write(open_database(records, create=False), out, wanted, form)
    typer.echo(f"{done.form}: {out}; {done.episodes} episodes, {done.closed} with an outcome, {done.steps} steps")
    if done.form == "features" and form is None:
        typer.echo("no text was stored (serve --store-content): only signals routers can be trained from features")
    for reason, count in done.skipped.most_common():
        typer.echo(f"{count} episodes left out: {reason}")


@app.command(
    epilog=examples(
        "bitroute estimate --since 2026-01-31",
        "bitroute estimate --policy random --target runs/mine/routers/dmr-0 --budget 0.2",
    )
)
def estimate(
    records: Records = RECORDS,
    target: Annotated[
        str | None, typer.Option(help="A router that is to be valued from these episodes: a rule or a trained router's path.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, max=1, help="Budget of the target; its own threshold by default.")
    ] = None,
    policy: Policy = None,
    scope: Scope = None,
    since: Since = None,
) -> None:
    """Say from records what policies are worth.

    Success and cost of each arm of a split, the effect of one-step flips (mode explore), and what another router would have
    reached, all with 95 % intervals. Episodes count whose success was reported.
    """
    from bitroute.gateway.records import estimate as estimates  # noqa: PLC0415
    from bitroute.gateway.records.evidence import gather  # noqa: PLC0415
    from bitroute.gateway.records.reading import Filter  # noqa: PLC0415
    from bitroute.gateway.records.tables import open_database  # noqa: PLC0415

    if budget is not None and target is None:
        raise ConfigError("--budget is that of a target: give --target, too")
    wanted = Filter(policy, scope, since.timestamp() if since else None)
    found = gather(open_database(records, create=False), wanted, target and find_router(target), budget)
    for line in estimates.summary_lines(found.episodes, found.unknown):
        typer.echo(line)
    if found.partial:
        typer.echo(f"{found.partial} episodes left out: recorded from a later step on, or not routed")
    if target is not None:
        value = estimates.policy_value(found.episodes, found.targets)
        typer.echo(f"{target} would have reached (worth {value.effective:.0f} of its own episodes, from {value.episodes}):")
        for line in estimates.value_lines(value):
            typer.echo(line)


keys = typer.Typer(help="API keys of the gateway: make, list and revoke them.")
app.add_typer(keys, name="keys")


@keys.callback(invoke_without_command=True)
def keys_root(context: typer.Context) -> None:
    """API keys of the gateway: make, list and revoke them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@keys.command(epilog=examples("bitroute keys add laptop", "bitroute keys add ci --model 'auto*' --requests 600 --budget 5000"))
def add(
    name: Annotated[str, typer.Argument(help="What to call it in lists.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model it may ask for, or a pattern such as 'auto*'; repeat for more. Default: all."),
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests a minute.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens a minute, prompt and answer together.")] = None,
    budget: Annotated[float | None, typer.Option(help="Cost a day (UTC), in units of the configured rates.")] = None,
    force: Annotated[str | None, typer.Option(help="The variant that answers all its requests.")] = None,
    floor: Annotated[str | None, typer.Option(help="The lowest variant that answers its requests.")] = None,
    records: Records = RECORDS,
) -> None:
    """Make a key and print it: only now, the database keeps a digest. A running gateway takes it within seconds.

    From the first key on, the gateway answers nobody without one.
    """
    from bitroute.gateway.auth.keys import Grant, add_key  # noqa: PLC0415
    from bitroute.gateway.records.tables import open_database  # noqa: PLC0415

    grant = Grant(tuple(model or ()), requests, tokens, budget, force, floor)
    typer.echo(add_key(open_database(records), name, grant, time.time()))


@keys.command("list", epilog=examples("bitroute keys list"))
def list_(records: Records = RECORDS) -> None:
    """List all keys, oldest first, with what they allow and what they cost today."""
    from bitroute.gateway.auth.keys import list_keys  # noqa: PLC0415
    from bitroute.gateway.auth.limits import DAY  # noqa: PLC0415
    from bitroute.gateway.records.tables import open_database  # noqa: PLC0415

    today = time.time() // DAY
    for key in list_keys(open_database(records, create=False)):
        made = datetime.fromtimestamp(key.created).strftime("%Y-%m-%d")
        state = "revoked" if key.revoked is not None else f"since {made}, {key.spent if key.day == today else 0:g} spent today"
        typer.echo("  ".join((key.prefix, key.name, state, *key.grant.words())))


@keys.command(epilog=examples("bitroute keys revoke 3k9x01ab"))
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's 8 characters after br_, as `bitroute keys list` shows them.")],
    records: Records = RECORDS,
) -> None:
    """Revoke a key. A running gateway refuses it within seconds; requests in flight end as they began."""
    from bitroute.gateway.auth.keys import revoke_key  # noqa: PLC0415
    from bitroute.gateway.records.tables import open_database  # noqa: PLC0415

    typer.echo(f"revoked: {revoke_key(open_database(records, create=False), prefix, time.time()).name}")
