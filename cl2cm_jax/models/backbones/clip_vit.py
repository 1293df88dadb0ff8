"""The image towers of CLIP and SigLIP (SigLIP 2 at fixed resolution too): pre-norm transformers over patches.

Read from a model folder of the Hugging Face layout, the text tower left out. The layers' parameters are stacked along a
leading axis and run by `lax.scan`. The model can be cut behind any layer: what lies below stays frozen (`prefix`), what
lies above is trained (`tail`).

Source: Radford et al. 2021 (arXiv 2103.00020), Zhai et al. 2023 (arXiv 2303.15343); this implementation is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones.outputs import AS_STORED, TailOptions, VisionOutput, run_layers
from cl2cm_jax.models.backbones.positions import interpolated
from cl2cm_jax.models.config_entries import MOST_LAYERS, MOST_PIXELS, Entries
from cl2cm_jax.models.functional import Functional, Params
from cl2cm_jax.models.hub_folder import linear, norm, relaid, stored_shape
from cl2cm_jax.models.pretrained import assign, check_shapes, shapes_of

_FAMILIES = {"clip": "clip", "clip_vision_model": "clip", "siglip": "siglip", "siglip_vision_model": "siglip"}
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": jax.nn.gelu,
}


class VitShape(NamedTuple):
    """What config.json says of the image tower.

    Attributes:
      family: "clip" (a class token; its normalised state is projected) or "siglip" (attention pools all states).
      image_size: side of a picture in pixels.
      patch: side of a patch in pixels.
      hidden: d.
      layers: transformer layers.
      heads: attention heads.
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
    """Pictures (B, H, W, 3) -> states (B, [1 +] N, d)."""

    def __init__(self, shape: VitShape, *, rngs: nnx.Rngs):
        clip = shape.family == "clip"
        self.patch = shape.patch
        self.project = nnx.Linear(3 * shape.patch**2, shape.hidden, use_bias=not clip, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((shape.hidden,))) if clip else None
        self.positions = nnx.Param(jnp.zeros((clip + shape.grid**2, shape.hidden)))
        self.norm = _layer_norm(shape, rngs) if clip else None

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


class Layer(nnx.Module):
    """Self-attention and MLP, each on its normalised input and added to it."""

    def __init__(self, shape: VitShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = shape.heads
        self.attention_norm = _layer_norm(shape, rngs, dtype)
        self.query, self.key, self.value, self.attended = (
            nnx.Linear(shape.hidden, shape.hidden, dtype=dtype, rngs=rngs) for _ in range(4)
        )
        self.mlp_norm = _layer_norm(shape, rngs, dtype)
        self.mlp = Mlp(shape, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps x (B, N, d) to (B, N, d)."""
        h = self.attention_norm(x)
        x = x + self.attended(_attend(self.query(h), self.key(h), self.value(h), heads=self.heads))
        return x + self.mlp(self.mlp_norm(x))


class Mlp(nnx.Module):
    """Two linear maps with an activation between."""

    def __init__(self, shape: VitShape, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.activation = shape.activation
        self.up = nnx.Linear(shape.hidden, shape.intermediate, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(shape.intermediate, shape.hidden, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(_ACTIVATIONS[self.activation](self.up(x)))


class ClipPool(nnx.Module):
    """The class token's state, normalised and projected: (B, 1 + N, d) -> grid (B, N, d), vector (B, p)."""

    def __init__(self, shape: VitShape, *, rngs: nnx.Rngs):
        self.norm = _layer_norm(shape, rngs)
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
        self.norm = _layer_norm(shape, rngs)
        self.probe = nnx.Param(jnp.zeros((1, hidden)))
        self.query, self.key, self.value, self.attended = (nnx.Linear(hidden, hidden, rngs=rngs) for _ in range(4))
        self.mlp_norm = _layer_norm(shape, rngs)
        self.mlp = Mlp(shape, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        grid = self.norm(x)
        probe = jnp.broadcast_to(self.probe[...], (len(x), *self.probe.shape))
        h = self.attended(_attend(self.query(probe), self.key(grid), self.value(grid), heads=self.heads))
        return grid, (h + self.mlp(self.mlp_norm(h)))[:, 0]


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, *, heads: int) -> jax.Array:
    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], heads, -1)

    return jax.nn.dot_product_attention(split(query), split(key), split(value)).reshape(query.shape)


