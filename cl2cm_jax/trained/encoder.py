"""The interface of a trained model that search uses: two functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cl2cm_jax.data.media.images import MAX_PIXELS


@dataclass(frozen=True)
class Encoder:
    """The student as two functions onto unit vectors of one space.

    Attributes:
        text: N texts in any of the trained languages -> (N, D) float32.
        images: N clips -> (N, D) float32. A clip is an iterable of uint8 frames (H, W, 3) of any sizes; a picture is a
            clip of one frame. The vector of a clip without frames is undefined.
        weights: identifies the weights and changes with them; vectors of different weights are never compared.
        frames: maximum number of frames of a clip; 1 if it was trained on pictures.
        batch: frames that its devices compute at a time.
        enough: pixels of a picture's shorter side that `images` makes use of; 0: all. See `images.decode`.
        max_pixels: larger pictures are refused, see there.
        notice: what of a text is not read, in one line; "" if it is read as a whole.
        pieces: N words -> the number of word pieces of each, large where one is unknown.
    """

    text: Callable[[Sequence[str]], np.ndarray]
    images: Callable[[Iterable[Iterable[np.ndarray]]], np.ndarray]
    weights: str
    frames: int = 1
    batch: int = 1
    enough: int = 0
    max_pixels: int = MAX_PIXELS
    notice: Callable[[str], str] = lambda text: ""
    pieces: Callable[[Sequence[str]], Sequence[int]] = lambda words: [0] * len(words)
