"""The errors bitroute raises on purpose. The command line prints their message as one line and exits with `exit_code`."""

from __future__ import annotations

from typing import Self


class BitrouteError(Exception):
    """Base class: the message is one line that names the file, field or flag at fault and says what to do."""

    exit_code = 1
    setting: tuple[str | int, ...] = ()  # of a configuration, by section and key: the value at fault, where that is known

    def of(self, *setting: str | int) -> Self:
        """The same error, which says what setting is at fault: who knows where that was set can name the place."""
        self.setting = setting
        return self


class ConfigError(BitrouteError):
    """A flag, option or configuration value is wrong."""

    exit_code = 2


class DataError(BitrouteError):
    """A file is missing, truncated, or does not hold what its name promises."""

    exit_code = 3


class CapabilityError(BitrouteError):
    """An engine or a router was asked for something that it does not offer (an unknown variant, a device ...)."""

    exit_code = 4
