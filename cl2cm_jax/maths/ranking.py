"""Exact ranks of a retrieval, by blocks: no (M, N) matrix exists. Source: ours.

Tie rule: a non-positive item that scores the same as a positive is counted as higher, so ties never flatter. All
scores come from one block product of one shape, so equal vectors score equal.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from cl2cm_jax.maths.similarity import scores

ABSENT = np.iinfo(np.int32).max
"""Fills `competitors` where a query has fewer positives than the widest."""


def ranks(
    queries: ArrayLike, gallery: ArrayLike, *, query_image: ArrayLike, gallery_image: ArrayLike, block: int = 1024
) -> NDArray[np.int64]:
    """Rank (M,) from 1 of each query's best-scoring positive; other positives never count as higher.

    Arguments and errors as for `competitors`.
    """
    counts = competitors(queries, gallery, query_image=query_image, gallery_image=gallery_image, block=block)
    return ranks_of(counts)


def ranks_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks (M,) from the answer of `competitors`."""
    return 1 + counts[:, 0]


def average_precision_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precisions (M,) from the answer of `competitors`: the k-th best positive has rank k + competitors."""
    present = counts != ABSENT
    k = np.arange(1, counts.shape[1] + 1)
    return np.sum(np.where(present, k / (k + counts), 0), axis=1) / np.sum(present, axis=1)


def competitors(
    queries: ArrayLike, gallery: ArrayLike, *, query_image: ArrayLike, gallery_image: ArrayLike, block: int = 1024
) -> NDArray[np.int64]:
    """For each positive of each query: how many non-positive gallery items score as high as it or higher.

    Ranks and average precision both follow from it, so one pass over the scores serves both.

    Args:
        queries: (M, D).
        gallery: (N, D).
        query_image: (M,) int; a gallery item with the query's id is a positive.
        gallery_image: (N,) int.
        block: rows and columns of the largest score block.

    Returns:
        (M, P), each row ascending, P the largest number of positives; ABSENT after the query's last positive.

    Raises:
        ValueError: no vectors, a vector that is not finite, or a query without a positive.
    """
    queries, gallery = _finite(queries, "query"), _finite(gallery, "gallery")
    query_image, gallery_image = np.asarray(query_image), np.asarray(gallery_image)
    positive = _positives(query_image, gallery_image)
    tiles = _blocks(gallery, min(block, len(gallery)))
    tile_images = _blocks(gallery_image, tiles.shape[1])
    counts = [
        _count(rows, row_images, row_positive, tiles, tile_images, items=len(gallery))
        for rows, row_images, row_positive in zip(
            *(_blocks(a, min(block, len(queries))) for a in (queries, query_image, positive)), strict=True
        )
    ]
    counts = np.concatenate(counts)[: len(queries)].astype(np.int64)
    return np.sort(np.where(positive >= 0, counts, ABSENT), axis=1)


def top(queries: ArrayLike, gallery: ArrayLike, k: int, block: int = 1024) -> tuple[NDArray, NDArray]:
    """The k best gallery items of each query: scores (M, k) fp32 falling, indices (M, k) int32; ties by lower index.

    queries (M, D), gallery (N, D); k is at most N. Raises ValueError for a vector that is not finite.
    """
    queries, gallery = _finite(queries, "query"), _finite(gallery, "gallery")
    k = min(k, len(gallery))
    tiles = _blocks(gallery, min(block, len(gallery)))
    found = [_top(rows, tiles, items=len(gallery), k=k) for rows in _blocks(queries, min(block, len(queries)))]
    best, index = (np.concatenate(part)[: len(queries)] for part in zip(*found, strict=True))
    return best, index


@partial(jax.jit, static_argnames="items")
def _count(rows: Array, row_images: Array, positive: Array, tiles: Array, tile_images: Array, *, items: int) -> Array:
    """Competitors (b, P) of one block of queries rows (b, D) with positives (b, P) among tiles (n, c, D)."""
    width = tiles.shape[1]
    starts = jnp.arange(len(tiles)) * width

    def find(found: Array, tile: tuple[Array, Array]) -> tuple[Array, None]:
        items_here, start = tile
        column = positive - start
        here = (column >= 0) & (column < width)
        score = jnp.take_along_axis(scores(rows, items_here), jnp.clip(column, 0, width - 1), axis=1)
        return jnp.where(here, score, found), None

    positive_score, _ = jax.lax.scan(find, jnp.full(positive.shape, jnp.inf), (tiles, starts))

    def count(total: Array, tile: tuple[Array, Array, Array]) -> tuple[Array, None]:
        items_here, images, start = tile
        competes = (row_images[:, None] != images) & (start + jnp.arange(width) < items)
        score = jnp.where(competes, scores(rows, items_here), -jnp.inf)
        return total + jnp.sum(score[:, None, :] >= positive_score[:, :, None], axis=2, dtype=jnp.int32), None

    return jax.lax.scan(count, jnp.zeros(positive.shape, jnp.int32), (tiles, tile_images, starts))[0]


@partial(jax.jit, static_argnames=("items", "k"))
def _top(rows: Array, tiles: Array, *, items: int, k: int) -> tuple[Array, Array]:
    """Best k of one block of queries rows (b, D) among tiles (n, c, D)."""
    width = tiles.shape[1]

    def merge(best: tuple[Array, Array], tile: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        items_here, start = tile
        index = jnp.broadcast_to(start + jnp.arange(width), (len(rows), width))
        score = jnp.where(index < items, scores(rows, items_here), -jnp.inf)
        # Earlier items stand first and top_k keeps the first of equals, so ties go to the lower index.
        score, index = (jnp.concatenate(both, axis=1) for both in zip(best, (score, index), strict=True))
        score, place = jax.lax.top_k(score, k)
        return (score, jnp.take_along_axis(index, place, axis=1)), None

    start = (jnp.full((len(rows), k), -jnp.inf), jnp.full((len(rows), k), -1))
    return jax.lax.scan(merge, start, (tiles, jnp.arange(len(tiles)) * width))[0]


def _blocks(a: NDArray, size: int) -> NDArray:
    """Array a (N, ...) as (ceil(N / size), size, ...), padded with zeros."""
    padding = [(0, -len(a) % size)] + [(0, 0)] * (a.ndim - 1)
    return np.pad(a, padding).reshape(-1, size, *a.shape[1:])


def _finite(vectors: ArrayLike, name: str) -> NDArray[np.float32]:
    """Vectors (N, D) as fp32; NaN and infinity are errors, for a NaN would compare as never higher: a perfect rank."""
    vectors = np.asarray(vectors, np.float32)
    if not len(vectors):
        raise ValueError(f"there are no {name} vectors")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise ValueError(f"{bad.size} {name} vectors hold NaN or infinity, the first in row {bad[0]}")
    return vectors


def _positives(query_image: NDArray, gallery_image: NDArray) -> NDArray[np.int32]:
    """Gallery rows (M, P) of each query's positives, -1 after the last."""
    order = np.argsort(gallery_image, kind="stable")
    ordered = gallery_image[order]
    first, last = (np.searchsorted(ordered, query_image, side) for side in ("left", "right"))
    lonely = np.flatnonzero(first == last)
    if lonely.size:
        raise ValueError(f"{lonely.size} queries have no positive in the gallery, the first is row {lonely[0]}")
    place = first[:, None] + np.arange((last - first).max())
    return np.where(place < last[:, None], order[np.minimum(place, len(order) - 1)], -1).astype(np.int32)
