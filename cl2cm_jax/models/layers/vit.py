"""The image towers of CLIP and SigLIP (SigLIP 2 at fixed resolution too): pre-norm transformers over patches.

The layers' parameters are stacked and run by `lax.scan` (`layers.transformer`). The model can be cut at any layer: the
part below is frozen (`prefix`), the part above is trained (`tail`).

Source: Radford et al. 2021 (arXiv 2103.00020), Zhai et al. 2023 (arXiv 2303.15343).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cl2cm_jax.models.backbone import TailOptions, Tunable, VisionOutput
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.layers.pre_norm import Layer, Mlp, attend
from cl2cm_jax.models.layers.transformer import (
    PRETRAINED,
    cut_layers,
    join_layers,
    layer_norm,
    run_layers,
)


class VitShape(NamedTuple):
    """Sizes and choices of the image tower in config.json.

    Attributes:
      family: "clip" (a class token; its normalised state is projected) or "siglip" (attention pools all states).
      image_size, patch: sides of an image and of a patch in pixels.
      hidden: d.
      layers, heads: of the transformer.
      intermediate: width of the MLP.
      epsilon: of the layer norms.
      activation: of the MLP.
      projection: size of CLIP's projected vector; 0 where the folder has no projection.
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
    projection: int

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch

    @property
    def pooled(self) -> int:
        """Size of the global vector."""
        return self.projection or self.hidden


class Embeddings(nnx.Module):
    """Images (B, H, W, 3) -> states (B, [1 +] N, d)."""

    def __init__(self, shape: VitShape, *, rngs: nnx.Rngs):
        clip = shape.family == "clip"
        self.patch = shape.patch
        self.project = nnx.Linear(3 * shape.patch**2, shape.hidden, use_bias=not clip, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((shape.hidden,))) if clip else None
        self.positions = nnx.Param(jnp.zeros((clip + shape.grid**2, shape.hidden)))
        self.norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs) if clip else None

    def __call__(self, images: jax.Array) -> jax.Array:
        batch, height, width, channels = images.shape
        rows, columns = height // self.patch, width // self.patch
        patches = images.reshape(batch, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        x = self.project(patches.reshape(batch, rows * columns, -1))
        if self.class_token is not None:
            first = jnp.broadcast_to(self.class_token[...], (batch, 1, x.shape[-1]))
            x = jnp.concatenate([first, x], axis=1)
        x = x + self.positions[...]
        return x if self.norm is None else self.norm(x)


class ClipPool(nnx.Module):
    """The class token's state, normalised and projected: (B, 1 + N, d) -> grid (B, N, d), vector (B, p)."""

    def __init__(self, shape: VitShape, *, rngs: nnx.Rngs):
        self.norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs)
        size = shape.projection
        self.project = nnx.Linear(shape.hidden, size, use_bias=False, rngs=rngs) if size else None

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        pooled = self.norm(x[:, 0])
        return x[:, 1:], pooled if self.project is None else self.project(pooled)


