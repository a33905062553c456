"""Which extra of bitroute brings a package. It knows the installed metadata, and imports none of the packages."""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from bitroute.errors import BitrouteError

DEVELOPMENT: Final = ("dev", "docs")  # extras that no command needs
REQUIREMENT: Final = re.compile(r"""([\w.-]+)[^;]*;(.*)\bextra == ['"]([\w-]+)['"]""")


def declared() -> dict[str, tuple[str, bool]]:
    """What extras bring: distribution -> (extra, whether for some platforms alone). Names are normalized, `a-b`.

    Of several extras that bring a package, the smallest is its own: others take it in.
    """
    try:
        lines = requires("bitroute") or []
    except PackageNotFoundError:  # run from its sources
        lines = []
    found = [match for line in lines if (match := REQUIREMENT.match(line)) and match[3] not in DEVELOPMENT]
    sizes = Counter(match[3] for match in found)
    found.sort(key=lambda match: -sizes[match[3]])  # stable; of equal names the last one stays
    return {_normal(match[1]): (match[3], bool(match[2].strip())) for match in found}


def extra_of(module: str) -> str | None:
    """The extra that brings `module`, e.g. `opentelemetry.sdk`; None when the core does or nothing of ours.

    A module is looked up by its first name, which is how all our packages but the members of a namespace are called.
    """
    name = _normal(module.partition(".")[0])
    found = (extra for package, (extra, _) in declared().items() if package == name or package.startswith(f"{name}-"))
    return next(found, None)


def need(*extras: str) -> None:
    """Raise BitrouteError, naming all that is absent at once, unless what `extras` bring is installed.

    For a command that needs several: their packages are imported one after the other, the last perhaps after minutes of work.
    """
    absent = {extra: name for name, (extra, partly) in declared().items() if extra in extras and not partly and not _here(name)}
    if absent:
        wanted = [extra for extra in extras if extra in absent]
        packages = " and ".join(absent[extra] for extra in wanted)
        raise BitrouteError(f"this needs {packages}, not installed here: pip install 'bitroute[{','.join(wanted)}]'")


def _here(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
