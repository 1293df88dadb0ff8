"""What every backbone yields, whatever is inside it, and how one that is trained is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from cl2cm_jax.models.functional import Params


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


def run_layers(
    layer: Callable[[Params, jax.Array, Any], jax.Array],
    params: Params,
    states: jax.Array,
    *,
    keys: jax.Array | None = None,
    options: TailOptions = AS_STORED,
) -> jax.Array:
    """Runs layers whose parameters are stacked along a leading axis, by `lax.scan` or one after the other.

    Args:
      layer: (its parameters, states, its key or None) -> states.
      params: stacked.
      states: what the first layer reads; cast to the options' dtype.
      keys: one a layer, or None.
      options: `remat`, `scan` and `dtype` are read.

    Returns:
      The last layer's states, in the options' dtype.
    """

    def run(x: jax.Array, one: tuple[Params, jax.Array | None]) -> tuple[jax.Array, None]:
        return layer(one[0], x, one[1]), None

    if options.remat:
        run = jax.checkpoint(run, prevent_cse=not options.scan)
    states = states.astype(options.dtype)
    if options.scan:
        return jax.lax.scan(run, states, (params, keys))[0]
    for i in range(len(jax.tree.leaves(params)[0])):
        states, _ = run(states, jax.tree.map(lambda x: x[i], (params, keys)))  # noqa: B023  (called at once)
    return states
