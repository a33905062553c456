"""Builds a search index from documents' texts. It knows texts, terms and files, not where the texts come from.

The documents are analysed in parts, by several processes if wished; each part is a small index on disk. The parts lie beside
the index until it is whole: a build that was killed goes on with those that it finds, provided that it is given the same
documents. In the end they are merged, a stretch of terms at a time. Memory holds the text of a few parts and the vocabulary.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from heapq import merge
from itertools import accumulate, groupby, islice, pairwise, starmap
from multiprocessing.connection import Connection
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bitroute.envs.webshop.search.analysis import terms
from bitroute.envs.webshop.search.columns import VERSION, Column, Header, new_columns, open_column, read_header
from bitroute.envs.webshop.search.index import LENGTHS
from bitroute.errors import BitrouteError, DataError

PART: Final = 20_000  # documents of a part: 40 MB of WebShop's text
STRETCH: Final = 1 << 22  # postings that are merged at a time
_LONGEST_ASIN: Final = 10
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Part:
    """Documents in a row, and the directory of their own small index."""

    path: Path
    asins: list[str]
    texts: list[str]


def build_index(
    path: Path, documents: Iterable[tuple[str, str]], *, workers: int = 1, total: int | None = None, part: int = PART
) -> None:
    """Make the index in the directory `path` of documents (ASIN, text), in place of what is there.

    The bytes depend on the documents alone, not on `workers` or `part` (how many are analysed at a time). With two or more
    `workers` as many processes analyse; a script then needs its `if __name__ == "__main__"`. `total` is what the progress
    bar expects.
    Raises DataError for an ASIN that comes twice, is no ASCII or longer than 10, and when the disk refuses; BitrouteError when
    a process was killed. Parts that are done stay beside the index for the next try. One build of a `path` at a time.
    """
    parts = path.with_name(f"{path.name}.parts")
    done: list[Path] = []
    with tqdm(total=total, desc="search index", unit="document") as bar, _analysts(workers) as submit:
        waiting: deque[tuple[int, Future[None] | None]] = deque()

        def finish(most: int) -> None:
            while len(waiting) > most:
                size, future = waiting.popleft()
                if future:
                    future.result()
                bar.update(size)

        for piece in _cut(documents, parts, part):
            done.append(piece.path)
            waiting.append((len(piece.texts), None if piece.path.exists() else submit(piece)))
            finish(most=workers)
        finish(most=0)
    _merge(path, done)
    shutil.rmtree(parts, ignore_errors=True)


def _cut(documents: Iterable[tuple[str, str]], parts: Path, size: int) -> Iterator[_Part]:
    """The documents in parts, named by what is in them."""
    rows = iter(documents)
    number = 0
    while chunk := list(islice(rows, size)):
        digest = blake2b(str(VERSION).encode(), digest_size=8)
        for asin, text in chunk:
            if not asin or not asin.isascii() or len(asin) > _LONGEST_ASIN:
                raise DataError(f"ASIN {asin!r}: not 1 to {_LONGEST_ASIN} ASCII characters; leave this product out")
            digest.update(f"{asin}\n{text}\0".encode(errors="surrogatepass"))
        yield _Part(parts / f"{number:05d}-{digest.hexdigest()}", [asin for asin, _ in chunk], [text for _, text in chunk])
        number += 1


def _analyse(part: _Part) -> None:
    """Write the index of one part."""
    numbers: dict[str, int] = {}  # of terms, in the order in which they came
    tokens, lengths = array("q"), array("q")
    for text in part.texts:
        found = terms(text)
        lengths.append(len(found))
        tokens.extend(numbers.setdefault(term, len(numbers)) for term in found)
    vocabulary = sorted(numbers)  # in the order of their UTF-8 bytes, too
    place = np.empty(len(vocabulary), np.int64)
    place[np.fromiter(map(numbers.__getitem__, vocabulary), np.int64)] = np.arange(len(vocabulary))
    size = len(part.texts)
    owners = np.repeat(np.arange(size), np.array(lengths))
    pairs, frequencies = np.unique(place[np.array(tokens)] * size + owners, return_counts=True)
    if frequencies.max(initial=0) > np.iinfo(np.uint16).max:
        asin = part.asins[int(pairs[frequencies.argmax()]) % size]
        raise DataError(f"product {asin}: its text repeats a word more than 65,535 times; leave it out")
    names = [term.encode() for term in vocabulary]
    header = Header(
        version=VERSION,
        documents=size,
        searchable=int(np.count_nonzero(np.array(lengths))),
        tokens=len(tokens),
        terms=len(names),
        term_bytes=sum(map(len, names)),
        postings=len(pairs),
    )
    with new_columns(part.path, header) as columns:
        columns["asins"][:] = part.asins
        columns["lengths"][:] = np.searchsorted(LENGTHS, np.array(lengths), side="right") - 1
        columns["term_bytes"][:] = np.frombuffer(b"".join(names), np.uint8)
        columns["term_starts"][:] = [0, *accumulate(map(len, names))]
        columns["posting_starts"][:] = np.searchsorted(pairs, np.arange(len(names) + 1) * size)
        columns["posting_documents"][:] = pairs % size
        columns["frequencies"][:] = frequencies


def _merge(path: Path, parts: list[Path]) -> None:
    """Write the index of all documents from those of the parts."""
    headers = [read_header(part) for part in parts]
    names, name_starts, places = _vocabulary(parts)
    starts = [np.array(open_column(part, "posting_starts")) for part in parts]
    counts = np.zeros(len(name_starts) - 1, np.int64)
    for place, start in zip(places, starts, strict=True):
        counts[place] += np.diff(start)
    header = Header(
        version=VERSION,
        documents=sum(header.documents for header in headers),
        searchable=sum(header.searchable for header in headers),
        tokens=sum(header.tokens for header in headers),
        terms=len(counts),
        term_bytes=len(names),
        postings=int(counts.sum()),
    )
    firsts = [0, *accumulate(header.documents for header in headers)]  # document of each part
    with new_columns(path, header) as columns:
        columns["term_bytes"][:] = np.frombuffer(names, np.uint8)
        columns["term_starts"][:] = name_starts
        columns["posting_starts"][1:] = np.cumsum(counts)
        for part, own in zip(parts, starmap(slice, pairwise(firsts)), strict=True):
            columns["asins"][own] = open_column(part, "asins")
            columns["lengths"][own] = open_column(part, "lengths")
        _refuse_twins(columns["asins"])
        with tqdm(total=header.postings, desc="merge", unit="posting", unit_scale=True) as bar:
            for first, last in _stretches(columns["posting_starts"]):
                begin, end = map(int, columns["posting_starts"][[first, last]])
                pieces = [_stretch(*of, first, last) for of in zip(parts, places, starts, firsts, strict=False)]
                order = np.argsort(np.concatenate([piece[0] for piece in pieces]), kind="stable")
                columns["posting_documents"][begin:end] = np.concatenate([piece[1] for piece in pieces])[order]
                columns["frequencies"][begin:end] = np.concatenate([piece[2] for piece in pieces])[order]
                bar.update(end - begin)


def _vocabulary(parts: list[Path]) -> tuple[bytearray, _Numbers, list[_Numbers]]:
    """All terms in order, end to end; where each starts, and the last ends; of each part's terms their numbers among all."""
    names, starts = bytearray(), array("q", [0])
    places = [array("q") for _ in parts]
    for name, sources in groupby(merge(*(_names(part, number) for number, part in enumerate(parts))), key=itemgetter(0)):
        for _, number in sources:
            places[number].append(len(starts) - 1)
        names += name
        starts.append(len(names))
    return names, np.array(starts), [np.array(place) for place in places]


