"""Transformer layers: activations, layer norm, dropout, and layers with parameters stacked along a leading axis.

With stacked parameters one layer is compiled, whatever their number. Stacks are run, cut and joined here; a model's
parameters are {"embeddings": ..., "layers": stacked, ...}.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.models.backbone import TailOptions
from cl2cm_jax.models.functional import Params

PRETRAINED = TailOptions()  # no dropout
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {  # by the names of transformers
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


def layer_norm(
    features: int, epsilon: float, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, use_bias: bool = True
) -> nnx.LayerNorm:
    """A layer norm with the variance computed as in torch."""
    return nnx.LayerNorm(features, epsilon=epsilon, use_fast_variance=False, use_bias=use_bias, dtype=dtype, rngs=rngs)


def drop(x: jax.Array, *, rate: float, token: jax.Array, key: jax.Array | None) -> jax.Array:
    """Dropout of x (R, W, d) with one mask per token id (R, W), so that packing does not change it; no key: none."""
    if key is None or rate == 0.0:
        return x

    def keep(token: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, token), 1 - rate, x.shape[-1:])

    return jnp.where(jax.vmap(jax.vmap(keep))(token), x / (1 - rate), 0)


def run_layers(
    layer: Callable[[Params, jax.Array, Any], jax.Array],
    params: Params,
    states: jax.Array,
    *,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> jax.Array:
    """Runs stacked layers, by `lax.scan` or unrolled, and returns the last one's states in `options.dtype`.

    Args:
      layer: (its parameters, states, its key or None) -> states.
      params: stacked.
      states: input of the first layer, of any dtype.
      key: is split into one for each layer where `options.dropout` is not 0; None: no dropout.
      options: how they are run.
    """
    keys = None if key is None or not options.dropout else jax.random.split(key, count(params))

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
