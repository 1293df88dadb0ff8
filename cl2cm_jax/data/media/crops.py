"""Training augmentation: a random crop, resized to the network's size, and a random horizontal flip."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from cl2cm_jax.data.media.images import RESAMPLING, scaled

NUMBERS = 5  # random numbers per picture
_LOG_RATIO = math.log(4 / 3)  # largest ratio of width to height is 4/3, smallest 3/4


class Crops(NamedTuple):
    """Settings of random crops.

    Attributes:
      size: pixels of the result's sides.
      shorter_side, filter: of the backbone's preprocessing, see `images.scaled`.
      even: the same.
      minimum: smallest share of a picture's area that is kept; 1.0: the backbone's preprocessing, no crop.
      flip: whether half of them are flipped left to right.
    """

    size: int
    shorter_side: int | None
    filter: Literal["bicubic", "bilinear"]
    minimum: float
    flip: bool
    even: bool = False


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def box(width: int, height: int, *, minimum: float, chance: np.ndarray) -> Box:
    """A random part of a picture, of `chance` (4,) in [0, 1): share, aspect ratio, position across and down.

    Its share of the area is between `minimum` and 1, its aspect ratio between 3/4 and 4/3, uniform in its logarithm
    as far as such a box fits. A picture too long for any keeps the largest box of ratio 3/4 or 4/3.
    """
    share = minimum + (1 - minimum) * chance[0]
    long = math.log(width / height)
    low, high = max(-_LOG_RATIO, long + math.log(share)), min(_LOG_RATIO, long - math.log(share))
    if low <= high:
        ratio = math.exp(low + (high - low) * chance[1])
        across = min(width, math.sqrt(share * width * height * ratio))
        down = min(height, across / ratio)
    else:
        ratio = math.exp(math.copysign(_LOG_RATIO, long))
        across, down = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - across) * chance[2], (height - down) * chance[3]
    return Box(left, top, min(width, left + across), min(height, top + down))


def cropped(image: np.ndarray, crops: Crops, *, chance: np.ndarray) -> np.ndarray:
    """A random crop (size, size, 3) uint8 of a picture (H, W, 3) uint8, a function of `chance` (5,) in [0, 1)."""
    if crops.minimum == 1.0:
        pixels = scaled(image, crops.size, shorter_side=crops.shorter_side, filter=crops.filter, even=crops.even)
    else:
        part = box(image.shape[1], image.shape[0], minimum=crops.minimum, chance=chance)
        picture = Image.fromarray(image)
        pixels = np.asarray(picture.resize((crops.size, crops.size), RESAMPLING[crops.filter], box=part))
    return pixels[:, ::-1] if crops.flip and chance[4] < 0.5 else pixels
