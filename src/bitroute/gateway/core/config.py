"""The gateway's configuration: flags over a file over environment variables. It knows names and limits, and starts nothing."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from bitroute.cost import Rates
from bitroute.errors import ConfigError, DataError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Location = Sequence[str | int]  # of a setting: section, key, and what is within


@dataclass(frozen=True, slots=True)
class Source:
    """Settings from one place, by section and key. `name` is what errors call it.

    `names` are the settings that have a name of their own there (an environment variable's), by section and key. `texts` says
    that all values are texts, of which lists and tables are JSON, `whole` that what is set nowhere is missed here.
    """

    name: str
    settings: Mapping[str, Any]
    names: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    texts: bool = False
    whole: bool = True

    def named(self, location: Location) -> str:
        """A setting as the place spells it."""
        for length in range(len(location), 0, -1):
            if (own := self.names.get(tuple(map(str, location[:length])))) is not None:
                return ": ".join((own, *filter(None, [_dotted(location[length:])])))
        return ": ".join((self.name, *filter(None, [_dotted(location)])))

    def depth(self, location: Location) -> int:
        """How much of a setting's location is found here."""
        found: Any = self.settings
        for depth, part in enumerate(location):
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return depth
        return len(location)


def blamed(sources: Sequence[Source], location: Location) -> Source:
    """The last of the places that have most of a setting. One that nobody has is at fault in the last of all."""
    return max(reversed(sources), key=lambda place: place.depth(location))


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))


