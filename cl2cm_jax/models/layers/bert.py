"""BERT and its variants (RoBERTa, XLM-R, MiniLM, multilingual E5): a post-norm transformer over word pieces.

The layers' parameters are stacked and run by `lax.scan` (`layers.transformer`). The model can be cut at any layer: the
part below is frozen and run once (`prefix`), the part above is trained (`tail`).

Source: Devlin et al. 2019 (arXiv 1810.04805), Conneau et al. 2020 (arXiv 1911.02116).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.models.backbone import TailOptions, TextOutput, Tunable
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.packing import Packing, Rows, one_a_row, pack, packed_rows, unpack
from cl2cm_jax.models.layers.pooling import Pool, read_out
from cl2cm_jax.models.layers.transformer import (
    ACTIVATIONS,
    PRETRAINED,
    cut_layers,
    drop,
    join_layers,
    layer_norm,
    run_layers,
)


class BertShape(NamedTuple):
    """Sizes and choices of config.json.

    Attributes:
      vocabulary: number of word pieces.
      hidden: d.
      layers, heads: of the transformer.
      intermediate: width of the MLP.
      positions: rows of the position table.
      first_position: row of the first token: 0, and after the padding's row in the RoBERTa family.
      types: rows of the segment table, of which the first is used.
      epsilon: of the layer norms.
      activation: of the MLP.
      pool: how the sentence vector is made of the tokens' states, those of special tokens included.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    first_position: int
    types: int
    epsilon: float
    activation: str
    pool: Pool

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, begin and end included."""
        return self.positions - self.first_position


class Embeddings(nnx.Module):
    """Ids (R, W) and their positions (R, W) -> states (R, W, d)."""

    def __init__(self, shape: BertShape, *, rngs: nnx.Rngs):
        self.word = nnx.Embed(shape.vocabulary, shape.hidden, rngs=rngs)
        self.position = nnx.Embed(shape.positions, shape.hidden, rngs=rngs)
        self.type = nnx.Embed(shape.types, shape.hidden, rngs=rngs)
        self.norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs)
        self.first_position = shape.first_position

    def __call__(self, token_ids: jax.Array, positions: jax.Array) -> jax.Array:
        places = self.first_position + positions  # padding may exceed the table: use its last row
        position = self.position(jnp.minimum(places, self.position.num_embeddings - 1))
        return self.norm(self.word(token_ids) + position + self.type.embedding[...][0])


class Layer(nnx.Module):
    """Self-attention and MLP, each with a residual connection, then normalised."""

    def __init__(self, shape: BertShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
        hidden = shape.hidden
        self.heads, self.activation = shape.heads, shape.activation
        self.query, self.key, self.value, self.attended = (
            nnx.Linear(hidden, hidden, dtype=dtype, rngs=rngs) for _ in range(4)
        )
        self.attention_norm = layer_norm(hidden, shape.epsilon, rngs=rngs, dtype=dtype)
        self.up = nnx.Linear(hidden, shape.intermediate, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(shape.intermediate, hidden, dtype=dtype, rngs=rngs)
        self.mlp_norm = layer_norm(hidden, shape.epsilon, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array, rows: Rows, *, dropout: float = 0.0, key: jax.Array | None = None) -> jax.Array:
        """Maps x (R, W, d) to (R, W, d); `key` turns dropout on, after both parts."""
        dropped = functools.partial(drop, rate=dropout, token=rows.token)
        keys = (None, None) if key is None else jax.random.split(key)
        split = (*x.shape[:2], self.heads, x.shape[2] // self.heads)
        q, k, v = (project(x).reshape(split) for project in (self.query, self.key, self.value))
        attended = jax.nn.dot_product_attention(q, k, v, mask=rows.visible)
        x = self.attention_norm(x + dropped(self.attended(attended.reshape(x.shape)), key=keys[0]))
        return self.mlp_norm(x + dropped(self.down(ACTIVATIONS[self.activation](self.up(x))), key=keys[1]))


@functools.cache
def _functionals(shape: BertShape, dtype: str = "float32") -> tuple[Functional[Embeddings], Functional[Layer]]:
    return (
        Functional(lambda rngs: Embeddings(shape, rngs=rngs)),
        Functional(lambda rngs: Layer(shape, dtype=dtype, rngs=rngs)),
    )


def init(key: jax.Array, *, shape: BertShape) -> Params:
    """Random parameters {"embeddings", "layers"}."""
    embeddings, layer = _functionals(shape)
    first, second = jax.random.split(key)
    return {
        "embeddings": embeddings.init(first),
        "layers": jax.vmap(layer.init)(jax.random.split(second, shape.layers)),
    }


def apply(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: BertShape) -> TextOutput:
    """Encodes padded token ids; pure. See `tail`.

    Args:
      params: of the whole model.
      token_ids: (B, L) int32, each row: begin, pieces, end, padding (any id).
      token_mask: (B, L) bool, False at padding only, which is at the end.
      shape: of the model.
    """
    return tail(params, token_ids[..., None], token_mask, shape=shape)


def prefix(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: BertShape) -> jax.Array:
    """Runs the frozen lower part; returns the input of the first trained layer, (B, L, d) float32. Pure."""
    rows = one_a_row(token_mask)
    states = _functionals(shape)[0].bind(params["embeddings"])(token_ids, rows.position)
    return _layers(params["layers"], states, rows, shape=shape)


def tail(
    params: Params,
    states: jax.Array,
    token_mask: jax.Array,
    *,
    shape: BertShape,
    packing: Packing | None = None,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> TextOutput:
    """Runs the trained upper part; pure.

    Args:
      params: the upper part; the whole model if it was cut at -1.
      states: (B, L, d) from `prefix`; token ids (B, L, 1) for the whole model.
      token_mask: (B, L) bool, False at padding only, which is at the end.
      shape: of the model.
      packing: rows shared by several captions; None: one caption per row.
      key: turns dropout on.
      options: how the layers are run.

    Returns:
      The last layer's states as words, their mask (begin and end excluded), and the unit sentence vector.
    """
    rows = one_a_row(token_mask) if packing is None else packed_rows(packing)
    states = states if packing is None else pack(states, packing)
    if "embeddings" in params:
        states = _functionals(shape)[0].bind(params["embeddings"])(states[..., 0], rows.position)
    states = _layers(params["layers"], states, rows, shape=shape, key=key, options=options).astype(jnp.float32)
    states = states if packing is None else unpack(states, packing, token_mask)
    return read_out(states, token_mask, pool=shape.pool)


def tunable(shape: BertShape) -> Tunable[TextOutput]:
    """How a BERT of this shape is trained."""
    return Tunable(
        layers=shape.layers,
        cut=cut_layers,
        join=lambda params, above, first: join_layers(cut_layers(params, first)[0], above),
        prefix=functools.partial(prefix, shape=shape),
        tail=functools.partial(tail, shape=shape),
    )


def _layers(
    params: Params,
    states: jax.Array,
    rows: Rows,
    *,
    shape: BertShape,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> jax.Array:
    layer = _functionals(shape, options.dtype)[1]

    def run(one: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        return layer.bind(one)(x, rows, dropout=options.dropout, key=key)

    return run_layers(run, params, states, key=key, options=options)
