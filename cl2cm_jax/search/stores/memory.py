"""An index in memory: exact search by one matrix product, for a service that answers many queries.

Milvus Lite iterates over all rows in Python for each query, which takes 0.2 s at 100,000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cl2cm_jax.search.entry import Entry, Filters, Found
from cl2cm_jax.search.stores.milvus import Manifest, Store


class MemoryIndex:
    """N entries with their unit vectors (N, D) float32; has the read interface of `Store`."""

    def __init__(self, entries: Sequence[Entry], vectors: np.ndarray, manifest: Manifest):
        self._entries, self._matrix, self.manifest = list(entries), vectors, manifest
        self._row = {entry.id: row for row, entry in enumerate(self._entries)}
        self._masks: dict[Filters, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def count(self, filters: Filters) -> int:
        """The number of entries that meet the filters."""
        return int(self._mask(filters).sum())

    def languages(self) -> list[str]:
        """The codes of the languages that captions are in, sorted."""
        return sorted({language for entry in self._entries for language in entry.captions})

    def entry(self, id: str) -> Entry | None:
        """The entry of an id."""
        row = self._row.get(id)
        return None if row is None else self._entries[row]

    def vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors (D,) float32 of those ids that exist."""
        return {id: self._matrix[self._row[id]] for id in ids if id in self._row}

    def search(self, queries: np.ndarray, *, top: int, filters: Filters | None = None) -> list[list[Found]]:
        """The `top` best entries for each of the queries (M, D), best first; ties in entry order."""
        return [self._one(query, top, filters or Filters()) for query in np.asarray(queries, np.float32)]

    def _one(self, query: np.ndarray, top: int, filters: Filters) -> list[Found]:
        scores = self._matrix @ query
        rows = np.arange(len(scores)) if filters == Filters() else np.flatnonzero(self._mask(filters))
        kept = scores[rows]
        best = np.arange(len(kept))
        if len(kept) > top:  # those tied with the last place included, of which the first entries are taken
            best = np.flatnonzero(kept >= np.partition(kept, -top)[-top])
        best = best[np.argsort(-kept[best], kind="stable")][:top]
        return [Found(self._entries[rows[place]], float(kept[place])) for place in best]

    def _mask(self, filters: Filters) -> np.ndarray:
        """(N,) bool; recent masks are cached, since consecutive searches often have the same filters."""
        mask = self._masks.get(filters)
        if mask is None:
            mask = np.fromiter((filters.admits(entry) for entry in self._entries), bool, len(self._entries))
            if len(self._masks) >= 64:
                self._masks.clear()
            self._masks[filters] = mask
        return mask


def load(store: Store, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> MemoryIndex:
    """Reads a whole index into memory; `on_progress` is called with the number of entries read, and of all."""
    assert store.manifest is not None
    total, entries = len(store), []
    matrix = np.zeros((total, store.manifest.dim), np.float32)
    for part, vectors in store.everything():
        matrix[len(entries) : len(entries) + len(part)] = vectors
        entries += part
        on_progress(len(entries), total)
    order = sorted(range(len(entries)), key=lambda row: entries[row].path)
    return MemoryIndex([entries[row] for row in order], matrix[order], store.manifest)
