"""The errors bitroute raises on purpose. The command line prints their message as one line and exits with `exit_code`."""


class BitrouteError(Exception):
    """Base class: the message is one line that names the file, field or flag at fault and says what to do."""

    exit_code = 1


class ConfigError(BitrouteError):
    """A flag, option or configuration value is wrong."""

    exit_code = 2


class DataError(BitrouteError):
    """A file is missing, truncated, or does not hold what its name promises."""

    exit_code = 3


class CapabilityError(BitrouteError):
    """An engine or a router was asked for something that it does not declare (an unknown variant, full logits ...)."""

    exit_code = 4
