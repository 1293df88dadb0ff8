"""The text towers of CLIP and SigLIP (MetaCLIP 2 and SigLIP 2 too): pre-norm transformers over word pieces.

CLIP's tokens see only those before them, so padding behind a text changes nothing, and captions can share a row.
SigLIP's see each other, and the padding too: a text is always read at the model's full length, of which the last state
becomes the sentence vector. The padding is part of what the model was trained on, so it is computed here, and packing,
which saves padding, is not used.

The layers' parameters are stacked and run by `lax.scan` (`layers.transformer`). The model can be cut at any layer: the
part below is frozen and run once (`prefix`), the part above is trained (`tail`).

Source: Radford et al. 2021 (arXiv 2103.00020), Zhai et al. 2023 (arXiv 2303.15343).
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cl2cm_jax.models.backbone import TailOptions, TextOutput, Tunable
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.packing import Packing, Rows, near, one_a_row, pack, packed_rows, unpack
from cl2cm_jax.models.layers.pre_norm import Layer
from cl2cm_jax.models.layers.transformer import PRETRAINED, cut_layers, join_layers, layer_norm, run_layers

_FAR = 2**30  # beyond every position


class ClipTextShape(NamedTuple):
    """Sizes and choices of the text tower in config.json.

    Attributes:
      vocabulary: number of word pieces.
      hidden: d.
      layers, heads: of the transformer.
      intermediate: width of the MLP.
      positions: rows of the position table.
      epsilon: of the layer norms.
      activation: of the MLP.
      pool: the state that is projected: of CLIP that of the first "eos", or of the highest id (the first one, "argmax":
        what its first configurations mean); of SigLIP that at the "last" position.
      eos: id of the end token.
      padding: id of the padding that SigLIP sees.
      marks: numbers of special tokens before and behind a text.
      projection: size of the projected vector; 0 where the folder has no projection.
      bias: whether the projection has one.
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    epsilon: float
    activation: str
    pool: Literal["eos", "argmax", "last"]
    eos: int
    padding: int
    marks: tuple[int, int]
    projection: int
    bias: bool

    @property
    def causal(self) -> bool:
        """Whether tokens see those before them alone; otherwise all see all `positions`, padding included."""
        return self.pool != "last"

    @property
    def sentence(self) -> int:
        """Size of the sentence vector."""
        return self.projection or self.hidden


class Embeddings(nnx.Module):
    """Ids (R, W) and their positions (R, W) -> states (R, W, d)."""

    def __init__(self, shape: ClipTextShape, *, rngs: nnx.Rngs):
        self.word = nnx.Embed(shape.vocabulary, shape.hidden, rngs=rngs)
        self.position = nnx.Embed(shape.positions, shape.hidden, rngs=rngs)

    def __call__(self, token_ids: jax.Array, positions: jax.Array) -> jax.Array:
        places = jnp.minimum(positions, self.position.num_embeddings - 1)  # padding may exceed the table
        return self.word(token_ids) + self.position(places)


class Pool(nnx.Module):
    """The final norm of all states, and the projection of the one that stands for the text."""

    def __init__(self, shape: ClipTextShape, *, rngs: nnx.Rngs):
        self.norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs)
        size = shape.projection
        self.project = nnx.Linear(shape.hidden, size, use_bias=shape.bias, rngs=rngs) if size else None

    def __call__(self, states: jax.Array) -> jax.Array:
        return self.norm(states)

    def projected(self, state: jax.Array) -> jax.Array:
        """The sentence vector (B, p) of the normalised state (B, d)."""
        return state if self.project is None else self.project(state)


class _Parts(NamedTuple):
    embeddings: Functional[Embeddings]
    layer: Functional[Layer]
    pool: Functional[Pool]


@functools.cache
def _functionals(shape: ClipTextShape, dtype: str = "float32") -> _Parts:
    return _Parts(
        Functional(lambda rngs: Embeddings(shape, rngs=rngs)),
        Functional(lambda rngs: Layer(shape, dtype=dtype, rngs=rngs)),
        Functional(lambda rngs: Pool(shape, rngs=rngs)),
    )


def init(key: jax.Array, *, shape: ClipTextShape) -> Params:
    """Random parameters {"embeddings", "layers", "pool"}."""
    parts = _functionals(shape)
    first, second, third = jax.random.split(key, 3)
    layers = jax.vmap(parts.layer.init)(jax.random.split(second, shape.layers))
    return {"embeddings": parts.embeddings.init(first), "layers": layers, "pool": parts.pool.init(third)}


def apply(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: ClipTextShape) -> TextOutput:
    """Encodes padded token ids; pure. See `tail`.

    Args:
      params: of the whole model.
      token_ids: (B, L) int32, padding (any id) at the end.
      token_mask: (B, L) bool, False at padding only.
      shape: of the model.
    """
    return tail(params, token_ids[..., None], token_mask, shape=shape)


def prefix(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: ClipTextShape) -> jax.Array:
    """Runs the frozen lower part; returns the input of the first trained layer, float32. Pure.

    It is (B, L, d); (B, positions, d) where padding is seen.
    """
    ids, rows = _read(token_ids[..., None], token_mask, shape=shape)
    states = _functionals(shape).embeddings.bind(params["embeddings"])(ids[..., 0], rows.position)
    return _layers(params["layers"], states, rows, shape=shape)