def _layer_norm(shape: VitShape, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32) -> nnx.LayerNorm:
    return nnx.LayerNorm(shape.hidden, epsilon=shape.epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


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
        Functional(lambda rngs: _layer_norm(shape, rngs)),
    )


def init(key: jax.Array, *, shape: VitShape) -> Params:
    """Fresh parameters {"embeddings", "layers" with a leading axis of the layers, "pool"}."""
    parts = _functionals(shape)
    first, second, third = jax.random.split(key, 3)
    layers = jax.vmap(parts.layer.init)(jax.random.split(second, shape.layers))
    return {"embeddings": parts.embeddings.init(first), "layers": layers, "pool": parts.pool.init(third)}


def apply(params: Params, images: jax.Array, *, shape: VitShape) -> VisionOutput:
    """Encodes pictures; pure.

    Args:
      params: from `load` or `init`.
      images: (B, image_size, image_size, 3) float32, prepared as the model's preprocessing says.
      shape: from `read_shape`.

    Returns:
      The last layer's states of the grid (B, N, d), a mask that is all True, and the global vector (B, p).
    """
    return tail(params, images, shape=shape)


def cut(params: Params, first: int, *, shape: VitShape, pooled: bool) -> tuple[Params, Params]:
    """The parameters below and from layer `first` on, counted from 0; -1 leaves nothing below, not even the patches'.

    Without the global vector (`pooled`) the upper part has nothing that serves it alone: it would not be trained.
    """
    above = {"layers": jax.tree.map(lambda x: x[max(first, 0) :], params["layers"])}
    if pooled:
        above["pool"] = params["pool"]
    elif shape.family == "siglip":
        above["pool"] = {"norm": params["pool"]["norm"]}
    if first < 0:
        return {}, {"embeddings": params["embeddings"], **above}
    return {"embeddings": params["embeddings"], "layers": jax.tree.map(lambda x: x[:first], params["layers"])}, above


def prefix(params: Params, images: jax.Array, *, shape: VitShape, options: TailOptions = AS_STORED) -> jax.Array:
    """The states that layer `first` reads, (B, N, d) in the options' dtype: runs what `cut` has put below. Pure."""
    return _layers(params, images, shape=shape, options=options)


def tail(
    params: Params, states: jax.Array, *, shape: VitShape, pooled: bool = True, options: TailOptions = AS_STORED
) -> VisionOutput:
    """Runs what `cut` has put above; pure.

    Args:
      params: the upper part, with what is above it.
      states: from `prefix`; prepared pictures for the whole model.
      shape: from `read_shape`.
      pooled: as it was cut.
      options: how the layers are run; dropout is none.

    Returns:
      See `apply`; no global vector unless `pooled`.
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
    """Runs the layers that are there, behind the patches' embedding if that is there."""
    parts = _functionals(shape, options.dtype)
    if "embeddings" in params:
        states = parts.embeddings.bind(params["embeddings"])(states)
    return run_layers(lambda one, x, _: parts.layer.bind(one)(x), params["layers"], states, options=options)


def read_shape(folder: Path) -> VitShape:
    """Reads config.json: of the image tower alone, or of a model with both towers.

    Raises:
      UserError: the model is of another family, or an entry is missing or of no use; names it.
    """
    both = Entries(content=hub_folder.read_json(folder), folder=folder, missing=" of the image tower; get a fresh copy")
    family = _FAMILIES[both.one_of("model_type", _FAMILIES)]
    tower, clip = both.within("vision_config"), family == "clip"
    if tower.content.get("vision_use_head", True) is False:
        raise UserError(f"model folder {folder}: vision_use_head=false, no global vector; use another model")
    image_size = tower.whole("image_size", most=MOST_PIXELS)
    hidden, heads = tower.width_and_heads()
    projects = clip and hub_folder.has_tensor(folder, "visual_projection.weight")
    return VitShape(
        family=family,
        image_size=image_size,
        patch=tower.whole("patch_size", most=image_size),
        hidden=hidden,
        layers=tower.whole("num_hidden_layers", most=MOST_LAYERS),
        heads=heads,
        intermediate=tower.whole("intermediate_size"),
        epsilon=tower.epsilon("layer_norm_eps", default=1e-5 if clip else 1e-6),
        activation=tower.one_of("hidden_act", _ACTIVATIONS, default="quick_gelu" if clip else "gelu_pytorch_tanh"),
        projection=(both if "projection_dim" in both.content else tower).whole("projection_dim") if projects else 0,
    )


