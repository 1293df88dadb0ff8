"""The image towers of CLIP, MetaCLIP 2, SigLIP and SigLIP 2 from a model folder or a hub id.

Folders are those of transformers, with both towers or the image tower alone, or those of OpenCLIP.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbone import Location, VisionBackbone, VisionSpec, check_divisible
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_PIXELS
from cl2cm_jax.models.credits import Credits, folder_credits
from cl2cm_jax.models.dual_encoders import folder as dual
from cl2cm_jax.models.dual_encoders import open_clip
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.layers.positions import interpolated
from cl2cm_jax.models.layers.transformer import ACTIVATIONS
from cl2cm_jax.models.layers.vit import VitShape, apply, init, tunable
from cl2cm_jax.models.preprocess import PREPROCESSOR, Preprocess, preprocess_of, preprocessor, read_preprocess
from cl2cm_jax.models.pretrained import assign, check_shapes, shapes_of, write_safetensors

FIELD = "config.vision.path"
CPU_BATCH = 8  # pictures that a CPU computes at a time
MAX_LARGER = 4  # times the model's own size: positions are interpolated
MAX_ATTENTION = 16_000_000_000  # bytes, limit for the attention of one layer over `CPU_BATCH` pictures
# Source: config.json of openai/clip-vit-base-patch32, its image tower.
CLIP_B32 = VitShape("clip", 224, 32, 768, 12, 12, 3072, 1e-5, "quick_gelu", 512)
_CLASSES = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "metaclip_2_vision_model": "MetaClip2VisionModelWithProjection",
    "siglip_vision_model": "SiglipVisionModel",
}
_LAYERS = "encoder.layers."
_HEAD, _POSITIONS, _PROJECTION = "head.", "embeddings.position_embedding.weight", "visual_projection.weight"
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
_PROJECTS = {"pool/project/kernel": _PROJECTION}


@dataclass(frozen=True, kw_only=True)
class ClipVit(VisionBackbone):
    """An image tower with its weights.

    Attributes:
      shape: of the model.
      content: its configuration, as transformers writes that of the tower alone.
    """

    shape: VitShape
    content: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Writes the image tower and its preprocessing as transformers does, at the size that it was trained at."""
        shape = self.shape
        write_safetensors(path / hub_folder.WEIGHTS, stored(self.params, shape))
        tower = {"projection_dim": shape.projection} if shape.projection else {}
        tower |= {"architectures": [self.hub_class], "image_size": shape.image_size}
        hub_folder.write_json(path / hub_folder.CONFIG, hub_folder.portable_config(self.content) | tower)
        hub_folder.write_json(path / PREPROCESSOR, preprocessor(self.preprocess))


class ClipVitSpec(VisionSpec):
    """CLIP or SigLIP from a model folder or a hub id, or of CLIP ViT-B/32's sizes where it is not there."""

    model_folder = has_layers = True
    requirement = "transformers"
    families = dual.families("vision")
    sizes = ("image_size", "patch", "hidden", "layers", "heads", "intermediate", "projection")

    def load(self, path: Location, *, image_size: int = 0) -> VisionBackbone:
        folder = self.folder(path)
        tower = dual.read_tower(folder, "vision")
        shape = _shape(folder, tower)
        preprocess = _preprocess(folder, image_size=shape.image_size)
        _check_size(shape, image_size)
        if image_size % shape.patch:
            raise UserError(
                f"config.vision.image_size={image_size} is not a multiple of the model's patch, {shape.patch}"
            )
        if image_size:
            shape, preprocess = shape._replace(image_size=image_size), preprocess.at(image_size)
        content = {**tower.entries.content, "model_type": tower.model_type}
        return _backbone(shape, preprocess, load(folder, shape), content=content)

    def folder(self, path: Location) -> Path:
        return hub_folder.locate(path, field=FIELD)

    def hashes(self, path: Location) -> dict[str, str]:
        return hub_folder.hashes(self.folder(path), also=(open_clip.CONFIG,))

    def fingerprint(self, path: Location) -> str:
        return hub_folder.fingerprint(self.folder(path))

    def credits(self, path: Location) -> Credits:
        return folder_credits(path or "", self.folder(path))

    def abstract(self, path: Location, sizes: Mapping[str, int], *, image_size: int = 0) -> tuple[VisionBackbone, str]:
        there = bool(path) and Path(path or "").is_dir()
        origin = path if there else f"CLIP ViT-B/32's sizes ({path or 'no path'} is not a folder here)"
        shape = read_shape(Path(path or "")) if there else CLIP_B32
        shape = shape._replace(**({"image_size": image_size} if image_size else {}) | dict(sizes))
        check_divisible(shape, "hidden", "heads")
        check_divisible(shape, "image_size", "patch")
        half = 127.5, 127.5, 127.5
        plain = Preprocess(image_size=shape.image_size, shorter_side=None, filter="bicubic", mean=half, scale=half)
        params = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
        note = " ".join([f"{origin},", *(f"{name} {getattr(shape, name)}" for name in self.sizes)])
        content = {"model_type": f"{shape.family}_vision_model"}
        return _backbone(shape, plain, params, content=content), note


SPEC = ClipVitSpec()


def _backbone(shape: VitShape, preprocess: Preprocess, params: Params, *, content: Mapping[str, Any]) -> ClipVit:
    return ClipVit(
        frames=shape.grid**2,
        dim=shape.hidden,
        pooled=shape.pooled,
        params=params,
        apply=functools.partial(apply, shape=shape),
        preprocess=preprocess,
        batch_size=CPU_BATCH if jax.default_backend() == "cpu" else 256,
        tunable=tunable(shape),
        hub_class=_CLASSES[content["model_type"]],
        shape=shape,
        content=content,
    )


