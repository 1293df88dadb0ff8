"""What of a picture Pillow does not convert as a viewer shows it: its orientation, and grey of 16 and 32 bits."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112  # EXIF tag
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def turn_of(image: Image.Image) -> Callable[[np.ndarray], np.ndarray]:
    """A function that turns the pixels (H, W, 3) of a loaded image upright, by EXIF if that can be read."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1), _TURNS[1])
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, struct.error):
        return _TURNS[1]


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
