"""Query latency and recall of an index, without the encoding of the query.

python -m benchmarks.index_queries [--vectors=100000] [--dim=512] [--queries=200] [--uri=http://host:19530]

The vectors are random unit vectors, which are harder to index than image embeddings and equally hard to search exactly.
"resident" is the in-memory index of `cl2cm serve`; "milvus" is Milvus Lite, or a server with --uri. Prints JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np

from cl2cm_jax.errors import exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments
from cl2cm_jax.search.entry import Entry, Filters, id_of
from cl2cm_jax.search.recall import recall
from cl2cm_jax.search.stores.memory import load
from cl2cm_jax.search.stores.milvus import Manifest, Store

TOP = 24
NARROWED = Filters(language="de", path="7/")


def timed(search: Callable[..., object], queries: np.ndarray, filters: Filters) -> dict[str, float]:
    """Milliseconds per query: median, 95th percentile and maximum, without the first two queries."""
    taken = []
    for query in queries:
        start = time.perf_counter()
        search(query[None], top=TOP, filters=filters)
        taken.append(1000 * (time.perf_counter() - start))
    p50, p95, worst = np.percentile(taken[2:], [50, 95, 100])
    return {"p50": round(p50, 2), "p95": round(p95, 2), "worst": round(worst, 2)}


def fill(store: Store, *, count: int, dim: int) -> None:
    """Fills an index with random unit vectors; a third have a German caption, a tenth are in the folder 7/."""
    random = np.random.default_rng(0)
    for start in range(0, count, 5000):
        size = min(5000, count - start)
        vectors = random.standard_normal((size, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        names = [f"{number % 10}/{number:07}.jpg" for number in range(start, start + size)]
        captions = [{"de": ("ein Bild",)} if number % 3 == 0 else {} for number in range(start, start + size)]
        rows = zip(names, captions, strict=True)
        store.put([Entry(id=id_of(name), path=name, captions=caption) for name, caption in rows], vectors)
    store.flush()


def main() -> None:
    """Measures and prints."""
    parser = Arguments(prog="python -m benchmarks.index_queries", description="Times queries of an index.")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--uri", default="", help="a Milvus server; the collection 'benchmark' is created and removed")
    options = parser.parse_args()
    figures: dict[str, object] = {"vectors": options.vectors, "dim": options.dim, "top": TOP, "cores": os.cpu_count()}
    random = np.random.default_rng(1)
    queries = random.standard_normal((options.queries, options.dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(options.uri or f"{folder}/i.db", collection="benchmark") as store,
    ):
        store.create(Manifest(weights="random", model="random", dim=options.dim))
        start = time.perf_counter()
        fill(store, count=options.vectors, dim=options.dim)
        figures["seconds_to_fill"] = round(time.perf_counter() - start, 1)
        start = time.perf_counter()
        resident = load(store)
        figures["seconds_to_load"] = round(time.perf_counter() - start, 1)
        for name, index in (("resident", resident), ("milvus", store)):
            sample = queries if index is resident else queries[:40]  # Milvus Lite is slow
            figures[f"{name}_ms"] = timed(index.search, sample, Filters())
            figures[f"{name}_narrowed_ms"] = timed(index.search, sample, NARROWED)
        figures["load_average"] = os.getloadavg()[0]
        figures["recall@10"] = round(recall(store), 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    exit_cleanly(main)