class SiglipPool(nnx.Module):
    """One learned query attends over the normalised states: (B, N, d) -> grid (B, N, d), vector (B, d)."""

    def __init__(self, shape: VitShape, *, rngs: nnx.Rngs):
        hidden = shape.hidden
        self.heads = shape.heads
        self.norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs)
        self.probe = nnx.Param(jnp.zeros((1, hidden)))
        self.query, self.key, self.value, self.attended = (nnx.Linear(hidden, hidden, rngs=rngs) for _ in range(4))
        self.mlp_norm = layer_norm(shape.hidden, shape.epsilon, rngs=rngs)
        self.mlp = Mlp(shape, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        grid = self.norm(x)
        probe = jnp.broadcast_to(self.probe[...], (x.shape[0], *self.probe.shape))
        h = self.attended(attend(self.query(probe), self.key(grid), self.value(grid), heads=self.heads))
        return grid, (h + self.mlp(self.mlp_norm(h)))[:, 0]


class _Parts(NamedTuple):
    embeddings: Functional[Embeddings]
    layer: Functional[Layer]
    pool: Functional[Any]
    norm: Functional[nnx.LayerNorm]


@functools.cache
def _functionals(shape: VitShape, dtype: str = "float32") -> _Parts:
    pool = ClipPool if shape.family == "clip" else SiglipPool
    return _Parts(
        Functional(lambda rngs: Embeddings(shape, rngs=rngs)),
        Functional(lambda rngs: Layer(shape, dtype=dtype, rngs=rngs)),
        Functional(lambda rngs: pool(shape, rngs=rngs)),
        Functional(lambda rngs: layer_norm(shape.hidden, shape.epsilon, rngs=rngs)),
    )


def init(key: jax.Array, *, shape: VitShape) -> Params:
    """Random parameters {"embeddings", "layers", "pool"}."""
    parts = _functionals(shape)
    first, second, third = jax.random.split(key, 3)
    layers = jax.vmap(parts.layer.init)(jax.random.split(second, shape.layers))
    return {"embeddings": parts.embeddings.init(first), "layers": layers, "pool": parts.pool.init(third)}


def apply(params: Params, images: jax.Array, *, shape: VitShape) -> VisionOutput:
    """Encodes images (B, image_size, image_size, 3) float32, preprocessed; pure. See `tail`."""
    return tail(params, images, shape=shape)


def cut(params: Params, first: int, *, shape: VitShape, pooled: bool) -> tuple[Params, Params]:
    """The parameters below and from layer `first` on, counted from 0; -1 leaves nothing below.

    Without the global vector (`pooled`), parameters that serve it alone are left out: they would not be trained.
    """
    head = {"pool": params["pool"]} if pooled else {}
    if not pooled and shape.family == "siglip":
        head = {"pool": {"norm": params["pool"]["norm"]}}
    return cut_layers(params, first, **head)


def join(params: Params, above: Params, first: int) -> Params:
    """The whole model with its upper part replaced."""
    below, _ = cut_layers(params, first)
    return join_layers(below, above) | {"pool": params["pool"] | above.get("pool", {})}


def prefix(params: Params, images: jax.Array, *, shape: VitShape, options: TailOptions = PRETRAINED) -> jax.Array:
    """Runs the frozen lower part; returns the input of the first trained layer, (B, N, d) in `options.dtype`. Pure."""
    return _layers(params, images, shape=shape, options=options)


def tail(
    params: Params, states: jax.Array, *, shape: VitShape, pooled: bool = True, options: TailOptions = PRETRAINED
) -> VisionOutput:
    """Runs the trained upper part; pure.

    Args:
      params: the upper part; the whole model if it was cut at -1.
      states: from `prefix`; preprocessed images for the whole model.
      shape: of the model.
      pooled: as it was cut.
      options: how the layers are run; dropout is not used.

    Returns:
      The last layer's states of the grid (B, N, d), a mask that is all True, and the global vector (B, p) if `pooled`.
    """
    states = _layers(params, states, shape=shape, options=options).astype(jnp.float32)
    parts = _functionals(shape)
    if pooled:
        grid, vector = parts.pool.bind(params["pool"])(states)
    else:
        vector = None
        grid = states[:, 1:] if shape.family == "clip" else parts.norm.bind(params["pool"]["norm"])(states)
    return VisionOutput(features=grid, mask=jnp.ones(grid.shape[:2], bool), pooled=vector)


def _layers(params: Params, states: jax.Array, *, shape: VitShape, options: TailOptions) -> jax.Array:
    """Runs the layers in `params`, after the patch embedding if it is among them."""
    parts = _functionals(shape, options.dtype)
    if "embeddings" in params:
        states = parts.embeddings.bind(params["embeddings"])(states)
    return run_layers(lambda one, x, _: parts.layer.bind(one)(x), params["layers"], states, options=options)


def tunable(shape: VitShape) -> Tunable[VisionOutput]:
    """How an image tower of this shape is trained."""
    return Tunable(
        layers=shape.layers,
        cut=functools.partial(cut, shape=shape),
        join=join,
        prefix=functools.partial(prefix, shape=shape),
        tail=functools.partial(tail, shape=shape),
    )
