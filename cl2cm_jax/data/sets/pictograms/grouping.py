"""Groups of near-duplicates, which belong to one split, and the split by a hash of their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


def grouped(keys: Sequence[Iterable[str]]) -> list[int]:
    """The group of each item: items are together if they share a key, directly or through others.

    Returns:
      n numbers, that of a group's first item.
    """
    parent = list(range(len(keys)))
    first: dict[str, int] = {}

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for item, own in enumerate(keys):
        for key in own:
            one, other = sorted((root(first.setdefault(key, item)), root(item)))
            parent[other] = one
    return [root(item) for item in range(len(keys))]


def hashed_split(name: str, *, salt: str, train: float, validation: float) -> str:
    """The split "train", "validation" or "test" by a fixed hash of a name, in these shares in expectation."""
    digest = hashlib.sha256(f"{salt}/{name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < train:
        return "train"
    return "validation" if position < train + validation else "test"
