"""Exact ranks and nearest items of a retrieval, by tiles: no (M, N) matrix exists.

Pessimistic ties: a non-positive item that scores the same as a positive is counted as higher. All scores come from
products of one shape, so equal vectors score equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from cl2cm_jax.maths.similarity import scores

ABSENT = np.iinfo(np.int32).max
"""Fills `competitors` where a query has fewer positives than the widest."""
_KEPT = 32  # tiles of scores, 4 MB each, that are not computed a second time
_GROUP = 16  # neighbouring items, whose maxima `top` compares first


def ranks(
    queries: ArrayLike, gallery: ArrayLike, *, query_image: ArrayLike, gallery_image: ArrayLike, block: int = 1024
) -> NDArray[np.int64]:
    """Rank (M,) from 1 of each query's best-scoring positive; other positives never count as higher.

    Arguments and errors as for `competitors`.
    """
    images = {"query_image": query_image, "gallery_image": gallery_image}
    return ranks_of(competitors(queries, gallery, **images, block=block)[0])


def ranks_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks (M,) from the counts of `competitors`."""
    return 1 + counts[:, 0]


def average_precision_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precisions (M,) from the counts of `competitors`: the k-th best positive has rank k + competitors."""
    present = counts != ABSENT
    k = np.arange(1, counts.shape[1] + 1)
    return np.sum(np.where(present, k / (k + counts), 0), axis=1) / np.sum(present, axis=1)


def competitors(
    queries: ArrayLike, gallery: ArrayLike, *, query_image: ArrayLike, gallery_image: ArrayLike, block: int = 1024
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of non-positive items that score as high as a positive or higher, for each positive, in both directions.

    Ranks and average precision follow from it. The scores of positives come first, since all others are compared with
    them; sorted by image, their tiles lie along the diagonal. The first of these are kept, the others recomputed.

    Args:
        queries: (M, D).
        gallery: (N, D).
        query_image: (M,) int; a gallery item with the query's id is a positive.
        gallery_image: (N,) int.
        block: rows and columns of the largest score tile.

    Returns:
        (M, P) for the queries in the gallery and (N, Q) for the gallery items among the queries, each row ascending, P
        and Q the largest number of positives; ABSENT after the last positive.

    Raises:
        ValueError: no vectors, a vector that is not finite, or a query without a positive.
    """
    rows = _Side.of(_finite(queries, "query"), np.asarray(query_image), block)
    items = _Side.of(_finite(gallery, "gallery"), np.asarray(gallery_image), block)
    row_range, item_range = rows.positives_in(items), items.positives_in(rows)
    lonely = np.sort(rows.order[row_range[0] == row_range[1]])
    if lonely.size:
        raise ValueError(f"{lonely.size} queries have no positive in the gallery, the first is row {lonely[0]}")
    row_scores, item_scores, kept = _positive_scores(rows, items, row_range, item_range)
    counts: list[NDArray[np.int64]] = [np.zeros(score.shape, np.int64) for score in (row_scores, item_scores)]
    for column in items.starts():
        for row in rows.starts():
            score = kept.pop((row, column), None)
            if score is None:
                score = _scores(rows.tile(row), items.tile(column))
            of_rows, of_items = _count(
                score, *rows.ids(row), _part(row_scores, row, rows.size),
                *items.ids(column), _part(item_scores, column, items.size),
            )  # fmt: skip
            for total, start, found in zip(counts, (row, column), (of_rows, of_items), strict=True):
                total[start : start + len(found)] += np.asarray(found)[: len(total) - start]
    of_rows, of_items = (
        side.unsorted(np.sort(np.where(np.arange(count.shape[1]) < (last - first)[:, None], count, ABSENT), axis=1))
        for side, (first, last), count in zip((rows, items), (row_range, item_range), counts, strict=True)
    )
    return of_rows, of_items


