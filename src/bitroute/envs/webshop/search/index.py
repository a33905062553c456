"""The best documents for a query, by BM25 exactly as Lucene 8 computes it. It knows terms and ASINs, no products and no pages.

A document D scores for a query the sum over its terms t, with the numbers of documents N and of those with the term n, the
term's counts q in the query and f in the document, and the document's length L:

    w = q ln(1 + (N - n + 0.5) / (n + 0.5))     w - w / (1 + f / (0.9 (0.6 + 0.4 L / mean length)))

Orders depend on the last bit, so each step is done in Lucene's precision: single, but for the logarithm and the sum. Lucene
stores L in one byte, so long documents count as a bit shorter, but not in the mean; a document without a term counts nowhere.

All columns stay on disk (`columns`); a search touches the postings of its own terms, of frequent ones only what can matter.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from bitroute.envs.webshop.search.analysis import terms
from bitroute.envs.webshop.search.columns import Column, Header, open_columns
from bitroute.errors import DataError

_ONE: Final = np.float32(1)
_K1: Final = np.float32(0.9)
_B: Final = np.float32(0.4)
# Two sums of doubles that differ by less than this may round to the same single, where the ASIN decides.
_SAFE: Final = 1 - 1e-6


def _decoded(code: int) -> int:
    """The length behind a byte: the code up to 40; above, 24 and a number with a mantissa of four bits, the highest set."""
    if code < 40:
        return code
    shift, mantissa = divmod(code - 24, 8)
    return 24 + ((8 + mantissa) << (shift - 1))


# By code, ascending; a length is stored as the last code that is not longer.
LENGTHS: Final = np.array([_decoded(code) for code in range(256)])


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found, with its score (a single precision number)."""

    asin: str
    score: float


@dataclass(frozen=True, slots=True)
class _Postings:
    """Where a term of the query is: `documents` ascending, `frequencies` beside them, no summand above `weight`."""

    weight: np.float32
    documents: npt.NDArray[np.uint32]
    frequencies: npt.NDArray[np.uint16]


class Index:
    """A search index that `build` made. One object may serve many threads: nothing changes after opening."""

    def __init__(self, path: Path, header: Header, columns: dict[str, Column]) -> None:
        self.path = path
        self._header = header
        self._asins = columns["asins"]
        self._lengths = columns["lengths"]
        self._term_bytes = columns["term_bytes"]
        self._term_starts = columns["term_starts"]
        self._posting_starts = columns["posting_starts"]
        self._documents = columns["posting_documents"]
        self._frequencies = columns["frequencies"]
        mean = np.float32(header.tokens / header.searchable) if header.searchable else _ONE
        self._saturation = _ONE / (_K1 * ((_ONE - _B) + _B * LENGTHS.astype(np.float32) / mean))  # of a length's code

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the index in the directory `path`. Raises DataError naming what is missing, of another version or damaged."""
        return cls(path, *open_columns(path))

    def __len__(self) -> int:
        """How many documents it holds, those without a term included."""
        return self._header.documents

    def search(self, query: str, limit: int = 50) -> list[Hit]:
        """The `limit` best documents with a term of the query, best first, equal scores by ASIN; none for stop words alone.

        Raises DataError when the postings are damaged.
        """
        lists = self._postings(query)
        if not lists:
            return []
        try:
            return self._best(lists, limit)
        except IndexError as error:  # a number that is no document's
            raise DataError(f"{self.path}: damaged postings; remove it and build the search index again") from error

    def _best(self, lists: list[_Postings], limit: int) -> list[Hit]:
        """The best documents of these postings, which come the heaviest first.

        As soon as the terms that are left weigh less than what `limit` documents have, no other document can catch up, and the
        frequent terms need be read for a few documents only.
        """
        totals = np.zeros(len(self))
        seen = []  # the documents with a total above 0, as the terms brought them
        found: npt.NDArray[np.uint32] | None = None  # those that can be among the best, as soon as no others can
        for number, postings in enumerate(lists):
            rest = sum(float(later.weight) for later in lists[number + 1 :])  # what a document can still gain
            if found is None:
                seen.append(postings.documents[totals[postings.documents] == 0])
                self._add(totals, postings)
                reached = _largest(totals[postings.documents], limit)
                if rest > reached * _SAFE:
                    continue
                found = np.concatenate(seen)
            else:
                self._add(totals, postings, found)
                reached = _largest(totals[found], limit)
            found = np.sort(found[totals[found] + rest >= reached * _SAFE])
        assert found is not None  # after the last term nothing is left to gain
        scores = totals[found].astype(np.float32)
        order = np.lexsort((self._asins[found], -scores))[:limit]
        return [Hit(self._asins[found[place]].decode(), float(scores[place])) for place in order]

    def _postings(self, query: str) -> list[_Postings]:
        """Those of the query's terms that are in the index, the heaviest (as a rule the rarest) first."""
        lists = []
        for term, count in Counter(terms(query)).items():
            key = term.encode()
            number = bisect_left(range(self._header.terms), key, key=self._term)
            if number < self._header.terms and self._term(number) == key:
                own = slice(self._posting_starts[number], self._posting_starts[number + 1])
                documents, frequencies = self._documents[own], self._frequencies[own]
                rare = (self._header.searchable - len(documents) + 0.5) / (len(documents) + 0.5)
                lists.append(_Postings(np.float32(count) * np.float32(math.log(1 + rare)), documents, frequencies))
        return sorted(lists, key=lambda postings: -postings.weight)

    def _term(self, number: int) -> bytes:
        return self._term_bytes[self._term_starts[number] : self._term_starts[number + 1]].tobytes()

    def _add(self, totals: npt.NDArray[np.float64], postings: _Postings, only: npt.NDArray[np.uint32] | None = None) -> None:
        """Add a term's summands to the totals of its documents. Where few of them matter, the others may be left out."""
        documents, frequencies = postings.documents, postings.frequencies
        if only is not None and 8 * len(only) < len(documents):
            places = np.searchsorted(documents, only)
            places = places[documents[np.minimum(places, len(documents) - 1)] == only]
            documents, frequencies = documents[places], frequencies[places]
        saturation = self._saturation[self._lengths[documents]]
        totals[documents] += postings.weight - postings.weight / (_ONE + frequencies.astype(np.float32) * saturation)


def _largest(values: npt.NDArray[np.float64], count: int) -> float:
    """The `count`-th largest, 0 where there are fewer."""
    return float(np.partition(values, -count)[-count]) if len(values) >= count else 0.0
