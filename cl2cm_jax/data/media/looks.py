"""Which pictures may be equal to the pixel, by what is left of them when they are decoded at different sizes.

A JPEG is checked at an eighth of its size, its conversion to PNG in its own. Their pixels cannot be compared then, but
the mean greys of a few areas can: where these are near, the pictures are worth decoding whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from PIL import Image

from cl2cm_jax.data.media.images import Decoded

_AREAS = 8  # a side
_SMALL = 256  # pixels of a side that are enough for the means
# Grey levels between the same area of a picture at two sizes, and those levels times pixels of the shorter side that
# are added: at an eighth of a small picture, a pixel is a large part of an area.
_NEAR, _NEAR_OF_SMALL = 10, 3000


class Look(NamedTuple):
    """What is compared of a picture or clip.

    Attributes:
      pixels: hash of the decoded pixels.
      size: the longer and the shorter side of the file's picture; 0: not known.
      scale: by how much the decoded picture is smaller, 1 in its own size.
      areas: mean greys of 8 x 8 areas in hexadecimal digits; "": not known.
    """

    pixels: str
    size: tuple[int, int] = (0, 0)
    scale: int = 1
    areas: str = ""


def look_of(decoded: Decoded, pixels: str) -> Look:
    """The look of a picture that was perhaps made smaller while it was decoded; `pixels` is the hash of its pixels."""
    picture, size, turn = decoded
    height, width = picture.shape[:2]
    scale, left, top, right, bottom = max(1, round(max(size) / max(width, height))), 0.0, 0.0, width, height
    if scale > 1:  # what is beyond the file's picture is padding: on the right and below, before it was turned
        down, across = (side / scale for side in turn(np.empty(size[::-1])).shape)
        row, column = np.argwhere(turn(np.array([[1, 0], [0, 0]])))[0].tolist()
        left, top = (width - across) * column, (height - down) * row
        right, bottom = left + across, top + down
    shrunk = max(1, max(width, height) // _SMALL)
    grey = np.asarray(Image.fromarray(picture).reduce(shrunk).convert("L"), np.float32)
    rows, columns = (
        _shares(start / shrunk, stop / shrunk, length)
        for start, stop, length in zip((top, left), (bottom, right), grey.shape, strict=True)
    )
    areas = (rows @ grey @ columns.T).round().clip(0, 255).astype(np.uint8)
    return Look(pixels, (max(size), min(size)), scale, areas.tobytes().hex())


def _shares(start: float, stop: float, length: int) -> np.ndarray:
    """The share (8, length) float32 of each pixel in 8 parts of equal length, between two places of a side."""
    edges, pixels = np.linspace(start, stop, _AREAS + 1)[:, None], np.arange(length)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(0) / (edges[1] - edges[0])).astype(np.float32)


def maybe_equal(looks: Mapping[str, Look]) -> set[str]:
    """The names of pictures that were decoded at different scales and may be equal in the size of their files."""
    groups: dict[tuple[int, int], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, look in looks.items():
        if look.areas:
            longer, shorter = look.size  # a list, where it was read from JSON
            groups[longer, shorter][look.scale].append(name)
    found: set[str] = set()
    for (_, shorter), scales in groups.items():
        margin = _NEAR + _NEAR_OF_SMALL // max(shorter, 1)
        for some, others in combinations(scales.values(), 2):
            for one, other in _near(_areas(some, looks), _areas(others, looks), margin):
                found |= {some[one], *(others[place] for place in other)}
    return found


def _areas(names: list[str], looks: Mapping[str, Look]) -> np.ndarray:
    return np.array([list(bytes.fromhex(looks[name].areas)) for name in names], np.int16)


def _near(some: np.ndarray, others: np.ndarray, margin: int) -> Iterator[tuple[int, list[int]]]:
    """The rows of `some` (n, 64) with the rows of `others` (m, 64) that are near; only those of like means are read."""
    means = others.mean(1)
    order = np.argsort(means)
    others, means = others[order], means[order]
    starts, stops = (np.searchsorted(means, some.mean(1) + away) for away in (-margin, margin))
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        is_near = (np.abs(others[start:stop] - some[row]) <= margin).all(1)
        if is_near.any():
            yield row, order[start:stop][is_near].tolist()
