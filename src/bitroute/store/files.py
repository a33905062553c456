"""Whole files, written all or nothing. It knows bytes and paths, nothing of what they mean."""

from __future__ import annotations

import os
from pathlib import Path

from bitroute.errors import DataError


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) under a temporary name beside `path`, then rename it: readers see the old or the new file.

    Missing parent directories are made. Raises DataError naming the file when the disk is full or the place is not writable;
    the temporary file is then removed.
    """
    payload = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary.exists():
            temporary.unlink()
