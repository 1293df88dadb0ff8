"""ModernBERT and Qwen3: pre-norm transformers with rotary positions and gated MLPs.

The two differ in a few choices, which `RotaryShape` lists. The layers' parameters are stacked and run by `lax.scan`
(`layers.transformer`); layers that see a window only, or all of a text, are told apart by an array with one entry per
layer. The model can be cut at any layer, see `layers.bert`.

Source: Su et al. 2021 (arXiv 2104.09864), Warner et al. 2024 (arXiv 2412.13663), Qwen team 2025 (arXiv 2505.09388).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.models.backbone import TailOptions, TextOutput, Tunable
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.packing import Packing, Rows, near, one_a_row, pack, packed_rows, unpack
from cl2cm_jax.models.layers.pooling import Pool, read_out
from cl2cm_jax.models.layers.transformer import (
    ACTIVATIONS,
    PRETRAINED,
    count,
    cut_layers,
    drop,
    join_layers,
    layer_norm,
    run_layers,
)

Norm = nnx.LayerNorm | nnx.RMSNorm


class RotaryShape(NamedTuple):
    """Sizes and choices of config.json.

    Attributes:
      family: "modernbert" (layer norms, one behind the embeddings and none before the first attention) or "qwen3" (RMS
        norms, also of each head's queries and keys).
      vocabulary: number of word pieces.
      hidden: d.
      layers: of the transformer.
      heads, key_heads: of queries, and of keys and values; each of these serves heads / key_heads of queries.
      head: size of a head.
      intermediate: width of the MLP.
      max_tokens: longest text in tokens that the model was made for.
      epsilon: of the norms.
      activation: of the MLP's gate.
      biases: which parts have biases, of "norm", "attention" and "mlp".
      causal: tokens see those before them only.
      theta, local_theta: bases of the rotary angles in layers that see all of a text, and in those with a window.
      window: how many positions away a token sees in layers with a window.
      local: for each layer, whether it has a window; repeated where a model has more layers.
      pool: how the sentence vector is made of the tokens' states, those of special tokens included.
      marks: numbers of special tokens before and behind a text.
    """

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head: int
    intermediate: int
    max_tokens: int
    epsilon: float
    activation: str
    biases: tuple[str, ...]
    causal: bool
    theta: float
    local_theta: float
    window: int
    local: tuple[bool, ...]
    pool: Pool
    marks: tuple[int, int]


class Sight(NamedTuple):
    """What a layer's attention knows of the rows: the mask (R, 1, 1 or W, W) and the rotary angles (R, W, head / 2)."""

    visible: jax.Array
    angles: jax.Array


def angles(positions: jax.Array, *, theta: float, size: int) -> jax.Array:
    """Rotary angles (..., size / 2) fp32 of positions (...): pair i of a head turns by theta^(-2i / size) a step."""
    speeds = 1 / np.float32(theta) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    return positions[..., None].astype(jnp.float32) * speeds


def rotated(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Heads x (R, W, H, h) turned by angles (R, W, h / 2): element i and element i + h / 2 are a pair."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _norm(shape: RotaryShape, *, size: int = 0, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> Norm:
    features = size or shape.hidden
    if shape.family == "qwen3":
        return nnx.RMSNorm(features, epsilon=shape.epsilon, dtype=dtype, rngs=rngs)
    return layer_norm(features, shape.epsilon, use_bias="norm" in shape.biases, dtype=dtype, rngs=rngs)


class Embeddings(nnx.Module):
    """Ids (R, W) -> states (R, W, d)."""

    def __init__(self, shape: RotaryShape, *, rngs: nnx.Rngs):
        self.word = nnx.Embed(shape.vocabulary, shape.hidden, rngs=rngs)
        self.norm = _norm(shape, rngs=rngs) if shape.family == "modernbert" else None

    def __call__(self, token_ids: jax.Array) -> jax.Array:
        states = self.word(token_ids)
        return states if self.norm is None else self.norm(states)


class GatedMlp(nnx.Module):
    """Two linear maps, the product of one with the other's activation, and a linear map."""

    def __init__(self, hidden: int, width: int, *, activation: str, use_bias: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.activation = activation
        self.gate, self.up = (nnx.Linear(hidden, width, use_bias=use_bias, dtype=dtype, rngs=rngs) for _ in range(2))
        self.down = nnx.Linear(width, hidden, use_bias=use_bias, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """Self-attention and MLP, each on normalised input with a residual connection."""

    def __init__(self, shape: RotaryShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
        linear = functools.partial(nnx.Linear, use_bias="attention" in shape.biases, dtype=dtype, rngs=rngs)
        self.head = shape.head
        self.attention_norm = _norm(shape, dtype=dtype, rngs=rngs)
        self.query = linear(shape.hidden, shape.heads * shape.head)
        self.key, self.value = (linear(shape.hidden, shape.key_heads * shape.head) for _ in range(2))
        self.attended = linear(shape.heads * shape.head, shape.hidden)
        of_heads = shape.family == "qwen3"
        self.query_norm, self.key_norm = (
            _norm(shape, size=shape.head, dtype=dtype, rngs=rngs) if of_heads else None for _ in range(2)
        )
        self.mlp_norm = _norm(shape, dtype=dtype, rngs=rngs)
        self.mlp = GatedMlp(
            shape.hidden,
            shape.intermediate,
            activation=shape.activation,
            use_bias="mlp" in shape.biases,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x: jax.Array,
        sight: Sight,
        token: jax.Array,
        *,
        is_normed: jax.Array,
        dropout: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Maps x (R, W, d) of tokens (R, W) to (R, W, d).

        Args:
          x: of the layer below.
          sight: mask and angles of this layer.
          token: ids for dropout, see `Rows`.
          is_normed: () bool, whether the input of the attention is normalised.
          dropout: rate after both parts.
          key: turns dropout on.
        """
        dropped = functools.partial(drop, rate=dropout, token=token)
        keys = (None, None) if key is None else jax.random.split(key)
        h = jnp.where(is_normed, self.attention_norm(x), x)
        q, k, v = (part(h).reshape(*x.shape[:2], -1, self.head) for part in (self.query, self.key, self.value))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = (rotated(part, sight.angles) for part in (q, k))
        attended = jax.nn.dot_product_attention(q, k, v, mask=sight.visible)
        x = x + dropped(self.attended(attended.reshape(*x.shape[:2], -1)), key=keys[0])
        return x + dropped(self.mlp(self.mlp_norm(x)), key=keys[1])


class _Parts(NamedTuple):
    embeddings: Functional[Embeddings]
    layer: Functional[Layer]
    norm: Functional[Norm]


@functools.cache
def _functionals(shape: RotaryShape, dtype: str = "float32") -> _Parts:
    return _Parts(
        Functional(lambda rngs: Embeddings(shape, rngs=rngs)),
        Functional(lambda rngs: Layer(shape, dtype=dtype, rngs=rngs)),
        Functional(lambda rngs: _norm(shape, rngs=rngs)),
    )


def init(key: jax.Array, *, shape: RotaryShape) -> Params:
    """Random parameters {"embeddings", "layers", "norm"}.

    A ModernBERT's first layer has a norm before its attention too, which is not used.
    """
    parts = _functionals(shape)
    first, second, third = jax.random.split(key, 3)
    layers = jax.vmap(parts.layer.init)(jax.random.split(second, shape.layers))
    return {"embeddings": parts.embeddings.init(first), "layers": layers, "norm": parts.norm.init(third)}


def apply(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: RotaryShape) -> TextOutput:
    """Encodes padded token ids (B, L), mask (B, L); pure. See `layers.bert.apply`."""
    return tail(params, token_ids[..., None], token_mask, shape=shape)


def cut(params: Params, first: int) -> tuple[Params, Params]:
    """Parameters below and from layer `first` on, counted from 0; -1 leaves nothing below."""
    return cut_layers(params, first, norm=params["norm"])


def join(params: Params, above: Params, first: int) -> Params:
    """The whole model with its upper part replaced."""
    return join_layers(cut_layers(params, first)[0], above) | {"norm": above["norm"]}


def prefix(params: Params, token_ids: jax.Array, token_mask: jax.Array, *, shape: RotaryShape) -> jax.Array:
    """Runs the frozen lower part; returns the input of the first trained layer, (B, L, d) float32. Pure."""
    return _layers(params, token_ids[..., None], one_a_row(token_mask), first=0, shape=shape)


def tail(
    params: Params,
    states: jax.Array,
    token_mask: jax.Array,
    *,
    shape: RotaryShape,
    packing: Packing | None = None,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> TextOutput:
    """Runs the trained upper part; pure. Arguments and output are those of `layers.bert.tail`."""
    rows = one_a_row(token_mask) if packing is None else packed_rows(packing)
    states = states if packing is None else pack(states, packing)
    first = shape.layers - count(params["layers"])
    states = _layers(params, states, rows, first=first, shape=shape, key=key, options=options).astype(jnp.float32)
    states = _functionals(shape).norm.bind(params["norm"])(states)
    states = states if packing is None else unpack(states, packing, token_mask)
    return read_out(states, token_mask, pool=shape.pool, marks=shape.marks)


def tunable(shape: RotaryShape) -> Tunable[TextOutput]:
    """How a model of this shape is trained."""
    return Tunable(
        layers=shape.layers,
        cut=cut,
        join=join,
        prefix=functools.partial(prefix, shape=shape),
        tail=functools.partial(tail, shape=shape),
    )


def _layers(
    params: Params,
    states: jax.Array,
    rows: Rows,
    *,
    first: int,
    shape: RotaryShape,
    key: jax.Array | None = None,
    options: TailOptions = PRETRAINED,
) -> jax.Array:
    """Runs the layers in `params`, of which `first` is the lowest, after the embeddings if they are among them."""
    parts, number = _functionals(shape, options.dtype), count(params["layers"])
    if "embeddings" in params:
        states = parts.embeddings.bind(params["embeddings"])(states[..., 0])
    places = range(first, first + number)
    is_local = np.array([shape.local[place % len(shape.local)] for place in places], bool)
    is_normed = np.array([place > 0 or shape.family != "modernbert" for place in places], bool)
    far, close = _sight(rows, shape, is_local=False), _sight(rows, shape, is_local=True)

    def run(one: Params, x: jax.Array, key: jax.Array | None) -> jax.Array:
        sight = _chosen(one["is_local"], close, far) if is_local.any() else far
        layer = parts.layer.bind(one["layer"])
        return layer(x, sight, rows.token, is_normed=one["is_normed"], dropout=options.dropout, key=key)

    each = {"layer": params["layers"], "is_local": is_local, "is_normed": is_normed}
    return run_layers(run, each, states, key=key, options=options)


def _sight(rows: Rows, shape: RotaryShape, *, is_local: bool) -> Sight:
    window = shape.window if is_local else None
    visible = near(rows, before=window, behind=0 if shape.causal else window)
    theta = shape.local_theta if is_local else shape.theta
    return Sight(visible, angles(rows.position, theta=theta, size=shape.head))


def _chosen(is_local: jax.Array, close: Sight, far: Sight) -> Sight:
    """One of the two; without a choice between masks, which ONNX Runtime has not."""
    visible = far.visible & (close.visible | ~is_local)  # the close ones are among the far ones
    return Sight(visible, jnp.where(is_local, close.angles, far.angles))
