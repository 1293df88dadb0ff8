"""Recall of an index against exact search."""

from __future__ import annotations

import numpy as np

from cl2cm_jax.search.stores.milvus import Store

QUERIES, TOP = 100, 10


def recall(store: Store, *, queries: int = QUERIES, top: int = TOP, seed: int = 0) -> float:
    """The share of the exact `top` nearest entries that the index returns, mean over queries.

    A query is an entry's vector plus noise of half its length. An entry that scores as high as the exact last one, to
    1e-5, counts as right. The index must not be empty; `seed` is that of the choice of entries and the noise.
    """
    matrix = np.concatenate([vectors for _, vectors in store.everything()])
    random = np.random.default_rng(seed)
    rows = random.choice(len(matrix), size=min(queries, len(matrix)), replace=False)
    noise = random.standard_normal((len(rows), matrix.shape[1])).astype(np.float32)
    noise /= 2 * np.linalg.norm(noise, axis=1, keepdims=True)
    noisy = matrix[rows] + noise
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    top = min(top, len(matrix))
    answers = store.search(noisy, top=top)
    shares = []
    for query, answer in zip(noisy, answers, strict=True):
        exact = matrix @ query
        threshold = np.partition(exact, -top)[-top] - 1e-5
        shares.append(sum(found.score >= threshold for found in answer) / top)
    return float(np.mean(shares))
