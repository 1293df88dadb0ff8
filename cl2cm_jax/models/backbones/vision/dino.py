"""DINOv2, with registers or without, and DINOv3's vision transformers from a model folder or a hub id.

The global vector is the class token's normalised state. A picture is as large as preprocessor_config.json says; learned
positions are interpolated to it, as transformers does.
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
from cl2cm_jax.models.config_entries import MAX_LAYERS, MAX_PIXELS, Entries
from cl2cm_jax.models.credits import Credits, folder_credits
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.hub_folder import linear, norm
from cl2cm_jax.models.layers.dino import DinoShape, apply, init, tunable
from cl2cm_jax.models.layers.positions import interpolated
from cl2cm_jax.models.layers.transformer import ACTIVATIONS
from cl2cm_jax.models.preprocess import PREPROCESSOR, Preprocess, picture_size, preprocessor, read_preprocess
from cl2cm_jax.models.pretrained import assign, shapes_of, write_safetensors

FIELD = "config.vision.path"
CPU_BATCH = 8  # pictures that a CPU computes at a time
MAX_TOKENS = 5_000  # of a picture: the scores of attention take memory with their square
# Source: config.json of facebook/dinov2-base; pictures of 224 pixels.
DINOV2_B14 = DinoShape("dinov2", 224, 14, 768, 12, 12, 3072, 1e-6, "gelu")
_CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}
_PREFIXES = ("dinov2_with_registers.", "dinov2.", "dinov3_vit.")  # of folders of models with a head for a task
_NOT_READ = ("classifier.", "embeddings.mask_token", *(f"{prefix}embeddings.mask_token" for prefix in _PREFIXES))
_POSITIONS = "embeddings.position_embeddings"
_BOTH = {"attention_scale": "layer_scale1.lambda1", "mlp_scale": "layer_scale2.lambda1"}
_BOTH |= norm("attention_norm", "norm1") | norm("mlp_norm", "norm2")
_V2 = {
    **_BOTH,
    **linear("query", "attention.attention.query"),
    **linear("key", "attention.attention.key"),
    **linear("value", "attention.attention.value"),
    **linear("attended", "attention.output.dense"),
}
_V3 = {
    **_BOTH,
    **linear("query", "attention.q_proj"),
    **linear("key", "attention.k_proj"),
    **linear("value", "attention.v_proj"),
    **linear("attended", "attention.o_proj"),
    **linear("up", "mlp.up_proj"),
    **linear("down", "mlp.down_proj"),
}


@dataclass(frozen=True, kw_only=True)
class Dino(VisionBackbone):
    """An image tower with its weights.

    Attributes:
      shape: of the model.
      content: config.json.
    """

    shape: DinoShape
    content: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Writes the model and its preprocessing as transformers does, with positions of the size it is used at."""
        shape = self.shape
        write_safetensors(path / hub_folder.WEIGHTS, stored(self.params, shape))
        own = {"architectures": [self.hub_class], "image_size": shape.image_size}
        hub_folder.write_json(path / hub_folder.CONFIG, hub_folder.portable_config(self.content) | own)
        hub_folder.write_json(path / PREPROCESSOR, preprocessor(self.preprocess))


class DinoSpec(VisionSpec):
    """DINOv2 or DINOv3 from a model folder or a hub id, or of DINOv2-base's sizes where it is not there."""

    model_folder = has_layers = True
    families = tuple(_CLASSES)
    sizes = ("image_size", "patch", "hidden", "layers", "heads", "intermediate")

    def load(self, path: Location, *, image_size: int = 0) -> VisionBackbone:
        folder = self.folder(path)
        shape, content = read_shape(folder)
        own = picture_size(folder) or shape.image_size
        preprocess = read_preprocess(folder, image_size=own)
        if image_size:
            own, preprocess = image_size, preprocess.at(image_size)
        if own % shape.patch:
            where = f"config.vision.image_size={own}" if image_size else f"model folder {folder}: {PREPROCESSOR}: {own}"
            raise UserError(f"{where} is not a multiple of the model's patch, {shape.patch}; correct it")
        shape = shape._replace(image_size=own)
        if shape.grid**2 > MAX_TOKENS:
            limit = shape.patch * int(MAX_TOKENS**0.5)
            raise UserError(f"config.vision.image_size={own} makes {shape.grid**2:,} patches; use at most {limit}")
        return _backbone(shape, preprocess, load(folder, shape), content=content)

    def folder(self, path: Location) -> Path:
        return hub_folder.locate(path, field=FIELD)

    def fingerprint(self, path: Location) -> str:
        return hub_folder.fingerprint(self.folder(path))

    def credits(self, path: Location) -> Credits:
        return folder_credits(path or "", self.folder(path))

    def abstract(self, path: Location, sizes: Mapping[str, int], *, image_size: int = 0) -> tuple[VisionBackbone, str]:
        there = bool(path) and Path(path or "").is_dir()
        origin = path if there else f"DINOv2-base's sizes ({path or 'no path'} is not a folder here)"
        shape, content = read_shape(Path(path or "")) if there else (DINOV2_B14, {"model_type": "dinov2"})
        shape = shape._replace(**({"image_size": image_size} if image_size else {}) | dict(sizes))
        check_divisible(shape, "hidden", "heads")
        check_divisible(shape, "image_size", "patch")
        half = 127.5, 127.5, 127.5
        plain = Preprocess(image_size=shape.image_size, shorter_side=None, filter="bicubic", mean=half, scale=half)
        params = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
        note = " ".join([f"{origin},", *(f"{name} {getattr(shape, name)}" for name in self.sizes)])
        return _backbone(shape, plain, params, content=content), note