def load(folder: Path, shape: VitShape) -> Params:
    """Reads the weights into nested float32 parameters.

    The position table is interpolated to the grid of `shape` where the folder's is another one.

    Raises:
      UserError: tensors are missing, left over or of a wrong shape; names each.
    """
    tensors = hub_folder.read_tensors(folder, leave_out=_UNUSED)
    # newer files of the tower alone have no prefix
    stored, named = hub_folder.renamed(tensors, lambda name: name.removeprefix("vision_model."), source=folder)
    if shape.family == "siglip":
        stored = _split_attention(stored, hidden=shape.hidden, source=folder)
    if _POSITIONS in stored:
        stored[_POSITIONS] = interpolated(stored[_POSITIONS], grid=shape.grid, tokens=int(shape.family == "clip"))
    whole = _CLIP if shape.family == "clip" else _SIGLIP
    if shape.projection:
        whole = whole | {"pool/project/kernel": "visual_projection.weight"}
    abstract = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
    arrays = hub_folder.arranged(
        stored,
        once=whole,
        layer=_LAYER,
        prefix="encoder.layers.",
        shapes=shapes_of(abstract),
        source=folder,
        named=named,
        relay=_relaid,
        unrelaid=functools.partial(_stored_shape, patch=shape.patch),
    )
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=folder))


def _relaid(ours: str, array: np.ndarray) -> np.ndarray:
    """From torch's layout: linear (out, in), convolution (out, in, k, k) as a map of patches, probe (1, 1, d)."""
    if ours == "embeddings/project/kernel":
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    if ours == "pool/probe":
        return array[0]
    return relaid(ours, array)


def _stored_shape(ours: str, shape: tuple[int, ...], *, patch: int) -> tuple[int, ...]:
    """The shape in torch's layout of what `_relaid` gives this one."""
    if ours == "embeddings/project/kernel":
        return shape[1], 3, patch, patch
    return (1, *shape) if ours == "pool/probe" else stored_shape(ours, shape)


def _split_attention(stored: dict[str, np.ndarray], *, hidden: int, source: Path) -> dict[str, np.ndarray]:
    """SigLIP's pooling keeps query, key and value in one tensor; here each has its own. Raises UserError."""
    stored, joint = dict(stored), f"{_HEAD}attention.in_proj_"
    check_shapes(stored, {f"{joint}weight": (3 * hidden, hidden), f"{joint}bias": (3 * hidden,)}, source=source)
    for part in ("weight", "bias"):
        joined = stored.pop(f"{joint}{part}", None)
        if joined is not None:
            names = (f"{_HEAD}attention.{name}_proj.{part}" for name in ("q", "k", "v"))
            stored |= dict(zip(names, np.split(joined, 3), strict=True))
    return stored


_UNUSED = ("text_model.", "text_projection.", "logit_") + (
    "vision_model.embeddings.position_ids",
    "embeddings.position_ids",
)
_HEAD, _POSITIONS = "head.", "embeddings.position_embedding.weight"
_LAYER = {
    **norm("attention_norm", "layer_norm1"),
    **linear("query", "self_attn.q_proj"),
    **linear("key", "self_attn.k_proj"),
    **linear("value", "self_attn.v_proj"),
    **linear("attended", "self_attn.out_proj"),
    **norm("mlp_norm", "layer_norm2"),
    **linear("mlp/up", "mlp.fc1"),
    **linear("mlp/down", "mlp.fc2"),
}
_CLIP = {
    "embeddings/project/kernel": "embeddings.patch_embedding.weight",
    "embeddings/class_token": "embeddings.class_embedding",
    "embeddings/positions": _POSITIONS,
    **norm("embeddings/norm", "pre_layrnorm"),
    **norm("pool/norm", "post_layernorm"),
}
_SIGLIP = {
    **linear("embeddings/project", "embeddings.patch_embedding"),
    "embeddings/positions": _POSITIONS,
    **norm("pool/norm", "post_layernorm"),
    "pool/probe": f"{_HEAD}probe",
    **linear("pool/query", f"{_HEAD}attention.q_proj"),
    **linear("pool/key", f"{_HEAD}attention.k_proj"),
    **linear("pool/value", f"{_HEAD}attention.v_proj"),
    **linear("pool/attended", f"{_HEAD}attention.out_proj"),
    **norm("pool/mlp_norm", f"{_HEAD}layernorm"),
    **linear("pool/mlp/up", f"{_HEAD}mlp.fc1"),
    **linear("pool/mlp/down", f"{_HEAD}mlp.fc2"),
}