def _check_size(shape: VitShape, image_size: int) -> None:
    """Refuses a size that the positions are not meant for, or whose attention needs too much memory.

    Raises:
      UserError: it is refused.
    """
    if image_size > MAX_LARGER * shape.image_size:
        raise UserError(
            f"config.vision.image_size={image_size} is over {MAX_LARGER} times the model's own size, "
            f"{shape.image_size}; use {MAX_LARGER * shape.image_size} or less"
        )
    side = image_size or shape.image_size
    needed = 4 * CPU_BATCH * shape.heads * (side // shape.patch) ** 4
    if needed > MAX_ATTENTION:
        raise UserError(
            f"config.vision.image_size={image_size}: the attention of {side} x {side} pixels in patches of "
            f"{shape.patch} needs {needed:,} bytes, over the limit of {MAX_ATTENTION:,}; use a smaller size"
        )


def _preprocess(folder: Path, *, image_size: int) -> Preprocess:
    """The preprocessing of a folder, of OpenCLIP or of transformers."""
    if not open_clip.is_open_clip(folder):
        return read_preprocess(folder, image_size=image_size)
    entries = open_clip.preprocessor(folder, image_size=image_size)
    return preprocess_of(entries, folder=folder, image_size=image_size, file=open_clip.CONFIG)


def read_shape(folder: Path) -> VitShape:
    """Reads the configuration of the image tower, alone or of a model with both towers.

    Raises:
      UserError: the model is of another family, or an entry is missing or invalid; names it.
    """
    return _shape(folder, dual.read_tower(folder, "vision"))


def _shape(folder: Path, read: dual.Tower) -> VitShape:
    tower, clip = read.entries, read.family == "clip"
    if tower.content.get("vision_use_head", True) is False:
        raise UserError(f"model folder {folder}: vision_use_head=false, no global vector; use another model")
    image_size = tower.whole("image_size", maximum=MAX_PIXELS)
    hidden, heads = tower.width_and_heads()
    projects = clip and dual.projects(folder, "vision")
    return VitShape(
        family=read.family,
        image_size=image_size,
        patch=tower.whole("patch_size", maximum=image_size),
        hidden=hidden,
        layers=tower.whole("num_hidden_layers", maximum=MAX_LAYERS),
        heads=heads,
        intermediate=tower.whole("intermediate_size"),
        epsilon=tower.epsilon("layer_norm_eps", default=1e-5 if clip else 1e-6),
        activation=tower.one_of("hidden_act", ACTIVATIONS, default="quick_gelu" if clip else "gelu_pytorch_tanh"),
        projection=tower.whole("projection_dim") if projects else 0,
    )


def load(folder: Path, shape: VitShape) -> Params:
    """Reads the weights into nested float32 parameters.

    The position table is interpolated to the grid of `shape`.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape; names each.
    """
    tensors, named = dual.read_tensors(folder, "vision")
    if shape.family == "siglip":
        tensors = _split_attention(tensors, hidden=shape.hidden, source=folder)
    if _POSITIONS in tensors:
        tensors[_POSITIONS] = interpolated(tensors[_POSITIONS], grid=shape.grid, tokens=int(shape.family == "clip"))
    abstract = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
    arrays = hub_folder.arranged(
        tensors,
        once=_once(shape),
        layer=_LAYER,
        prefix=_LAYERS,
        shapes=shapes_of(abstract),
        source=folder,
        named=named,
        relay=_relaid,
        unrelaid=functools.partial(_stored_shape, patch=shape.patch),
    )
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=folder))


def _once(shape: VitShape) -> dict[str, str]:
    """Our names -> torch's, outside the layers."""
    return (_CLIP if shape.family == "clip" else _SIGLIP) | (_PROJECTS if shape.projection else {})


def stored(params: Params, shape: VitShape) -> dict[str, np.ndarray]:
    """The tensors of the whole model in the names and layout of transformers."""
    arrays = {name: np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    unrelay = functools.partial(_unrelaid, patch=shape.patch)
    tensors = hub_folder.unarranged(arrays, once=_once(shape), layer=_LAYER, prefix=_LAYERS, unrelay=unrelay)
    for part in ("weight", "bias") if shape.family == "siglip" else ():
        parts = [tensors.pop(f"{_HEAD}attention.{name}_proj.{part}") for name in ("q", "k", "v")]
        tensors[f"{_HEAD}attention.in_proj_{part}"] = np.concatenate(parts)
    return {name if name == _PROJECTION else f"vision_model.{name}": array for name, array in tensors.items()}


def _unrelaid(ours: str, array: np.ndarray, *, patch: int) -> np.ndarray:
    """The inverse of `_relaid`."""
    if ours == "embeddings/project/kernel":
        return array.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    if ours == "pool/probe":
        return array[None]
    return hub_folder.relaid(ours, array)


def _relaid(ours: str, array: np.ndarray) -> np.ndarray:
    """From torch's layout: linear (out, in), convolution (out, in, k, k) as a map of patches, probe (1, 1, d)."""
    if ours == "embeddings/project/kernel":
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    if ours == "pool/probe":
        return array[0]
    return hub_folder.relaid(ours, array)


def _stored_shape(ours: str, shape: tuple[int, ...], *, patch: int) -> tuple[int, ...]:
    """The shape in torch's layout of what `_relaid` turns into this one."""
    if ours == "embeddings/project/kernel":
        return shape[1], 3, patch, patch
    return (1, *shape) if ours == "pool/probe" else hub_folder.stored_shape(ours, shape)


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
