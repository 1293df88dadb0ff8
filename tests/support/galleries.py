"""A gallery of four pictures in three dimensions."""

from __future__ import annotations

import numpy as np

from cl2cm_jax.evaluation.gallery import Gallery


def four_pictures() -> Gallery:
    vectors = np.array([[0.6, 0.8, 0], [0, 1, 0], [1, 0, 0], [0, 0.6, 0.8]], np.float32)
    return Gallery(vectors, ("olive", "leaf", "犬", "sea"), ("an olive", "a [leaf]", "a red dog", "the sea"),
                   ("olive.png", "leaf.png", "", "sea.png"), "step 10")  # fmt: skip
