"""What search needs of a trained model: two functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoder:
    """The student as two functions onto unit vectors of one space.

    Attributes:
        text: N texts in any of the trained languages -> (N, D) float32.
        images: N clips, each of uint8 frames (H, W, 3) of any sizes that are read one after the other; a picture is a
            clip of one frame -> (N, D) float32. Of a clip without frames the vector means nothing.
        weights: names the weights, and changes whenever they do (the step with a hash, say); vectors of different
            weights are never compared.
        frames: most frames that `images` takes of a clip; 1: it was trained on pictures.
        batch: frames that its devices compute at a time; fewer take as long.
    """

    text: Callable[[Sequence[str]], np.ndarray]
    images: Callable[[Iterable[Iterable[np.ndarray]]], np.ndarray]
    weights: str
    frames: int = 1
    batch: int = 1
