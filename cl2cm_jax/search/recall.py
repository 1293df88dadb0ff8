"""How much of what exact search finds an index finds."""

from __future__ import annotations

import numpy as np

from cl2cm_jax.search.stores.milvus import Store

QUERIES, TOP = 100, 10


def recall(store: Store, *, queries: int = QUERIES, top: int = TOP, seed: int = 0) -> float:
    """The share of the exact `top` nearest entries that the index names, mean over queries.

    A query is an entry's vector with noise of half its length: near to what is there, as queries are. An entry that
    scores as high as the exact last one, to 1e-5, is as right. Source: ours.

    Args:
      store: an index that is not empty.
      queries: how many.
      top: k.
      seed: of the choice and the noise.
    """
    parts = [vectors for _, vectors in store.everything()]
    matrix = np.concatenate(parts)
    random = np.random.default_rng(seed)
    rows = random.choice(len(matrix), size=min(queries, len(matrix)), replace=False)
    noise = random.standard_normal((len(rows), matrix.shape[1])).astype(np.float32)
    noise /= 2 * np.linalg.norm(noise, axis=1, keepdims=True)
    asked = matrix[rows] + noise
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    top = min(top, len(matrix))
    answers = store.search(asked, top=top)
    shares = []
    for query, answer in zip(asked, answers, strict=True):
        exact = matrix @ query
        least = np.partition(exact, -top)[-top] - 1e-5
        shares.append(sum(found.score >= least for found in answer) / top)
    return float(np.mean(shares))