SPEC = DinoSpec()


def _backbone(
    shape: DinoShape,
    preprocess: Preprocess,
    params: Params,
    *,
    content: Mapping[str, Any],
) -> Dino:
    return Dino(
        frames=shape.grid**2,
        dim=shape.hidden,
        pooled=shape.hidden,
        params=params,
        apply=functools.partial(apply, shape=shape),
        preprocess=preprocess,
        batch_size=CPU_BATCH if jax.default_backend() == "cpu" else 256,
        tunable=tunable(shape),
        hub_class=_CLASSES[content["model_type"]],
        shape=shape,
        content=content,
    )


def read_shape(folder: Path) -> tuple[DinoShape, Mapping[str, Any]]:
    """Reads config.json: sizes and choices, and the entries.

    Raises:
      UserError: the model is of another family or variant, or an entry is missing or invalid; names it.
    """
    c = Entries(content=hub_folder.read_json(folder), folder=folder, missing="; get a fresh copy")
    if c.content.get("model_type") == "dinov3_convnext":
        raise UserError(
            f"model folder {folder}: model_type='dinov3_convnext' is a convolutional DINOv3, which is not supported; "
            "use one of its vision transformers, such as facebook/dinov3-vitb16-pretrain-lvd1689m"
        )
    name = c.one_of("model_type", tuple(_CLASSES))
    image_size = c.whole("image_size", maximum=MAX_PIXELS, default=224)
    hidden, heads = c.width_and_heads()
    shape = DinoShape(
        family="dinov3" if name == "dinov3_vit" else "dinov2",
        image_size=image_size,
        patch=c.whole("patch_size", maximum=image_size),
        hidden=hidden,
        layers=c.whole("num_hidden_layers", maximum=MAX_LAYERS),
        heads=heads,
        intermediate=1,
        epsilon=c.epsilon("layer_norm_eps", default=1e-5 if name == "dinov3_vit" else 1e-6),
        activation=c.one_of("hidden_act", ACTIVATIONS, default="gelu"),
        registers=0 if name == "dinov2" else c.whole("num_register_tokens", minimum=0, maximum=100, default=4),
    )
    return (_v3(c, shape) if shape.family == "dinov3" else _v2(c, shape)), c.content


def _v2(c: Entries, shape: DinoShape) -> DinoShape:
    """The MLP of DINOv2: gated in the largest models."""
    inner, gated = (
        int(shape.hidden * c.positive("mlp_ratio", default=4, maximum=100)),
        c.flag("use_swiglu_ffn", default=False),
    )
    bias = c.flag("qkv_bias", default=True)
    if gated:
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
    activation = "silu" if gated else shape.activation
    biases = (bias, bias, bias, True, True)
    return shape._replace(intermediate=inner, gated=gated, activation=activation, biases=biases)


