"""Sequence packing: several short captions share a row of the trained layers, so that less of a batch is padding.

No caption attends to another, so the outputs are the same. The layout is planned here, on the host, by best-fit
decreasing. Source: ours, after the packing of sequences for BERT (Krell et al. 2021, arXiv 2107.02027).
"""

from __future__ import annotations

import heapq

import numpy as np

WORTH = 0.875  # largest share of the rows that pays; with more, moving states costs as much as it saves
_STEPS = 16  # numbers of rows, so that few shapes are compiled


def pack(lengths: np.ndarray, *, length: int, groups: int) -> dict[str, np.ndarray]:
    """Plans the packed rows of a batch.

    Args:
      lengths: (B, C) tokens of the C captions of each image.
      length: L, of a row; longer captions are truncated.
      groups: number of groups of images, one per device and micro-batch; captions of two groups share no row.

    Returns:
      "take" (G, R, L) int32: the token at each position, as c * L + l for token l of the group's caption c; -1: none.
      "put" (B, C, L) int32: the position of token l among the group's R * L; 0 where there is no token.
      R is the same for all groups, and 0 where packing saves too little.
    """
    lengths = np.minimum(lengths, length)
    images, captions = lengths.shape
    by_group = lengths.reshape(groups, -1)
    count = by_group.shape[1]
    begins = [_begins(group, length) for group in by_group]
    unit = max(1, -(-count // _STEPS))
    rows = -(-max(int(begin.max(initial=0)) // length + 1 for begin in begins) // unit) * unit
    if rows > WORTH * count:
        rows, by_group = 0, np.zeros_like(by_group)
    take = np.full((groups, rows * length), -1, np.int32)
    put = np.zeros((groups, count, length), np.int32)
    for g, begin in enumerate(begins):
        caption = np.repeat(np.arange(count), by_group[g])
        token = np.arange(len(caption)) - np.repeat(np.cumsum(by_group[g]) - by_group[g], by_group[g])
        take[g, begin[caption] + token] = caption * length + token
        put[g, caption, token] = begin[caption] + token
    return {"take": take.reshape(groups, rows, length), "put": put.reshape(images, captions, length)}


def _begins(lengths: np.ndarray, length: int) -> np.ndarray:
    """The position (n,) of each caption's first token in rows of `length`, the longest caption placed first."""
    begin = np.zeros(len(lengths), np.int64)
    room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by their free positions, lowest row first
    used = 0
    for caption in np.argsort(-lengths, kind="stable"):
        needed = int(lengths[caption])
        if not needed:
            continue
        left = next((left for left in range(needed, length + 1) if room[left]), None)
        if left is None:
            row, left, used = used, length, used + 1
        else:
            row = heapq.heappop(room[left])
        begin[caption] = row * length + length - left
        if left > needed:
            heapq.heappush(room[left - needed], row)
    return begin