def toml_file(path: Path) -> Source:
    """What a TOML file says. Raises DataError naming the file when it cannot be read, ConfigError when it is none."""
    try:
        return Source(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error


_WANT_JSON = frozenset({"tuple_type", "dict_type"})  # errors of a text that is no list and no table


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ServerConfig(_Section):
    """Where the gateway listens, and how much it takes on."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    admin_host: str = "127.0.0.1"
    admin_port: Annotated[int, Field(ge=0, le=65535)] = 8081
    workers: PositiveInt = 1
    model_name: Literal["variant", "client"] = "variant"  # whose name the answer's `model` gives
    max_body: PositiveInt = 32 * 1024 * 1024  # bytes
    max_requests: PositiveInt = 8192  # in flight; more are answered 503 with retry-after
    drain: NonNegativeFloat = 30.0  # seconds that requests in flight get after SIGTERM


class VariantConfig(_Section):
    """One rung of the ladder: the replicas that serve it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*$", max_length=64)]
    urls: Annotated[tuple[str, ...], Field(min_length=1)]  # each up to and without /v1
    model: str | None = None  # its name at the upstream; None: the variant's own name
    api_key_env: str | None = None  # environment variable that holds the upstream's key
    max_requests: PositiveInt = 256  # in flight at one replica; all replicas at that: the variant is saturated
    rates: Rates | None = None  # cost; None: a call of the top variant costs 1, of the lowest 0

    @model_validator(mode="after")
    def _urls(self) -> Self:
        for url in self.urls:
            try:
                parts = urlsplit(url)
                good = parts.scheme in ("http", "https") and parts.hostname and not parts.username and parts.port != 0
            except ValueError:  # a port that is none
                good = False
            if not good:
                raise ValueError(f"{url}: want http://host:port without user and password")
        return self

    @property
    def key(self) -> str | None:
        """The upstream's key. Raises ConfigError when the variable is named but not set."""
        if self.api_key_env is None:
            return None
        value = os.environ.get(self.api_key_env)
        if not value:
            raise ConfigError(f"variants.{self.name}.api_key_env: the environment variable {self.api_key_env} is not set")
        return value


class SplitConfig(_Section):
    """A share of the episodes on another policy."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    share: Share
    router: str
    budget: Share | None = None


class RoutingConfig(_Section):
    """Who decides, in which mode, within which budget. `router` is what `--router` takes elsewhere: a rule or a path."""

    router: str = "heuristic"
    budget: Share = 0.3
    mode: Literal["enforce", "shadow", "split", "explore"] = "enforce"
    serve: str | None = None  # the variant that shadow mode serves; None: the highest
    splits: tuple[SplitConfig, ...] = ()  # of mode split; what they leave is on `router`
    explore: Share = 0.05  # of mode explore: the probability that one random step of an episode is flipped
    horizon: PositiveInt = 20  # of mode explore: the step is one of an episode's first so many
    timeout: PositiveFloat = 0.05  # seconds a decision may take before the step falls to high
    feedback: bool = False  # let the threshold follow the realised share
    window: PositiveInt = 2000  # steps over which the realised share is compared with the budget
    alarm: Share = 0.05  # difference from the budget that raises the alarm
    floors: dict[str, str] = {}  # tool name -> lowest variant for a step that calls it or answers it
    cache: PositiveInt = 256 * 1024 * 1024  # bytes of the routers' own memory over all episodes
    reload: PositiveFloat = 2.0  # seconds between looks at the router's files


class SessionsConfig(_Section):
    """How long histories are remembered, and where."""

    url: str | None = None  # redis://...: shared between gateways; None: in this process
    max: PositiveInt = 100_000
    ttl: PositiveFloat = 3600.0  # seconds since the session's last request
    headers: tuple[str, ...] = ()  # further headers that name a session


class UpstreamConfig(_Section):
    """Deadlines and tries, in seconds."""

    connect: PositiveFloat = 5.0
    first_token: PositiveFloat = 120.0
    total: PositiveFloat = 600.0
    health: PositiveFloat = 5.0  # between health checks of a replica
    retry_budget: Share = 0.2  # retries may be at most this share of recent requests


class RecordsConfig(_Section):
    """Where episodes are kept."""

    url: str = "sqlite:///bitroute.db"  # or postgresql://...
    flush: PositiveFloat = 0.5  # seconds: older steps survive kill -9
    store_content: bool = False
    require_keys: bool = False


class TelemetryConfig(_Section):
    """Where OpenTelemetry spans go, if anywhere."""

    endpoint: str | None = None  # OTLP/HTTP, e.g. http://127.0.0.1:4318/v1/traces


class GatewayConfig(_Section):
    """The whole file. `variants` is the ladder, cheapest first."""

    server: ServerConfig = ServerConfig()
    variants: Annotated[tuple[VariantConfig, ...], Field(min_length=1)]
    routing: RoutingConfig = RoutingConfig()
    sessions: SessionsConfig = SessionsConfig()
    upstream: UpstreamConfig = UpstreamConfig()
    records: RecordsConfig = RecordsConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.ladder
        if len(set(names)) < len(names):
            raise ValueError(f"variants: two have one name in {', '.join(names)}")
        for name in names:
            if name == "auto" or name.startswith("auto-"):
                raise ValueError(f"variants: {name!r} is kept for routed models")
        named = {"routing.serve": self.routing.serve} | {f"routing.floors.{t}": v for t, v in self.routing.floors.items()}
        for place, variant in named.items():
            if variant is not None and variant not in names:
                raise ValueError(f"{place}: unknown variant {variant!r}; there are {', '.join(names)}")
        if self.routing.mode == "split" and not self.routing.splits:
            raise ValueError("routing.mode: split needs routing.splits, which say what share goes to which router")
        if sum(split.share for split in self.routing.splits) > 1:
            raise ValueError("routing.splits: the shares sum to more than 1")
        if self.server.workers > 1 and self.sessions.url is None:
            raise ValueError(
                "server.workers: several processes cannot share the in-process session store; set sessions.url to redis://..."
            )
        return self

    @property
    def ladder(self) -> tuple[str, ...]:
        """The variants' names, cheapest first."""
        return tuple(variant.name for variant in self.variants)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file. Raises ConfigError naming the file and the field at fault."""
        return cls.merge([toml_file(path)])

    @classmethod
    def of(cls, data: Mapping[str, Any], where: str) -> Self:
        """Check plain data; `where` names its origin in errors. Raises ConfigError naming the field."""
        return cls.merge([Source(where, data)])

    @classmethod
    def merge(cls, sources: Sequence[Source]) -> Self:
        """Settings from several places, at least one; of a setting that several have the last counts, a list as a whole.

        Raises ConfigError naming the field at fault and where it stands.
        """
        merged: dict[str, Any] = {}
        for source in sources:
            for section, values in source.settings.items():
                if isinstance(values, Mapping):
                    before = merged.get(section)
                    merged[section] = {**before, **values} if isinstance(before, Mapping) else values
                elif section in cls.model_fields and section != "variants":
                    raise ConfigError(f"{source.named([section])}: want {'JSON, ' if source.texts else ''}a table of settings")
                else:
                    merged[section] = values
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            unknown = [found for found in error.errors() if found["type"] == "extra_forbidden"]
            first = (unknown or error.errors())[0]  # a misspelt setting explains the one that is missing
            said = "there is no such setting" if unknown else first["msg"].removeprefix("Value error, ")
            location: Location = first["loc"]
            if not location and said.partition(".")[0].partition(":")[0] in cls.model_fields:  # as `_consistent` names it
                name, _, said = said.partition(": ")
                location = name.split(".")
            source = blamed(sources, location)
            if first["type"] == "missing" and location == ("variants",):
                source = blamed([place for place in sources if place.whole] or sources, location)
                said = "missing; name two or more, cheapest first, each with its name and urls"
            if source.texts and isinstance(first["input"], str) and first["type"] in _WANT_JSON:
                said = "want JSON"
            raise ConfigError(f"{source.named(location)}: {said}") from error
