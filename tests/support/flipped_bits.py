"""Flips single bits of a file, as a bad disk or memory does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def flipped_bits(path: Path, *, count: int) -> Iterator[int]:
    """Flips one bit at a time, at places spread over the file, and yields their offsets; the file is whole between."""
    whole = path.read_bytes()
    try:
        for number in range(count):
            place = number * len(whole) // count
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << number % 8]) + whole[place + 1 :])
            yield place
            path.write_bytes(whole)
    finally:
        path.write_bytes(whole)
