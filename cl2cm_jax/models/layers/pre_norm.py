"""A pre-norm transformer layer: the layer of CLIP's and SigLIP's towers, of images and of texts."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.models.layers.packing import Rows
from cl2cm_jax.models.layers.transformer import ACTIVATIONS, drop, layer_norm


class LayerShape(Protocol):
    """Sizes and choices of a layer: d, heads, width of the MLP, epsilon of the norms, activation of the MLP."""

    @property
    def hidden(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def intermediate(self) -> int: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def activation(self) -> str: ...


class Layer(nnx.Module):
    """Self-attention and MLP, each on normalised input with a residual connection."""

    def __init__(self, shape: LayerShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = shape.heads
        self.attention_norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs, dtype=dtype)
        self.query, self.key, self.value, self.attended = (
            nnx.Linear(shape.hidden, shape.hidden, dtype=dtype, rngs=rngs) for _ in range(4)
        )
        self.mlp_norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs, dtype=dtype)
        self.mlp = Mlp(shape, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, rows: Rows | None = None, *, dropout: float = 0.0, key: jax.Array | None = None
    ) -> jax.Array:
        """Maps x (R, W, d) to (R, W, d); without `rows` all is visible. `key` turns dropout on, after both parts."""
        h = self.attention_norm(x)
        visible = None if rows is None else rows.visible
        h = self.attended(attend(self.query(h), self.key(h), self.value(h), heads=self.heads, visible=visible))
        if rows is None or key is None:
            x = x + h
            return x + self.mlp(self.mlp_norm(x))
        first, second = jax.random.split(key)
        x = x + drop(h, rate=dropout, token=rows.token, key=first)
        return x + drop(self.mlp(self.mlp_norm(x)), rate=dropout, token=rows.token, key=second)


class Mlp(nnx.Module):
    """Linear, activation, linear."""

    def __init__(self, shape: LayerShape, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.activation = shape.activation
        self.up = nnx.Linear(shape.hidden, shape.intermediate, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(shape.intermediate, shape.hidden, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, *, heads: int, visible: jax.Array | None = None
) -> jax.Array:
    """Attention of queries (R, Q, d) over keys and values (R, K, d), where `visible` (R, 1, 1 or Q, K) is True."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    return jax.nn.dot_product_attention(q, k, v, mask=visible).reshape(query.shape)
