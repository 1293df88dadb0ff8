"""The pixels of a picture as a viewer shows them: upright, on white, and 8 bits of deep grey."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

_WHITE = (255, 255, 255, 255)
_STRIP = 2**20  # pixels converted at a time
_LARGE = 16_000_000  # pixels; a larger picture that is no JPEG may be returned smaller
_HALVED = 70_000_000  # pixels; a larger picture is halved, so that it and the result fit into 500 MB
_ORIENTATION = 0x0112  # EXIF tag
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
_BACK = {6: 8, 8: 6}  # the orientation that undoes another; the others undo themselves


def orientation_of(image: Image.Image) -> int:
    """How the pixels of a loaded image are to be turned, a key of `TURNS`, by EXIF if that can be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in TURNS else 1
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return 1


def is_deep(image: Image.Image) -> bool:
    """Whether it is 16- or 32-bit grey, which convert() would clip at 255."""
    return image.mode.startswith("I") or image.mode == "F"


def white_of(image: Image.Image, rows: int) -> float:
    """The value of white, from 16- and 32-bit grey read `rows` at a time; files of 32 bits do not state it.

    It is guessed from the largest value.
    """
    if image.mode.startswith("I;16"):
        return 65535
    tops = [
        float(
            np.nan_to_num(
                np.asarray(image.crop((0, top, image.width, min(image.height, top + rows)))).astype(np.float32)
            ).max()
        )
        for top in range(0, image.height, rows)
    ]
    top = max(tops, default=0.0)
    return 65535 if top > 255 else 1 if image.mode == "F" and top <= 1 else 255


def grey_to_8_bit(image: Image.Image, white: float) -> np.ndarray:
    """16- or 32-bit grey to (H, W) uint8."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32))
    return np.clip(np.round(values * (255 / white)), 0, 255).astype(np.uint8)


def to_array(image: Image.Image, *, enough: int = 0) -> np.ndarray:
    """The pixels (H, W, 3) uint8, upright.

    They are converted in strips that are written where they are upright, so that little more than the result is in
    memory. Strips of a large picture are averaged over squares, see `decode`.
    """
    image.load()
    (width, height), orientation = image.size, orientation_of(image)
    square = _square(image, enough)
    if width * height <= _STRIP:
        return np.ascontiguousarray(TURNS[orientation](_to_rgb(image)))
    rows = max(1, _STRIP // width // square) * square
    white = white_of(image, rows) if is_deep(image) else 0
    shape = -(-height // square), -(-width // square), 3
    upright = np.empty(TURNS[orientation](np.broadcast_to(np.uint8(0), shape)).shape, np.uint8)
    out = TURNS[_BACK.get(orientation, orientation)](upright)  # the same pixels, as they are in the file
    for top in range(0, height, rows):
        part = image.crop((0, top, width, min(height, top + rows)))
        pixels = _to_rgb(part, white=white) if white else _to_rgb(part)
        if square > 1:
            pixels = np.asarray(Image.fromarray(pixels).reduce(square))
        out[top // square :][: len(pixels)] = pixels
    return upright


def _square(image: Image.Image, enough: int) -> int:
    """The side of the squares of pixels that are averaged to one pixel; a square is within a strip."""
    pixels = image.width * image.height
    if not enough:
        return 2 if pixels > _HALVED else 1
    if image.format == "JPEG" or pixels <= _LARGE:
        return 1
    return max(1, min(min(image.size) // enough, _STRIP // image.width))


def _to_rgb(image: Image.Image, *, white: float = 0) -> np.ndarray:
    """Any Pillow mode to (H, W, 3) uint8; `white` is the value of 16- and 32-bit grey, if it is known."""
    if is_deep(image):
        return np.repeat(grey_to_8_bit(image, white or white_of(image, image.height))[..., None], 3, axis=2)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return np.array(image.convert("RGB"))
