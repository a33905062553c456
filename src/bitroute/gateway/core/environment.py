"""Settings from environment variables, for containers: `BITROUTE_SERVER__PORT` is `server.port`. It reads, and checks nothing.

A list or a table is JSON, and so may a whole section be; the ladder is `BITROUTE_VARIANTS`. A variable that is empty counts as
not set. One whose name has a double underscore is a setting, known or not: what is misspelt is refused as it is in a file.
Variables of other names that begin with `BITROUTE_` are left alone.
"""

from __future__ import annotations

import os
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from bitroute.gateway.core.config import GatewayConfig, Source

PREFIX: Final = "BITROUTE_"
_WITHIN: Final = "__"  # between a section and its key


class _Variables(GatewayConfig, BaseSettings):
    """The configuration's fields as variables; never made."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=_WITHIN, env_ignore_empty=True)


class _Reader(EnvSettingsSource):
    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON, or the text as it stands: the configuration refuses that by the variable's name."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def environment() -> Source:
    """What the environment sets."""
    settings = _Reader(_Variables)()
    names: dict[tuple[str, ...], str] = {}
    for variable, value in os.environ.items():
        if not value or not variable.upper().startswith(PREFIX):
            continue
        location = tuple(variable[len(PREFIX) :].lower().split(_WITHIN))
        if location[0] in settings:
            names[location] = variable
        elif len(location) > 1:  # there is no such section
            names[location[:1]], settings[location[0]] = variable, value
    return Source("environment", settings, names, texts=True)