def top(queries: ArrayLike, gallery: ArrayLike, k: int, block: int = 1024) -> tuple[NDArray, NDArray]:
    """The k best gallery items of each query: scores (M, k) fp32 falling, indices (M, k) int32; ties by lower index.

    Args:
        queries: (M, D).
        gallery: (N, D); a JAX array on the CPU is read in place, of others each tile is copied.
        k: at most N are returned.
        block: rows of the largest score tile, which is four times as wide.

    Raises:
        ValueError: no vectors, or one that is not finite.
    """
    queries, gallery = _finite(queries, "query"), _finite(gallery, "gallery")
    k = min(k, len(gallery))
    width = -(-_even(len(gallery), 4 * block) // _GROUP) * _GROUP
    found = []
    for _, rows in _tiles(queries, _even(len(queries), block)):
        rows, best = jnp.asarray(rows), (jnp.full((len(rows), k), -jnp.inf), jnp.full((len(rows), k), -1))
        for start, items in _tiles(gallery, width):
            best = _merge(best, rows, items, start, count=min(width, len(gallery) - start))
            jax.block_until_ready(best)  # otherwise every tile in flight holds a copy
        found.append(jax.device_get(best))
    best, index = (np.concatenate(part)[: len(queries)] for part in zip(*found, strict=True))
    return best, index


class _Side(NamedTuple):
    """Queries or gallery, in the order of their image ids.

    Attributes:
      vectors: (N, D) fp32, in their original order.
      order: (N,) their rows in the order of the ids.
      image: (N,) the ids, ascending.
      size: vectors of a tile.
    """

    vectors: NDArray[np.float32]
    order: NDArray
    image: NDArray
    size: int

    @classmethod
    def of(cls, vectors: NDArray[np.float32], image: NDArray, block: int) -> _Side:
        order = np.argsort(image, kind="stable")
        return cls(vectors, order, image[order], _even(len(vectors), block))

    def tile(self, start: int) -> NDArray:
        """Vectors (size, D) from `start` on, zeros after the last."""
        return _padded(self.vectors[self.order[start : start + self.size]], self.size)

    def ids(self, start: int) -> tuple[NDArray, int]:
        """Ids (size,) of a tile, and the number of its vectors without padding."""
        return _padded(self.image[start : start + self.size], self.size), min(self.size, len(self.image) - start)

    def starts(self) -> range:
        """First places of the tiles."""
        return range(0, len(self.image), self.size)

    def positives_in(self, other: _Side) -> tuple[NDArray, NDArray]:
        """Range (first, last + 1), (N,) each, of the positives of each vector on the other side."""
        first, last = (np.searchsorted(other.image, self.image, side) for side in ("left", "right"))
        return first, last

    def unsorted(self, values: NDArray) -> NDArray:
        """Values (N, ...) in the original order of the vectors."""
        back = np.empty_like(values)
        back[self.order] = values
        return back


def _positive_scores(
    rows: _Side, items: _Side, row_range: tuple[NDArray, NDArray], item_range: tuple[NDArray, NDArray]
) -> tuple[NDArray, NDArray, dict[tuple[int, int], Array]]:
    """Scores of the positives of each row (M, P) and of each item (N, Q), infinity after the last one.

    The third value holds the first `_KEPT` tiles that were computed, by the first place of their rows and items.
    """
    (first, last), (item_first, _) = row_range, item_range
    of_rows, of_items = (
        np.full((len(low), max(1, (high - low).max())), np.inf, np.float32) for low, high in (row_range, item_range)
    )
    row = np.repeat(np.arange(len(first)), last - first)
    place = np.arange(len(row)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
    column = first[row] + place
    tile_of = (row // rows.size) * -(-len(item_first) // items.size) + column // items.size
    by_tile = np.argsort(tile_of, kind="stable")
    kept: dict[tuple[int, int], Array] = {}
    for pairs in np.split(by_tile, np.flatnonzero(np.diff(tile_of[by_tile])) + 1):
        r, c = row[pairs], column[pairs]
        row_start, column_start = (int(i[0]) // side.size * side.size for i, side in ((r, rows), (c, items)))
        score = _scores(rows.tile(row_start), items.tile(column_start))
        if len(kept) < _KEPT:
            kept[row_start, column_start] = score
        tile = np.asarray(score)
        of_rows[r, place[pairs]] = of_items[c, r - item_first[c]] = tile[r - row_start, c - column_start]
    return of_rows, of_items, kept


_scores = jax.jit(scores)


@jax.jit
def _count(
    score: Array,
    row_image: Array, row_count: int, row_positive: Array,
    item_image: Array, item_count: int, item_positive: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Competitors in one tile of scores (b, c): of the positives of its rows (b, P), and of its items (c, Q)."""
    is_row, is_item = jnp.arange(score.shape[0]) < row_count, jnp.arange(score.shape[1]) < item_count
    competes = (row_image[:, None] != item_image) & is_row[:, None] & is_item
    score = jnp.where(competes, score, -jnp.inf)
    of_rows = jnp.sum(score[:, None, :] >= row_positive[:, :, None], axis=2, dtype=jnp.int32)
    # Items along the last axis, so that the comparison reads memory in order.
    of_items = jnp.sum(score[:, None, :] >= item_positive.T, axis=0, dtype=jnp.int32)
    return of_rows, of_items.T


@partial(jax.jit, static_argnames="count")
def _merge(
    best: tuple[Array, Array], rows: Array, items: Array, start: Array | int, *, count: int
) -> tuple[Array, Array]:
    """Best k of rows (b, D) so far, scores and indices (b, k), with those of one tile of items (c, D).

    After the first tiles few rows find better items, and only those are merged: top_k is slow on a CPU. Items after the
    first `count` are padding.
    """
    score = scores(rows, items)
    if count < len(items):
        score = jnp.where(jnp.arange(len(items)) < count, score, -jnp.inf)
    groups = score.reshape(len(rows), -1, _GROUP)
    high = groups.max(axis=2)
    better = (high > best[0][:, -1:]).any(axis=1)
    few = -(-len(rows) // 4)

    def merge_few() -> tuple[Array, Array]:
        row = jnp.nonzero(better, size=few, fill_value=len(rows))[0]
        merged = _best((best[0][row], best[1][row]), groups[row], high[row], start)
        return jax.tree.map(lambda all_rows, these: all_rows.at[row].set(these, mode="drop"), best, merged)

    return jax.lax.cond(better.sum() <= few, merge_few, lambda: _best(best, groups, high, start))


def _best(best: tuple[Array, Array], groups: Array, high: Array, start: Array | int) -> tuple[Array, Array]:
    """Best k so far (b, k) with those of a tile: scores (b, groups, neighbours), the highest of each group (b, groups).

    Any item outside the k best groups has k items before it that score higher, or the same with a lower index.
    """
    k = best[0].shape[1]
    # Earlier items stand first and top_k keeps the first of equals, so ties go to the lower index.
    chosen = jnp.sort(jax.lax.top_k(high, min(k, high.shape[1]))[1], axis=1)[:, :, None]
    index = start + chosen * _GROUP + jnp.arange(_GROUP)
    new = jnp.take_along_axis(groups, chosen, axis=1), index
    score, index = (jnp.concatenate([b, n.reshape(len(n), -1)], axis=1) for b, n in zip(best, new, strict=True))
    score, place = jax.lax.top_k(score, k)
    return score, jnp.take_along_axis(index, place, axis=1)


def _even(count: int, block: int) -> int:
    """Tile size, at most `block`, that divides `count` vectors evenly."""
    return -(-count // -(-count // block))


def _tiles(vectors: NDArray, size: int) -> Iterator[tuple[int, NDArray]]:
    """Start and vectors (size, D) of each tile; the last is padded with zeros, the others are views."""
    for start in range(0, len(vectors), size):
        yield start, _padded(vectors[start : start + size], size)


def _part(a: NDArray, start: int, size: int) -> NDArray:
    """Scores of the positives of one tile, padded with infinity, which no score reaches."""
    return _padded(a[start : start + size], size, np.inf)


def _padded(a: NDArray, size: int, value: float = 0) -> NDArray:
    """Array a (n, ...) as (size, ...)."""
    if len(a) == size:
        return a
    return np.pad(a, [(0, size - len(a))] + [(0, 0)] * (a.ndim - 1), constant_values=value)


def _finite(vectors: ArrayLike, name: str) -> NDArray[np.float32]:
    """Vectors (N, D) as fp32; NaN and infinity are errors, as nothing compares as higher than NaN: a perfect rank."""
    vectors = np.asarray(vectors, np.float32)
    if not len(vectors):
        raise ValueError(f"there are no {name} vectors")
    starts = range(0, len(vectors), 4096)  # no array of booleans as large as a large gallery
    bad = [start + np.flatnonzero(~np.isfinite(vectors[start : start + 4096]).all(axis=1)) for start in starts]
    bad = np.concatenate(bad)
    if bad.size:
        raise ValueError(f"{bad.size} {name} vectors hold NaN or infinity, the first in row {bad[0]}")
    return vectors
