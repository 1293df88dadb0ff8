"""Transformer layers: layer norm, and layers whose parameters are stacked along a leading axis.

With stacked parameters one layer is compiled, whatever their number. Stacks are run, cut and joined here; a model's
parameters are {"embeddings": ..., "layers": stacked, ...}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.models.backbone import TailOptions
from cl2cm_jax.models.functional import Params

PRETRAINED = TailOptions()  # no dropout


def layer_norm(features: int, epsilon: float, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32) -> nnx.LayerNorm:
    """A layer norm with the variance computed as in torch."""
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


def run_layers(
    layer: Callable[[Params, jax.Array, Any], jax.Array],
    params: Params,
    states: jax.Array,
    *,
    keys: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> jax.Array:
    """Runs stacked layers, by `lax.scan` or unrolled, and returns the last one's states in `options.dtype`.

    Args:
      layer: (its parameters, states, its key or None) -> states.
      params: stacked.
      states: input of the first layer, of any dtype.
      keys: one per layer, or None.
      options: `remat`, `scan` and `dtype` are used.
    """

    def run(x: jax.Array, one: tuple[Params, jax.Array | None]) -> tuple[jax.Array, None]:
        return layer(one[0], x, one[1]), None

    if options.remat:
        run = jax.checkpoint(run, prevent_cse=not options.scan)
    states = states.astype(options.dtype)
    if options.scan:
        return jax.lax.scan(run, states, (params, keys))[0]
    for i in range(count(params)):
        states, _ = run(states, jax.tree.map(lambda x: x[i], (params, keys)))  # noqa: B023  (called at once)
    return states


def count(layers: Params) -> int:
    """Number of stacked layers."""
    return len(jax.tree.leaves(layers)[0])


def cut_layers(params: Params, first: int, **head: Any) -> tuple[Params, Params]:
    """Parameters below and from layer `first` on; -1 leaves nothing below, not even the embeddings.

    `head` is added to the upper part.
    """
    if first < 0:
        return {}, {"embeddings": params["embeddings"], "layers": params["layers"], **head}
    below = {"embeddings": params["embeddings"], "layers": jax.tree.map(lambda x: x[:first], params["layers"])}
    return below, {"layers": jax.tree.map(lambda x: x[first:], params["layers"]), **head}


def join_layers(below: Params, above: Params) -> Params:
    """The embeddings and all layers from the two parts that `cut_layers` returns."""
    if not below:
        return {"embeddings": above["embeddings"], "layers": above["layers"]}
    layers = jax.tree.map(lambda *parts: jnp.concatenate(parts), below["layers"], above["layers"])
    return {"embeddings": below["embeddings"], "layers": layers}
