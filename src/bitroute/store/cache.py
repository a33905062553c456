"""Where files are kept that can be made again, and directories that are made whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bitroute.errors import DataError

VARIABLE: Final = "BITROUTE_CACHE"


def cache_directory() -> Path:
    """`$BITROUTE_CACHE`, else `bitroute` in `$XDG_CACHE_HOME`, else `~/.cache/bitroute`. It need not be there yet."""
    if own := os.environ.get(VARIABLE):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "bitroute"


def made(directory: Path, make: Callable[[Path], object]) -> Path:
    """`directory`, which `make` fills (as an empty directory elsewhere) unless it is there; then it appears as a whole.

    Of two processes that make it at once, one wins; what the other made is removed, as it is when `make` raises. Raises
    DataError when the place cannot be written.
    """
    if directory.is_dir():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise DataError(f"cannot write {directory} ({error.strerror}); set {VARIABLE} to a place for models") from error
    try:
        make(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(directory)
        except OSError as error:
            if not directory.is_dir():
                raise DataError(f"cannot write {directory}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory
