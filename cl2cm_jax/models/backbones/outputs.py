"""What every backbone yields, whatever is inside it, and how one that is trained is run."""

from __future__ import annotations

from typing import NamedTuple

import jax


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
    """Vision features.

    Attributes:
      features: (B, F, d) float32 of F frames or grid cells.
      mask: (B, F) bool.
      pooled: (B, p) float32, the backbone's own global vector; None of features that were computed elsewhere.
    """

    features: jax.Array
    mask: jax.Array
    pooled: jax.Array | None = None


class TailOptions(NamedTuple):
    """How the trained layers of a backbone are run.

    Attributes:
      dropout: behind attention and MLP, while training.
      remat: compute a layer's activations again in the backward pass in place of keeping them.
      scan: one compiled layer run in a loop; else as many as there are, which compiles longer and may run faster.
      dtype: of the products and the states between; parameters stay fp32.
    """

    dropout: float = 0.0
    remat: bool = False
    scan: bool = True
    dtype: str = "float32"


AS_STORED = TailOptions()  # no dropout: what a pretrained backbone says
