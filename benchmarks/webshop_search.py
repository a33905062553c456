"""Speed and memory of WebShop's search engine on made-up products, beside bm25s and tantivy where they are installed.

Texts have as many words as WebShop's and their frequencies (a Zipf-Mandelbrot law); queries are words of one text:
    python benchmarks/webshop_search.py --products 50000
All engines are given the same terms and the same queries, one at a time on one thread, and build and search in processes of
their own. Only the first ranks as Lucene does: bm25s keeps exact lengths, tantivy fixes k1 and b. Times are CPU time, that of
building wall time, too.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bitroute.envs.webshop.search.analysis import terms
from bitroute.envs.webshop.search.build import build_index
from bitroute.envs.webshop.search.index import Index

WORDS = 400_000  # that the texts are drawn from
LIMIT = 50


@dataclass(frozen=True, slots=True)
class Corpus:
    """Made-up products, the same for the same numbers."""

    products: int
    seed: int

    def documents(self) -> Iterator[tuple[str, str]]:
        """ASIN and text of each product, in order."""
        random = np.random.default_rng(self.seed)
        chances = np.cumsum(1 / (np.arange(WORDS) + 11.0))
        chances /= chances[-1]
        words = [_spelled(rank) for rank in random.permutation(WORDS)]
        for number in range(self.products):
            length = 10 + int(random.lognormal(4.2, 0.75))
            yield f"B{number:09d}", " ".join(words[rank] for rank in np.searchsorted(chances, random.random(length)))

    def queries(self, count: int) -> list[str]:
        """Three to nine words of one product each; at most 5,000 products are read for them."""
        random = np.random.default_rng(self.seed + 1)
        texts = [text for _, (_, text) in zip(range(5000), self.documents(), strict=False)]
        picked = ([*dict.fromkeys(texts[number].split())] for number in random.integers(0, len(texts), count))
        return [" ".join(random.choice(text, min(int(random.integers(3, 10)), len(text)), replace=False)) for text in picked]


def _spelled(rank: int) -> str:
    """A pronounceable word of its own for each rank."""
    word = ""
    while rank or not word:
        rank, syllable = divmod(int(rank), 75)
        word += "bcdfghklmnprstv"[syllable // 5] + "aeiou"[syllable % 5]
    return word


@dataclass(frozen=True, slots=True)
class Searched:
    """What one engine needed: ms to open, ms of each query, hits; MB of its process at the end, and of files mapped into it."""

    opening: float
    queries: list[float]
    hits: int
    own: float
    mapped: float


def build_ours(path: Path, corpus: Corpus, workers: int) -> None:
    build_index(path, corpus.documents(), workers=workers, total=corpus.products)


def open_ours(path: Path) -> Callable[[str], int]:
    index = Index.open(path)
    return lambda query: len(index.search(query, LIMIT))


def build_bm25s(path: Path, corpus: Corpus, workers: int) -> None:
    engine = importlib.import_module("bm25s").BM25(method="lucene", k1=0.9, b=0.4)
    engine.index([terms(text) for _, text in corpus.documents()], show_progress=False)
    engine.save(path)


def open_bm25s(path: Path) -> Callable[[str], int]:
    engine = importlib.import_module("bm25s").BM25.load(path, mmap=True)

    def search(query: str) -> int:
        known = [term for term in terms(query) if term in engine.vocab_dict]
        return engine.retrieve([known], k=LIMIT, show_progress=False, n_threads=0).documents.size if known else 0

    return search


def build_tantivy(path: Path, corpus: Corpus, workers: int) -> None:
    tantivy = importlib.import_module("tantivy")
    path.mkdir(parents=True)
    writer = tantivy.Index(_tantivy_schema(tantivy), path=str(path)).writer(heap_size=256 << 20, num_threads=workers)
    for asin, text in corpus.documents():
        writer.add_document(tantivy.Document(asin=[asin], text=[" ".join(terms(text))]))
    writer.commit()
    writer.wait_merging_threads()


def open_tantivy(path: Path) -> Callable[[str], int]:
    tantivy = importlib.import_module("tantivy")
    schema = _tantivy_schema(tantivy)
    index = tantivy.Index.open(str(path))
    searcher = index.searcher()

    def search(query: str) -> int:
        clauses = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "text", term, "freq")) for term in terms(query)]
        found = searcher.search(tantivy.Query.boolean_query(clauses), LIMIT, count=False).hits
        return len([searcher.doc(address)["asin"] for _, address in found])

    return search


def _tantivy_schema(tantivy: Any) -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("asin", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    return builder.build()


ENGINES = {
    "bitroute": (build_ours, open_ours),
    "bm25s": (build_bm25s, open_bm25s),
    "tantivy": (build_tantivy, open_tantivy),
}


def build(name: str, path: Path, corpus: Corpus, workers: int) -> tuple[float, float, float]:
    """Seconds to build, with the analysis of all texts, by the clock and of CPUs; the most memory of this process in MB."""
    start = time.perf_counter()
    ENGINES[name][0](path, corpus, workers)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter() - start, sum(usage.ru_utime + usage.ru_stime for usage in used), _memory()


def search(name: str, path: Path, queries: Sequence[str]) -> Searched:
    """Open the index and play all queries, each once."""
    start = time.process_time()
    engine = ENGINES[name][1](path)
    opening = time.process_time() - start
    engine(queries[0])  # what is loaded or compiled at first is no part of a query's time
    times, hits = [], 0
    for query in queries:
        start = time.process_time()
        hits += engine(query)
        times.append((time.process_time() - start) * 1e3)
    return Searched(opening * 1e3, times, hits, *_resident())


def _memory() -> float:
    """The most MB that this process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _resident() -> tuple[float, float]:
    """MB of this process alone, and of files that it mapped: the system takes these back when it needs them."""
    status = Path("/proc/self/status")
    if not status.exists():
        return _memory(), 0.0
    sizes = dict(line.split(":", 1) for line in status.read_text().splitlines())
    own, mapped = (int(sizes[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Parse the flags and print all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=int, default=100_000, help="WebShop has 1,180,000")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that analyse texts (threads of tantivy's writer)")
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=[*ENGINES], help="those that are not installed are left out"
    )
    arguments = parser.parse_args()
    corpus = Corpus(arguments.products, arguments.seed)
    queries = corpus.queries(arguments.queries)
    print(f"machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{arguments.products:,} products, {len(queries)} queries, seed {arguments.seed}, {arguments.workers} workers")
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.engines:
            if name != "bitroute" and not find_spec(name):
                print(f"{name}: not installed")
                continue
            path = Path(directory) / name
            seconds, used, memory = alone(build, name, path, corpus, arguments.workers)
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found = alone(search, name, path, queries)
            shutil.rmtree(path)
            slow = statistics.quantiles(found.queries, n=20)[-1]
            print(f"{name}: built in {seconds / 60:.2f} min ({used / 60:.2f} of CPU) with {memory:,.0f} MB")
            print(f"    {size / 1e6:,.1f} MB on disk, opened in {found.opening:.1f} ms, then {found.own:,.0f} MB resident and")
            print(f"    {found.mapped:,.0f} MB of mapped files; a query {statistics.median(found.queries):.2f} ms")
            print(f"    (95 % below {slow:.2f}), {found.hits:,} hits")


if __name__ == "__main__":
    main()
