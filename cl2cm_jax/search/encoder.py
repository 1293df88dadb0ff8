"""What search needs of a trained model: two functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Encoder:
    """The student as two functions onto unit vectors of one space.

    Attributes:
        text: N texts in any of the trained languages -> (N, D) float32.
        images: N uint8 pictures (H, W, 3) of any sizes -> (N, D) float32.
        weights: names the weights, and changes whenever they do (the step with a hash, say); vectors of different
            weights are never compared.
    """

    text: Callable[[Sequence[str]], np.ndarray]
    images: Callable[[Sequence[np.ndarray]], np.ndarray]
    weights: str