def _names(part: Path, number: int) -> Iterator[tuple[bytes, int]]:
    names, starts = open_column(part, "term_bytes").tobytes(), open_column(part, "term_starts").tolist()
    return ((names[start:end], number) for start, end in pairwise(starts))


def _stretches(starts: Column) -> Iterator[tuple[int, int]]:
    """The terms in stretches (first, last + 1) of about STRETCH postings, at least one term each."""
    first, terms = 0, len(starts) - 1
    while first < terms:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + STRETCH, side="right")) - 1)
        yield first, last
        first = last


def _stretch(
    part: Path, places: _Numbers, starts: _Numbers, document: int, first: int, last: int
) -> tuple[_Numbers, _Numbers, Column]:
    """A part's postings of the terms in a stretch: term, document and frequency of each. The part begins at `document`."""
    begin, end = np.searchsorted(places, [first, last])
    own = slice(starts[begin], starts[end])
    terms = np.repeat(places[begin:end], np.diff(starts[begin : end + 1]))
    return terms, open_column(part, "posting_documents")[own].astype(np.int64) + document, open_column(part, "frequencies")[own]


def _refuse_twins(asins: Column) -> None:
    ordered = np.sort(asins)
    twins = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twins):
        raise DataError(f"product {twins[0].decode()}: comes twice; leave the second out")


@contextmanager
def _analysts(count: int) -> Iterator[Callable[[_Part], Future[None] | None]]:
    """What has a part written, by `count` processes or by this one; the end of the block stops them at once."""
    if count == 1:
        yield _analyse
        return
    context = multiprocessing.get_context("spawn")
    ended, alive = context.Pipe(duplex=False)  # nothing is ever sent: workers see its end when this process closes it or dies
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(ended,))
    try:
        yield lambda part: pool.submit(_analyse, part)
    except BrokenProcessPool as error:
        raise BitrouteError(
            "a process was killed (out of memory?); what is stored stays, the same command goes on; try fewer workers"
        ) from error
    finally:
        alive.close()
        pool.shutdown(cancel_futures=True)
        ended.close()


def _start(ended: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that builds decides what Ctrl-C means
    threading.Thread(target=_end_with, args=(ended,), daemon=True).start()


def _end_with(ended: Connection) -> None:
    ended.poll(None)
    os._exit(1)  # in the middle of a part, too
