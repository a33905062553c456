"""A gateway in a thread before two scripted upstreams, and official clients of it: what the tests of conformance share."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import sqlalchemy as sa
from openai.types.chat import ChatCompletionMessageParam

from bitroute.gateway.auth.keys import Grant, add_key
from bitroute.gateway.records.tables import open_database, steps
from support.gateway import Running, gateway_config, threaded
from support.upstream import PATIENCE, Script, ScriptedUpstream

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello there"}]


@dataclass(frozen=True)
class Stage:
    """`low` and `high` are the upstreams of the ladder's two variants."""

    gateway: Running
    low: ScriptedUpstream
    high: ScriptedUpstream

    @property
    def base(self) -> str:
        return f"{self.gateway.url}/v1"

    def openai(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.base, "api_key": "none", "max_retries": 0, "timeout": PATIENCE, **options})

    def async_openai(self, **options: Any) -> openai.AsyncOpenAI:
        given = {"base_url": self.base, "api_key": "none", "max_retries": 0, "timeout": PATIENCE, **options}
        return openai.AsyncOpenAI(**given)

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        given = {"base_url": self.gateway.url, "api_key": "none", "max_retries": 0, "timeout": PATIENCE, **options}
        return anthropic.Anthropic(**given)

    def recorded(self) -> list[dict[str, Any]]:
        """The rows of steps that are written so far, in the order in which they ended."""
        engine = open_database(self.gateway.config.records.url)
        try:
            with engine.connect() as connection:
                return [dict(row) for row in connection.execute(sa.select(steps).order_by(steps.c.id)).mappings()]
        finally:
            engine.dispose()


@contextlib.contextmanager
def staged(folder: Path, *, low: Script | None = None, high: Script | None = None, **sections: Any) -> Iterator[Stage]:
    """The whole thing, running; `sections` go into the gateway's configuration."""
    with (
        ScriptedUpstream(low) as first,
        ScriptedUpstream(high) as second,
        threaded(gateway_config(folder, first.url, second.url, **sections)) as gateway,
    ):
        yield Stage(gateway, first, second)


def new_key(folder: Path, **grant: Any) -> str:
    """A key in the records that `staged` will use."""
    engine = open_database(f"sqlite:///{folder / 'records.db'}")
    try:
        return add_key(engine, "test", Grant(**grant), 0.0)
    finally:
        engine.dispose()


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an error or with a traceback, by anyone."""
    return [
        f"{record.name}: {record.getMessage()}"
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR or record.exc_info
    ]
