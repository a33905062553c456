"""What stands behind the ports: the parts of one gateway, made from its configuration, started and closed in order.

It knows which part needs which, and no sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from bitroute.cost import CostModel, Rates
from bitroute.errors import ConfigError
from bitroute.gateway.admin.app import admin_app
from bitroute.gateway.auth.keys import Keys
from bitroute.gateway.core.config import GatewayConfig
from bitroute.gateway.http.app import Gateway
from bitroute.gateway.records.recorder import Recorder
from bitroute.gateway.routing.policy import Policy
from bitroute.gateway.sessions.sessions import Sessions
from bitroute.gateway.sessions.store import MemoryStore, SessionStore
from bitroute.gateway.telemetry.metrics import Metrics
from bitroute.gateway.upstreams.upstreams import Upstreams

if TYPE_CHECKING:
    from bitroute.gateway.telemetry.spans import Telemetry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Apps:
    """The two applications and what the server must tell them."""

    gateway: Gateway
    admin: ASGIApp


def cost_model(config: GatewayConfig) -> CostModel:
    """The variants' rates; where none are given, the count of calls: the top variant 1, the lowest 0.

    Raises ConfigError when only some variants have rates: their costs could not be added.
    """
    given = {variant.name: variant.rates for variant in config.variants if variant.rates is not None}
    if not given:
        if len(config.ladder) == 1:
            return CostModel(unit="calls", variants={config.ladder[0]: Rates(call=1.0)})
        return CostModel.steps(config.ladder)
    if missing := [name for name in config.ladder if name not in given]:
        raise ConfigError(f"variants: {', '.join(missing)} without rates; give rates for all variants or for none")
    return CostModel(unit="configured", variants=given)


@contextlib.asynccontextmanager
async def parts(config: GatewayConfig) -> AsyncIterator[Apps]:
    """Everything behind the ports, started; closed, flushed and written on leaving. Raises ConfigError or DataError."""
    cost = cost_model(config)
    async with contextlib.AsyncExitStack() as stack:
        # What may be configured wrongly comes before the database, which would be made.
        policy = Policy(config)
        await policy.start()
        stack.push_async_callback(policy.close)
        upstreams = Upstreams(config)
        store = _store(config, stack)
        telemetry = _telemetry(config, stack)
        recorder = Recorder(config.records, cost, config.ladder)
        await asyncio.to_thread(recorder.start)
        stack.push_async_callback(asyncio.to_thread, recorder.close)
        keys = Keys(config.records.url, config.records.require_keys)
        await asyncio.to_thread(keys.start)
        stack.push_async_callback(asyncio.to_thread, keys.close)
        refuse_open_door(config, keys)
        await upstreams.start()
        for replica in upstreams.status():
            if not replica.healthy:
                _log.warning(
                    "%s: %s does not answer; it is asked again every %g s", replica.variant, replica.url, config.upstream.health
                )
        stack.push_async_callback(upstreams.close)
        sessions = Sessions(store, recorder.restore, high=config.ladder[-1])
        metrics = Metrics(config.ladder, cost)
        gateway = Gateway(
            config,
            policy=policy,
            sessions=sessions,
            upstreams=upstreams,
            recorder=recorder,
            keys=keys,
            metrics=metrics,
            telemetry=telemetry,
        )
        metrics.watch("in_flight", "Requests that are being answered.", lambda: gateway.in_flight)
        if isinstance(store, MemoryStore):
            metrics.watch("sessions", "Sessions that are remembered.", lambda: len(store))
        yield Apps(gateway, admin_app(policy, upstreams, recorder, metrics, keys, config))


def _store(config: GatewayConfig, stack: contextlib.AsyncExitStack) -> SessionStore:
    if config.sessions.url is None:
        return MemoryStore(config.sessions.max, config.sessions.ttl)
    try:
        from bitroute.gateway.sessions.redis_store import RedisStore  # noqa: PLC0415  (redis is an extra)
    except ModuleNotFoundError as error:
        raise ConfigError("sessions.url needs the extra: pip install 'bitroute[redis]'") from error
    store = RedisStore(config.sessions.url, config.sessions.ttl)
    stack.push_async_callback(store.close)
    return store


def _telemetry(config: GatewayConfig, stack: contextlib.AsyncExitStack) -> Telemetry | None:
    if config.telemetry.endpoint is None:
        return None
    try:
        from bitroute.gateway.telemetry.spans import Telemetry, otlp  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise ConfigError("telemetry.endpoint needs the extra: pip install 'bitroute[telemetry]'") from error
    telemetry = Telemetry(otlp(config.telemetry.endpoint))
    stack.push_async_callback(asyncio.to_thread, telemetry.close)
    return telemetry


def refuse_open_door(config: GatewayConfig, keys: Keys) -> None:
    """Raise ConfigError when others than this machine could use the gateway without a key; warn of an open admin port."""
    if not local(config.server.host) and keys.open:
        raise ConfigError(
            f"{config.server.host}: others could use the gateway without a key; add one first (bitroute keys add)"
        ).of("server", "host")
    if not local(config.server.admin_host):
        _log.warning(
            "server.admin_host %s: whoever reaches that port reads the records and has the kill switch, without a password",
            config.server.admin_host,
        )


def local(host: str) -> bool:
    """Whether `host` is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
