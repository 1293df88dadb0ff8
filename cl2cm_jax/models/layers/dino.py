"""The image towers of DINOv2 and DINOv3: pre-norm transformers over patches with scaled residuals.

DINOv2 adds learned positions, DINOv3 turns queries and keys of patches by rotary ones; both may have register tokens
beside the class token. Layers are stacked, run and cut as in `layers.vit`.

Source: Oquab et al. 2023 (arXiv 2304.07193), Darcet et al. 2023 (registers, arXiv 2309.16588), Siméoni et al. 2025
(arXiv 2508.10104).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.models.backbone import TailOptions, Tunable, VisionOutput
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.pre_norm import attend
from cl2cm_jax.models.layers.transformer import (
    ACTIVATIONS,
    PRETRAINED,
    cut_layers,
    join_layers,
    layer_norm,
    run_layers,
)


class DinoShape(NamedTuple):
    """Sizes and choices of the image tower in config.json.

    Attributes:
      family: "dinov2" (learned positions) or "dinov3" (rotary ones).
      image_size, patch: sides of an image and of a patch in pixels.
      hidden: d.
      layers, heads: of the transformer.
      intermediate: width of the MLP.
      epsilon: of the layer norms.
      activation: of the MLP.
      registers: register tokens.
      gated: whether the MLP is gated.
      biases: whether query, key, value, the attention's output and the MLP have one.
      theta: base of the rotary frequencies.
    """

    family: str
    image_size: int
    patch: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    epsilon: float
    activation: str
    registers: int = 0
    gated: bool = False
    biases: tuple[bool, bool, bool, bool, bool] = (True, True, True, True, True)
    theta: float = 100.0

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch

    @property
    def tokens(self) -> int:
        """Tokens before those of the patches: the class token and the registers."""
        return 1 + self.registers


class Embeddings(nnx.Module):
    """Images (B, H, W, 3) -> states (B, 1 + R + N, d)."""

    def __init__(self, shape: DinoShape, *, rngs: nnx.Rngs):
        self.patch, learned = shape.patch, shape.family == "dinov2"
        self.project = nnx.Linear(3 * shape.patch**2, shape.hidden, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((shape.hidden,)))
        has_registers = shape.registers > 0 or not learned
        self.registers = nnx.Param(jnp.zeros((shape.registers, shape.hidden))) if has_registers else None
        self.positions = nnx.Param(jnp.zeros((1 + shape.grid**2, shape.hidden))) if learned else None

    def __call__(self, images: jax.Array) -> jax.Array:
        batch, height, width, channels = images.shape
        rows, columns = height // self.patch, width // self.patch
        patches = images.reshape(batch, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        x = self.project(patches.reshape(batch, rows * columns, -1))
        first = jnp.broadcast_to(self.class_token[...], (batch, 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1)
        if self.positions is not None:
            x = x + self.positions[...]
        if self.registers is None:
            return x
        registers = jnp.broadcast_to(self.registers[...], (batch, *self.registers.shape))
        return jnp.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)


class Layer(nnx.Module):
    """Self-attention and MLP, each on normalised input, scaled by channel, with a residual connection."""

    def __init__(self, shape: DinoShape, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        hidden, inner = shape.hidden, shape.intermediate
        self.heads, self.activation = shape.heads, shape.activation
        query, key, value, attended, mlp = shape.biases

        def linear(features: int, size: int, *, bias: bool) -> nnx.Linear:
            return nnx.Linear(features, size, use_bias=bias, dtype=dtype, rngs=rngs)

        self.attention_norm = layer_norm(hidden, shape.epsilon, rngs=rngs, dtype=dtype)
        self.query, self.key, self.value, self.attended = (
            linear(hidden, hidden, bias=bias) for bias in (query, key, value, attended)
        )
        self.attention_scale = nnx.Param(jnp.ones((hidden,)))
        self.mlp_norm = layer_norm(hidden, shape.epsilon, rngs=rngs, dtype=dtype)
        self.gate = linear(hidden, inner, bias=mlp) if shape.gated else None
        self.up, self.down = linear(hidden, inner, bias=mlp), linear(inner, hidden, bias=mlp)
        self.mlp_scale = nnx.Param(jnp.ones((hidden,)))

    def __call__(self, x: jax.Array, turns: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """Maps x (B, L, d) to (B, L, d); `turns` are cosines and sines (L, d / heads) of rotary positions."""
        h = self.attention_norm(x)
        query, key = (self._turned(states, turns) for states in (self.query(h), self.key(h)))
        h = self.attended(attend(query, key, self.value(h), heads=self.heads))
        x = x + h * self.attention_scale[...].astype(h.dtype)
        h = self.mlp_norm(x)
        activation, up = ACTIVATIONS[self.activation], self.up(h)
        h = self.down(activation(up) if self.gate is None else activation(self.gate(h)) * up)
        return x + h * self.mlp_scale[...].astype(h.dtype)

    def _turned(self, x: jax.Array, turns: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        if turns is None:
            return x
        heads = x.reshape(*x.shape[:2], self.heads, -1)
        first, second = jnp.split(heads, 2, axis=-1)
        cosine, sine = (part[:, None].astype(x.dtype) for part in turns)
        return (heads * cosine + jnp.concatenate([-second, first], axis=-1) * sine).reshape(x.shape)


def _turns(shape: DinoShape, length: int) -> tuple[jax.Array, jax.Array] | None:
    """Cosines and sines (L, d / heads) of the rotary positions of L tokens; those before the patches are not turned."""
    if shape.family == "dinov2":
        return None
    size, grid = shape.hidden // shape.heads, int(np.sqrt(length - shape.tokens))
    frequencies = 1 / shape.theta ** np.arange(0, 1, 4 / size, dtype=np.float32)
    centres = 2 * (np.arange(grid, dtype=np.float32) + 0.5) / grid - 1
    places = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = np.tile((2 * np.pi * places[:, :, None] * frequencies).reshape(len(places), -1), 2)
    angles = np.concatenate([np.zeros((shape.tokens, size)), angles])
    return jnp.asarray(np.cos(angles), jnp.float32), jnp.asarray(np.sin(angles), jnp.float32)


class _Parts(NamedTuple):
    embeddings: Functional[Embeddings]
    layer: Functional[Layer]
    norm: Functional[nnx.LayerNorm]


@functools.cache
def _functionals(shape: DinoShape, dtype: str = "float32") -> _Parts:
    return _Parts(
        Functional(lambda rngs: Embeddings(shape, rngs=rngs)),
        Functional(lambda rngs: Layer(shape, dtype=dtype, rngs=rngs)),
        Functional(lambda rngs: layer_norm(shape.hidden, shape.epsilon, rngs=rngs)),
    )


def init(key: jax.Array, *, shape: DinoShape) -> Params:
    """Random parameters {"embeddings", "layers", "pool"}."""
    parts = _functionals(shape)
    first, second, third = jax.random.split(key, 3)
    layers = jax.vmap(parts.layer.init)(jax.random.split(second, shape.layers))
    return {"embeddings": parts.embeddings.init(first), "layers": layers, "pool": {"norm": parts.norm.init(third)}}


def apply(params: Params, images: jax.Array, *, shape: DinoShape) -> VisionOutput:
    """Encodes images (B, image_size, image_size, 3) float32, preprocessed; pure. See `tail`."""
    return tail(params, images, shape=shape)


def cut(params: Params, first: int, *, pooled: bool) -> tuple[Params, Params]:
    """The parameters below and from layer `first` on; -1 leaves nothing below. The last norm is of grid and vector."""
    del pooled
    return cut_layers(params, first, pool=params["pool"])


def join(params: Params, above: Params, first: int) -> Params:
    """The whole model with its upper part replaced."""
    below, _ = cut_layers(params, first)
    return join_layers(below, above) | {"pool": above["pool"]}


def prefix(params: Params, images: jax.Array, *, shape: DinoShape, options: TailOptions = PRETRAINED) -> jax.Array:
    """Runs the frozen lower part; returns the input of the first trained layer, (B, L, d) in `options.dtype`. Pure."""
    return _layers(params, images, shape=shape, options=options)


def tail(
    params: Params, states: jax.Array, *, shape: DinoShape, pooled: bool = True, options: TailOptions = PRETRAINED
) -> VisionOutput:
    """Runs the trained upper part; pure. Arguments as of `layers.vit.tail`.

    Returns:
      The normalised states of the grid (B, N, d), a mask that is all True, and that of the class token (B, d) if
      `pooled`.
    """
    states = _layers(params, states, shape=shape, options=options).astype(jnp.float32)
    states = _functionals(shape).norm.bind(params["pool"]["norm"])(states)
    grid = states[:, shape.tokens :]
    return VisionOutput(grid, jnp.ones(grid.shape[:2], bool), states[:, 0] if pooled else None)


def _layers(params: Params, states: jax.Array, *, shape: DinoShape, options: TailOptions) -> jax.Array:
    """Runs the layers in `params`, after the patch embedding if it is among them."""
    parts = _functionals(shape, options.dtype)
    if "embeddings" in params:
        states = parts.embeddings.bind(params["embeddings"])(states)
    turns = _turns(shape, states.shape[1])
    return run_layers(lambda one, x, _: parts.layer.bind(one)(x, turns), params["layers"], states, options=options)


def tunable(shape: DinoShape) -> Tunable[VisionOutput]:
    """How an image tower of this shape is trained."""
    return Tunable(
        layers=shape.layers,
        cut=cut,
        join=join,
        prefix=functools.partial(prefix, shape=shape),
        tail=functools.partial(tail, shape=shape),
    )