def _v3(c: Entries, shape: DinoShape) -> DinoShape:
    """The MLP, the biases and the rotary positions of DINOv3."""
    size = shape.hidden // shape.heads
    if size % 4:
        raise UserError(
            f"model folder {c.folder}: {c.file}: hidden_size={shape.hidden} makes heads of {size}, which the rotary "
            "positions of rows and columns do not divide by 4; get a fresh copy"
        )
    defaults = {"query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True}
    query, key, value, attended, mlp = (c.flag(name, default=usual) for name, usual in defaults.items())
    return shape._replace(
        intermediate=c.whole("intermediate_size"),
        gated=c.flag("use_gated_mlp", default=False),
        biases=(query, key, value, attended, mlp),
        theta=c.positive("rope_theta", default=100.0),
    )


def load(folder: Path, shape: DinoShape) -> Params:
    """Reads the weights into nested float32 parameters.

    The position table is interpolated to the grid of `shape`.

    Raises:
      UserError: tensors are missing, unknown or of a wrong shape; names each.
    """
    tensors, named = hub_folder.renamed(hub_folder.read_tensors(folder, leave_out=_NOT_READ), _plain, source=folder)
    if _POSITIONS in tensors and tensors[_POSITIONS].ndim == 3:
        table = interpolated(tensors[_POSITIONS][0], grid=shape.grid, tokens=1, antialias=shape.registers > 0)
        tensors[_POSITIONS] = table[None]
    abstract = jax.eval_shape(functools.partial(init, shape=shape), jax.random.key(0))
    once, layer, prefix = _names(shape)
    arrays = hub_folder.arranged(
        tensors,
        once=once,
        layer=layer,
        prefix=prefix,
        shapes=shapes_of(abstract),
        source=folder,
        named=named,
        relay=_relaid,
        unrelaid=functools.partial(_stored_shape, patch=shape.patch),
    )
    return jax.tree.map(jnp.asarray, assign(abstract, arrays, source=folder))


def stored(params: Params, shape: DinoShape) -> dict[str, np.ndarray]:
    """The tensors of the whole model in the names and layout of transformers."""
    arrays = {str(name): np.asarray(array) for name, array in flatten_dict(params, sep="/").items()}
    once, layer, prefix = _names(shape)
    unrelay = functools.partial(_unrelaid, patch=shape.patch)
    mask = np.zeros((1,) * (2 if shape.family == "dinov3" else 1) + (shape.hidden,), np.float32)
    tensors = hub_folder.unarranged(arrays, once=once, layer=layer, prefix=prefix, unrelay=unrelay)
    return tensors | {"embeddings.mask_token": mask}  # of pretraining alone; transformers expects it


def _plain(name: str) -> str:
    """The name of a tensor without the prefix of a model with a head for a task."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.removeprefix("model.") if name.startswith("model.layer.") else name


def _names(shape: DinoShape) -> tuple[dict[str, str], dict[str, str], str]:
    """Our names -> torch's outside the layers and of one layer, and what is before the number of a layer."""
    once = {"embeddings/class_token": "embeddings.cls_token"}
    if shape.registers or shape.family == "dinov3":
        once["embeddings/registers"] = "embeddings.register_tokens"
    if shape.family == "dinov3":
        once |= linear("embeddings/project", "embeddings.patch_embeddings") | norm("pool/norm", "norm")
        gate = linear("gate", "mlp.gate_proj") if shape.gated else {}
        return once, _with_biases(_V3 | gate, shape), "layer."
    once |= linear("embeddings/project", "embeddings.patch_embeddings.projection") | norm("pool/norm", "layernorm")
    once["embeddings/positions"] = _POSITIONS
    mlp = linear("up", "mlp.fc1") | linear("down", "mlp.fc2")
    if shape.gated:  # both halves are in one tensor, the gate first
        mlp = linear("gate", "mlp.weights_in") | linear("up", "mlp.weights_in") | linear("down", "mlp.weights_out")
    return once, _with_biases(_V2 | mlp, shape), "encoder.layer."


def _with_biases(names: dict[str, str], shape: DinoShape) -> dict[str, str]:
    """The names without those of biases that the model lacks."""
    query, key, value, attended, mlp = shape.biases
    has = {"query": query, "key": key, "value": value, "attended": attended, "gate": mlp, "up": mlp, "down": mlp}
    return {
        ours: name for ours, name in names.items() if not ours.endswith("bias") or has.get(ours.split("/")[0], True)
    }


def _relaid(ours: str, array: np.ndarray) -> np.ndarray:
    """From torch's layout: linear (out, in), convolution (out, in, k, k) as a map of patches, tokens (1, [n,] d)."""
    if ours == "embeddings/project/kernel":
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    if ours == "embeddings/class_token":
        return array[0, 0]
    return array[0] if ours in ("embeddings/registers", "embeddings/positions") else hub_folder.relaid(ours, array)


def _unrelaid(ours: str, array: np.ndarray, *, patch: int) -> np.ndarray:
    """The inverse of `_relaid`."""
    if ours == "embeddings/project/kernel":
        return array.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    if ours == "embeddings/class_token":
        return array[None, None]
    return array[None] if ours in ("embeddings/registers", "embeddings/positions") else hub_folder.relaid(ours, array)


def _stored_shape(ours: str, shape: tuple[int, ...], *, patch: int) -> tuple[int, ...]:
    """The shape in torch's layout of what `_relaid` turns into this one."""
    if ours == "embeddings/project/kernel":
        return shape[1], 3, patch, patch
    if ours == "embeddings/class_token":
        return (1, 1, *shape)
    tokens = ours in ("embeddings/registers", "embeddings/positions")
    return (1, *shape) if tokens else hub_folder.stored_shape(ours, shape)
