"""Who may ask, for which models, and how much. It knows keys and limits; what a request says beyond its headers it never sees.

A key is `br_<prefix>_<secret>`: 43 characters of secret are 256 bits, so one round of SHA-256 is all its protection at rest
needs. The database keeps the digest, the prefix finds it. A thread reads the keys every few seconds and writes what
was spent; a request touches memory alone. Rates are counted by each gateway process for itself, the day's budget by all.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import hmac
import json
import logging
import math
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from bitroute.errors import ConfigError, DataError
from bitroute.gateway.auth.limits import DAY, MINUTE, Bucket, SpendingWindow, duration, until_midnight
from bitroute.gateway.core.values import GatewayError, Tokens
from bitroute.gateway.records.tables import metadata, open_database

_log = logging.getLogger(__name__)

REFRESH: Final = 3.0  # seconds between looks at the database: a revoked key lives at most this long
_PREFIX: Final = 8
_LENGTH: Final = len("br_") + _PREFIX + len("_") + 43
_ALPHABET: Final = string.ascii_lowercase + string.digits

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("prefix", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
    sa.Column("models", sa.Text, nullable=False),  # JSON list of patterns; empty: every model
    sa.Column("requests", sa.Integer),  # a minute
    sa.Column("tokens", sa.Integer),  # a minute
    sa.Column("budget", sa.Float),  # cost units a day (UTC)
    sa.Column("force", sa.Text),
    sa.Column("floor", sa.Text),
    sa.Column("day", sa.Integer, nullable=False, default=0),  # days since 1970 that `spent` belongs to
    sa.Column("spent", sa.Float, nullable=False, default=0.0),
)


@dataclass(frozen=True, slots=True)
class Client:
    """Who calls: `scope` is the key's prefix, "" where no key is needed. `force` and `floor` are variants, None for neither."""

    scope: str = ""
    name: str = ""
    models: tuple[str, ...] = ()  # patterns such as auto*; empty: every model
    force: str | None = None
    floor: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key allows. None is no limit; `requests` and `tokens` are a minute, `budget` is cost units a day."""

    models: tuple[str, ...] = ()
    requests: int | None = None
    tokens: int | None = None
    budget: float | None = None
    force: str | None = None
    floor: str | None = None

    def words(self) -> list[str]:
        """What is not left open, for a list of keys."""
        limits = (
            (self.requests, "requests/min"),
            (self.tokens, "tokens/min"),
            (self.budget, "cost/day"),
        )
        named = (("models", ",".join(self.models)), ("force", self.force), ("floor", self.floor))
        return [f"{limit:.12g} {what}" for limit, what in limits if limit is not None] + [f"{n} {v}" for n, v in named if v]


@dataclass(frozen=True, slots=True)
class Key:
    """A stored key. `spent` is of the day `day` (UTC, days since 1970)."""

    prefix: str
    digest: str
    name: str
    created: float
    revoked: float | None
    grant: Grant
    day: int
    spent: float


def add_key(engine: sa.Engine, name: str, grant: Grant, now: float) -> str:
    """Make a key and keep its digest; the key itself is returned and known nowhere else.

    Raises ConfigError for limits that are not positive or an empty pattern, DataError when the database cannot be written.
    """
    if not name.strip() or len(name) > 255:
        raise ConfigError("a key's name has 1 to 255 characters")
    for flag, limit in (("--requests", grant.requests), ("--tokens", grant.tokens), ("--budget", grant.budget)):
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            raise ConfigError(f"{flag}: want a positive number, got {limit}")
    if not all(grant.models):
        raise ConfigError("--model: want a model's name or a pattern such as auto*, got an empty one")
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX))
    key = f"br_{prefix}_{secrets.token_urlsafe(32)}"
    row = {
        "prefix": prefix,
        "digest": _digest(key),
        "name": name,
        "created": now,
        "models": json.dumps(grant.models),
        "requests": grant.requests,
        "tokens": grant.tokens,
        "budget": grant.budget,
        "force": grant.force,
        "floor": grant.floor,
    }
    with _connected(engine) as connection:
        connection.execute(sa.insert(keys).values(row))
    return key


def list_keys(engine: sa.Engine) -> list[Key]:
    """All keys, also revoked ones, oldest first. Raises DataError when the database cannot be read."""
    with _connected(engine) as connection:
        return _read(connection)


def revoke_key(engine: sa.Engine, prefix: str, now: float) -> Key:
    """Revoke the key with this prefix (a whole key is taken for its prefix). Raises ConfigError when there is no such key."""
    prefix = _prefix_of(prefix) or prefix
    with _connected(engine) as connection:
        changed = sa.update(keys).where(keys.c.prefix == prefix).values(revoked=sa.func.coalesce(keys.c.revoked, now))
        connection.execute(changed)
        found = [key for key in _read(connection) if key.prefix == prefix]
    if not found:
        raise ConfigError(f"there is no key with the prefix {prefix!r}; see `bitroute keys list`")
    return found[0]


class Keys:
    """The keys in memory. Without any key in the table everyone is welcome, unless `required`.

    A revoked key counts as a key: revoking the last one closes the gateway and does not open it.
    """

    def __init__(
        self, url: str, required: bool = False, *, clock: Callable[[], float] = time.time, refresh: float = REFRESH
    ) -> None:
        self._url = url
        self._engine: sa.Engine | None = None
        self._required, self._clock, self._interval = required, clock, refresh
        self._entries: dict[str, _Entry] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="keys", daemon=True)
        self.open = False  # whether no key is needed

    def start(self) -> None:
        """Read the keys and go on reading them in a thread. Raises DataError when the database cannot be read now."""
        self._engine = open_database(self._url)
        self.refresh()
        self._thread.start()

    def close(self) -> None:
        """Stop, and write what was spent. Raises DataError when it cannot be written."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            self.refresh()
        if self._engine is not None:
            self._engine.dispose()

    def refresh(self) -> None:
        """Write what was spent since the last time, and read the keys. Raises DataError; what was known then stays."""
        if self._engine is None:
            raise RuntimeError("the keys were not started")
        day = int(self._clock() // DAY)
        spent = {prefix: cost for prefix, entry in self._entries.items() if (cost := entry.spending.unstored())}
        stored = _exchange(self._engine, day, spent)
        now = self._clock()
        entries: dict[str, _Entry] = {}
        for key in stored:
            entry = entries[key.prefix] = _Entry.of(key, now, self._entries.get(key.prefix))
            entry.spending.learn(key.day, key.spent, spent.get(key.prefix, 0.0))
        self._entries, self.open = entries, not entries and not self._required

    def authenticate(self, headers: Mapping[str, str]) -> Client:
        """Who sends these headers (names in lower case, or in any case in a mapping that knows none).

        Raises GatewayError 401.
        """
        if self.open:
            return _ANYONE
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        key = credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        entry = self._entries.get(_prefix_of(key) or "")
        if entry is not None and hmac.compare_digest(_digest(key), entry.key.digest):
            if entry.key.revoked is None:
                return entry.client
            raise _unknown("This API key was revoked")
        raise _unknown("Incorrect API key provided" if key else "No API key provided: send it as `Authorization: Bearer KEY`")

    def admit(self, client: Client, model: str) -> dict[str, str]:
        """Count a request, and say in `x-ratelimit-*` headers what is left; no headers for a key without limits.

        Raises GatewayError 403 for a model that the key does not allow, 429 with retry-after beyond a limit.
        """
        if client.models and not any(fnmatch.fnmatchcase(model, pattern) for pattern in client.models):
            raise GatewayError(403, f"This API key may not use the model {model!r}", code="model_not_allowed", param="model")
        entry = self._entries.get(client.scope)
        if entry is None:
            return {}
        now = self._clock()
        budget = entry.key.grant.budget
        if budget is not None and entry.spending.total(now) >= budget:
            raise _exhausted("budget", f"{budget:g} cost units a day", until_midnight(now), "insufficient_quota", {})
        for what, bucket in (("requests", entry.requests), ("tokens", entry.tokens)):
            if bucket is not None and (wait := bucket.wait(1, now)) > 0:
                raise _exhausted(what, f"{bucket.limit} {what} a minute", wait, "rate_limit_exceeded", entry.headers(now))
        if entry.requests is not None:
            entry.requests.take(1, now)
        return entry.headers(now)

    def charge(self, client: Client, tokens: Tokens, cost: float) -> None:
        """Count what an answered request used: all its tokens, and its cost in the cost model's unit."""
        entry = self._entries.get(client.scope)
        if entry is None:
            return
        if entry.tokens is not None:
            entry.tokens.take(tokens.prefill + tokens.cached + tokens.decode, self._clock())
        entry.spending.charged += cost

    def _keep_fresh(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.refresh()
            except DataError as error:
                _log.warning("the keys read last stay in force: %s", error)


_ANYONE: Final = Client()
_REQUESTS, _TOKENS = (
    tuple(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset")) for of in ("requests", "tokens")
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key with its counters in this process."""

    key: Key
    client: Client
    requests: Bucket | None
    tokens: Bucket | None
    spending: SpendingWindow

    @classmethod
    def of(cls, key: Key, now: float, old: _Entry | None) -> _Entry:
        """The key with the counters it had, as far as its limits are the same."""
        grant = key.grant
        client = Client(key.prefix, key.name, grant.models, grant.force, grant.floor)
        requests = _bucket(grant.requests, now, old.requests if old else None)
        tokens = _bucket(grant.tokens, now, old.tokens if old else None)
        return cls(key, client, requests, tokens, old.spending if old else SpendingWindow())

    def headers(self, now: float) -> dict[str, str]:
        lines: dict[str, str] = {}
        for (limit, remaining, reset), bucket in ((_REQUESTS, self.requests), (_TOKENS, self.tokens)):
            if bucket is not None:
                level = bucket.level(now)
                lines[limit] = str(bucket.limit)
                lines[remaining] = str(max(0, int(level)))
                lines[reset] = duration((bucket.limit - level) * MINUTE / bucket.limit)
        return lines


def _bucket(limit: int | None, now: float, old: Bucket | None) -> Bucket | None:
    if limit is None:
        return None
    return old if old is not None and old.limit == limit else Bucket(limit, now)


def _prefix_of(key: str) -> str | None:
    """The prefix of what looks like a key."""
    looks = len(key) == _LENGTH and key.isascii() and key.startswith("br_") and key[3 + _PREFIX] == "_"
    return key[3 : 3 + _PREFIX] if looks else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _unknown(message: str) -> GatewayError:
    return GatewayError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _exhausted(what: str, limit: str, wait: float, code: str, headers: Mapping[str, str]) -> GatewayError:
    after = str(max(1, math.ceil(wait)))
    message = f"The limit of this API key is reached: {limit}. Try again in {duration(wait)}."
    return GatewayError(429, message, kind=what, code=code, headers={**headers, "retry-after": after})


@contextlib.contextmanager
def _connected(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction. Raises DataError with the driver's words; a URL's password is in none of them."""
    try:
        with engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", error)).split())
        raise DataError(f"{engine.url.render_as_string()}: cannot use the keys ({said})") from error


def _exchange(engine: sa.Engine, day: int, spent: Mapping[str, float]) -> list[Key]:
    with _connected(engine) as connection:
        for prefix, cost in spent.items():
            before = sa.case((keys.c.day == day, keys.c.spent), else_=0.0)
            connection.execute(sa.update(keys).where(keys.c.prefix == prefix).values(spent=before + cost, day=day))
        return _read(connection)


def _read(connection: sa.Connection) -> list[Key]:
    return [
        Key(
            row.prefix,
            row.digest,
            row.name,
            row.created,
            row.revoked,
            Grant(tuple(json.loads(row.models)), row.requests, row.tokens, row.budget, row.force, row.floor),
            row.day,
            row.spent,
        )
        for row in connection.execute(sa.select(keys).order_by(keys.c.created, keys.c.prefix))
    ]