def tail(
    params: Params,
    states: jax.Array,
    token_mask: jax.Array,
    *,
    shape: ClipTextShape,
    packing: Packing | None = None,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> TextOutput:
    """Runs the trained upper part; pure.

    Args:
      params: the upper part; the whole model if it was cut at -1.
      states: from `prefix`; token ids (B, L, 1) for the whole model.
      token_mask: (B, L) bool, False at padding only, which is at the end. A text ends with the token whose state is
        projected; with ids, that token is looked for.
      shape: of the model.
      packing: rows shared by several captions; None: one caption per row.
      key: turns dropout on.
      options: how the layers are run.

    Returns:
      The normalised states of the last layer as words, their mask (special tokens excluded), and the projected sentence
      vector, whose length is the model's own.
    """
    parts, whole = _functionals(shape), "embeddings" in params
    place = _place(states[..., 0] if whole else None, token_mask, shape=shape)
    packing = packing if shape.causal else None
    if packing is not None:
        states, rows = pack(states, packing), _causal(packed_rows(packing))
    else:
        states, rows = _read(states, token_mask, shape=shape)
    if whole:
        states = parts.embeddings.bind(params["embeddings"])(states[..., 0], rows.position)
    states = _layers(params["layers"], states, rows, shape=shape, key=key, options=options).astype(jnp.float32)
    pool = parts.pool.bind(params["pool"])
    states = pool(states)
    states = states if packing is None else unpack(states, packing, token_mask)
    # a sum over one position: converters know no gather with an index of its own in each row
    here = jax.lax.broadcasted_iota(jnp.int32, states.shape[:2], 1) == place
    sentence = pool.projected((states * here[..., None]).sum(axis=1))
    if not shape.causal:
        states = _fitted(states, token_mask.shape[1], longest=shape.positions)
    before, behind = shape.marks
    at, length = jax.lax.broadcasted_iota(jnp.int32, token_mask.shape, 1), token_mask.sum(axis=1, keepdims=True)
    is_word = token_mask & (at >= before) & (at < length - behind)
    return TextOutput(words=states * token_mask[..., None], mask=is_word, sentence=sentence)


def tunable(shape: ClipTextShape) -> Tunable[TextOutput]:
    """How a text tower of this shape is trained."""
    return Tunable(
        layers=shape.layers,
        cut=lambda params, first: cut_layers(params, first, pool=params["pool"]),
        join=_join,
        prefix=functools.partial(prefix, shape=shape),
        tail=functools.partial(tail, shape=shape),
    )


def _join(params: Params, above: Params, first: int) -> Params:
    return join_layers(cut_layers(params, first)[0], above) | {"pool": above["pool"]}


def _read(states: jax.Array, token_mask: jax.Array, *, shape: ClipTextShape) -> tuple[jax.Array, Rows]:
    """Ids (B, L, 1) or states (B, L, d) as the layers get them, one text a row: SigLIP's with all its padding."""
    if shape.causal:
        return states, _causal(one_a_row(token_mask))
    if states.shape[-1] == 1 and jnp.issubdtype(states.dtype, jnp.integer):
        length = token_mask.sum(axis=1, keepdims=True)
        states = _fitted(states, shape.positions, longest=length.max())
        inside = jax.lax.broadcasted_iota(jnp.int32, states.shape[:2], 1) < length
        states = jnp.where(inside[..., None], states, shape.padding)
    return states, one_a_row(jnp.ones(states.shape[:2], bool))


def _fitted(x: jax.Array, length: Any, *, longest: jax.Array | int) -> jax.Array:
    """The rows x (B, L, d) cut to a length, or with anything behind; the first `longest` positions are kept."""
    if isinstance(length, int) and isinstance(x.shape[1], int):
        more = max(0, length - x.shape[1])
        return jnp.pad(x, ((0, 0), (0, more), (0, 0)))[:, :length]
    places = jax.lax.broadcasted_iota(jnp.int32, (length,), 0)  # exported for any length, which cannot be cut or padded
    return jnp.take(x, jnp.minimum(places, jnp.maximum(longest - 1, 0)), axis=1)


def _causal(rows: Rows) -> Rows:
    return rows._replace(visible=near(rows, behind=0))


def _place(ids: jax.Array | None, token_mask: jax.Array, *, shape: ClipTextShape) -> jax.Array | int:
    """The position (B, 1) of the state that is projected."""
    if not shape.causal:
        return shape.positions - 1
    if ids is None:
        return jnp.maximum(token_mask.sum(axis=1, keepdims=True) - 1, 0)
    known = jnp.where(token_mask, ids, -1)
    found = known == (shape.eos if shape.pool == "eos" else known.max(axis=1, keepdims=True))
    at = jax.lax.broadcasted_iota(jnp.int32, ids.shape, 1)
    first = jnp.where(found, at, _FAR).min(axis=1, keepdims=True)
    return jnp.where(first == _FAR, 0, first)  # as an argmax over no True


def _layers(
    params: Params,
    states: jax.Array,
    rows: Rows,
    *,
    shape: ClipTextShape,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> jax.Array:
    layer = _functionals(shape, options.dtype).layer

    def run(one: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        return layer.bind(one)(x, rows, dropout=options.dropout, key=key)

    return run_layers(run, params, states, key=key, options=options)
