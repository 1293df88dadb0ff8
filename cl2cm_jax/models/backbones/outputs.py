"""What every backbone yields, whatever is inside it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cl2cm_jax.maths.masking import masked_mean


class TextOutput(NamedTuple):
    """Text features.

    Attributes:
      words: (B, L, d) float32, one state a word piece; 0 at padding.
      mask: (B, L) bool, True at word pieces: not padding, not the marks of begin and end.
      sentence: (B, d) float32, the backbone's own sentence vector.
    """

    words: jax.Array
    mask: jax.Array
    sentence: jax.Array


class VisionOutput(NamedTuple):
    """Vision features: (B, F, d) float32 of F frames or grid cells, and their mask (B, F) bool."""

    features: jax.Array
    mask: jax.Array


def mean_pool(output: VisionOutput) -> VisionOutput:
    """Returns the mean of the unmasked features as one frame: features (B, 1, d), mask (B, 1)."""
    return VisionOutput(
        features=masked_mean(output.features, output.mask)[:, None],
        mask=jnp.any(output.mask, axis=-1, keepdims=True),
    )
