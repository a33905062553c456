"""An index on disk: a directory of numpy arrays and a header. It knows their names, types, sizes and checksums, not what they
are for.

The directory appears whole under its name or not at all. The columns of postings, nine tenths of the bytes, are checked for
their size alone when it is opened; all others for every byte.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from bitroute.errors import DataError
from bitroute.store.files import write_atomic

VERSION: Final = 1  # the next when the format changes, or when a text gets other terms
_HEADER: Final = "header.json"

Column: TypeAlias = npt.NDArray[Any]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counts of an index. `searchable` documents have a term, `tokens` are the terms of all, repeats included."""

    version: int
    documents: int
    searchable: int
    tokens: int
    terms: int
    term_bytes: int
    postings: int
    checksums: dict[str, int] = {}

    def layout(self) -> dict[str, tuple[np.dtype[Any], int]]:
        """Type and length of each column.

        `asins` and `lengths` (coded, see `index`) belong to the documents. The terms stand in the order of their UTF-8 bytes,
        end to end in `term_bytes`: number i is at `term_starts[i] : term_starts[i + 1]`, its postings at `posting_starts[i] :
        posting_starts[i + 1]` of `posting_documents` (ascending) and `frequencies`.
        """
        return {
            "asins": (np.dtype("S10"), self.documents),
            "lengths": (np.dtype("u1"), self.documents),
            "term_bytes": (np.dtype("u1"), self.term_bytes),
            "term_starts": (np.dtype("<i8"), self.terms + 1),
            "posting_starts": (np.dtype("<i8"), self.terms + 1),
            "posting_documents": (np.dtype("<u4"), self.postings),
            "frequencies": (np.dtype("<u2"), self.postings),
        }


class _Version(msgspec.Struct):
    version: int


_BY_SIZE: Final = ("posting_documents", "frequencies")


@contextmanager
def new_columns(path: Path, header: Header) -> Iterator[dict[str, Column]]:
    """Arrays on disk to fill, by the name of the column; at the end of the block they become the directory `path`.

    What was there before is removed. Raises DataError when the disk refuses; then, as when the block raises, nothing stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        columns: dict[str, Column] = {
            name: np.lib.format.open_memmap(_file(temporary, name), mode="w+", dtype=dtype, shape=(length,))
            if length
            else np.zeros(0, dtype)
            for name, (dtype, length) in header.layout().items()
        }
        yield columns
        for name, column in columns.items():
            if isinstance(column, np.memmap):
                column.flush()
            else:  # an empty file cannot be mapped
                np.save(_file(temporary, name), column)
        checksums = {name: _checksum(_file(temporary, name)) for name in columns if name not in _BY_SIZE}
        write_atomic(temporary / _HEADER, msgspec.json.encode(msgspec.structs.replace(header, checksums=checksums)))
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_columns(path: Path) -> tuple[Header, dict[str, Column]]:
    """The header and the columns, mapped for reading. Raises DataError naming the file that is missing, of another version or
    damaged."""
    header = read_header(path)
    return header, {name: _open(path, name, header) for name in header.layout()}


def open_column(path: Path, name: str) -> Column:
    """One column, mapped for reading. Raises DataError as `open_columns`."""
    return _open(path, name, read_header(path))


def _open(path: Path, name: str, header: Header) -> Column:
    file, (dtype, length) = _file(path, name), header.layout()[name]
    try:
        column = np.load(file, mmap_mode="r" if length else None, allow_pickle=False)
        whole = column.dtype == dtype and column.shape == (length,)
        if whole and name not in _BY_SIZE:
            whole = _checksum(file) == header.checksums.get(name)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: cannot be read ({error}); {_again(path)}") from error
    if not whole:
        raise DataError(f"{file}: damaged; {_again(path)}")
    return np.asarray(column)  # no memmap: that class makes every slice slow


def read_header(path: Path) -> Header:
    """The counts alone. Raises DataError as `open_columns`."""
    file = path / _HEADER
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; build the search index first") from error
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise DataError(f"{file}: search index of version {version}, this bitroute reads {VERSION}; {_again(path)}")
        return msgspec.json.decode(data, type=Header)
    except msgspec.MsgspecError as error:
        raise DataError(f"{file}: damaged ({error}); {_again(path)}") from error


def _again(path: Path) -> str:
    return f"remove {path} and build the search index again"


def _file(path: Path, name: str) -> Path:
    return path / f"{name}.npy"


def _checksum(file: Path) -> int:
    """CRC-32, read piece by piece: a mapping of the whole would count as this process's memory."""
    checksum = 0
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum
