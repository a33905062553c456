"""Whole files, written all or nothing. It knows bytes and paths, nothing of what they mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitroute.errors import DataError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) as the whole of `path`, as `replacing` does it."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write a file under; at the end it is renamed: readers see the old or the new file.

    Missing parent directories are made. Raises DataError naming the file when the disk is full or the place is not writable;
    the temporary file is then removed, as when the caller's code raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary.exists():
            temporary.unlink()
