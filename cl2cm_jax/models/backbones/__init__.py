"""Pretrained encoders by name. Weights are read when a backbone is asked for, not on import.

text = text_backbone("use_multilingual")
output = jax.jit(text.apply)(text.params, token_ids, token_mask)  # TextOutput

vision = vision_backbone("efficientnet_lite0")
output = jax.jit(vision.apply)(vision.params, vision.preprocess(images))  # VisionOutput

Pass the parameters as an argument: a jitted function that closes over them compiles the tables in, which is slow.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import jax

from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder
from cl2cm_jax.models.backbones import bert, clip_vit, e5_small, efficientnet_lite, use_multilingual
from cl2cm_jax.models.backbones.outputs import TailOptions, TextOutput, VisionOutput
from cl2cm_jax.models.backbones.preprocess import Preprocess, read_preprocess
from cl2cm_jax.models.e5_file import read_e5_file
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.pretrained import PackageFile, weights_hash

__all__ = [
    "Preprocess",
    "TailOptions",
    "TextBackbone",
    "TextOutput",
    "Tunable",
    "VisionBackbone",
    "VisionOutput",
    "VisionTunable",
    "fingerprint",
    "text_backbone",
    "text_tunable",
    "vision_backbone",
    "vit_backbone",
]

B = TypeVar("B")


class _Entry(NamedTuple, Generic[B]):
    """A backbone in the registry: how it is loaded from a path, and the name of the weights there."""

    load: Callable[[str | Path | None], B]
    fingerprint: Callable[[str | Path | None], str]


@dataclass(frozen=True, kw_only=True)
class TextBackbone:
    """A text encoder with its weights.

    Attributes:
      name: its name in the configuration.
      dim: d of words and sentence.
      params: nested dict of arrays.
      constants: top-level keys of `params` that have no gradient (integer tables); leave them out of `jax.grad`.
      apply: (params, token_ids (B, L) int32, token_mask (B, L) bool) -> TextOutput; pure.
      tokenizer: name for `cl2cm_jax.data.media.tokenise.tokenizer`.
      tokenizer_path: where its files are; None where the tokenizer comes with an installed package.
      vocabulary: ids that it may give.
      max_tokens: the longest row that the encoder takes; None where there is no limit.
      tunable: how it is trained; None where it cannot be.
      pool: how its sentence vector comes about: "mean" or "cls" of the states, or a network of its "own".
    """

    name: str
    dim: int
    params: dict[str, Any]
    constants: tuple[str, ...]
    apply: Callable[[dict[str, Any], jax.Array, jax.Array], TextOutput]
    tokenizer: str
    tokenizer_path: Path | None = None
    vocabulary: int
    max_tokens: int | None = None
    tunable: Tunable | None = None
    pool: Literal["mean", "cls", "own"] = "own"


@dataclass(frozen=True, kw_only=True)
class Tunable:
    """A text encoder that can be cut behind any layer: below frozen and run once, above trained.

    Attributes:
      layers: their number.
      cut: (params, first) -> (params below layer `first`, params from it on); -1: everything is above.
      prefix: (params below, token_ids (B, L), token_mask (B, L)) -> states (B, L, d); pure.
      tail: (params above, states (B, L, d), or ids (B, L, 1) if first is -1, token_mask (B, L), packing=, key=,
        options=) -> TextOutput; pure.
    """

    layers: int
    cut: Callable[[dict[str, Any], int], tuple[dict[str, Any], dict[str, Any]]]
    prefix: Callable[[dict[str, Any], jax.Array, jax.Array], jax.Array]
    tail: Callable[..., TextOutput]


@dataclass(frozen=True, kw_only=True)
class VisionBackbone:
    """A vision encoder with its weights.

    Attributes:
      name: its name in the configuration.
      frames: F, frames or grid cells of a picture.
      dim: d of a frame.
      pooled: size of the backbone's own global vector; 0 where there is none.
      params: nested dict of float32 arrays.
      apply: (params, images (B, H, W, 3) float32) -> VisionOutput; pure.
      preprocess: what `apply` expects of a picture.
      batch_size: a batch that is fast on this process's devices; any other one works.
      tunable: how it is trained; None where it cannot be.
    """

    name: str
    frames: int
    dim: int
    pooled: int
    params: dict[str, Any]
    apply: Callable[[dict[str, Any], jax.Array], VisionOutput]
    preprocess: Preprocess
    batch_size: int
    tunable: VisionTunable | None = None


@dataclass(frozen=True, kw_only=True)
class VisionTunable:
    """A vision encoder that can be cut behind any layer: below frozen, above trained.

    Attributes:
      layers: their number.
      cut: (params, first, pooled=) -> (params below layer `first`, params from it on); -1: everything is above. What
        serves the global vector alone is in neither unless `pooled`.
      prefix: (params below, prepared pictures (B, H, W, 3), options=) -> states (B, N, d); pure.
      tail: (params above, states, or pictures if first is -1, pooled=, options=) -> VisionOutput; pure.
    """

    layers: int
    cut: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    prefix: Callable[..., jax.Array]
    tail: Callable[..., VisionOutput]


def text_backbone(name: str, path: str | Path | None = None) -> TextBackbone:
    """Loads a text backbone: "use_multilingual", "bert" or "e5_small".

    Args:
      name: its name.
      path: use_multilingual: a weights file, with its sp.model beside it if it is not the package's; None takes the
        installed pip package's. bert: a model folder or a hub id. e5_small: a file of the package's format, or a model
        folder, as bundles hold it; None takes the installed pip package's.

    Raises:
      UserError: the name is unknown, or the weights are missing or damaged.
    """
    return _named(_TEXT, name, "text").load(path)


def vision_backbone(name: str, path: str | Path | None = None, *, image_size: int = 0) -> VisionBackbone:
    """Loads a vision backbone: "efficientnet_lite0" or "clip_vit".

    Args:
      name: its name.
      path: efficientnet_lite0: a weights file, None takes the installed pip package's. clip_vit: a model folder or a
        hub id.
      image_size: side of a picture in pixels, for clip_vit; 0 is the model's own.

    Raises:
      UserError: the name is unknown, the weights are missing or damaged, or the size does not fit the backbone.
    """
    load = _named(_VISION, name, "vision").load
    if not image_size:
        return load(path)
    if name != "clip_vit":
        raise UserError(f"config.vision.image_size={image_size}: {name} has one size; use 0")
    return _clip_vit(path, image_size=image_size)


def fingerprint(kind: Literal["text", "vision"], name: str, path: str | Path | None = None) -> str:
    """SHA-256 of a backbone's weights, without reading them where they are a package's (loading checks those).

    Raises:
      UserError: the name is unknown, or the file is missing.
    """
    entry = _named(_TEXT, name, kind) if kind == "text" else _named(_VISION, name, kind)
    return entry.fingerprint(path)


def _named(registry: Mapping[str, _Entry[B]], name: str, kind: str) -> _Entry[B]:
    if name not in registry:
        near = difflib.get_close_matches(name, registry, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"choose one of: {', '.join(registry)}"
        raise UserError(f'config.{kind}.backbone="{name}" is unknown; {hint}')
    return registry[name]


def _use_multilingual(path: str | Path | None) -> TextBackbone:
    pieces = None if path is None else Path(path).with_name(use_multilingual.PIECES_FILE)
    return TextBackbone(
        name="use_multilingual",
        dim=use_multilingual.DIM,
        params=use_multilingual.load(path),
        constants=("embedding",),
        apply=use_multilingual.apply,
        tokenizer="use_multilingual",
        tokenizer_path=pieces if pieces is not None and pieces.is_file() else None,
        vocabulary=use_multilingual.PIECES,
    )


def _bert(path: str | Path | None) -> TextBackbone:
    folder = hub_folder.locate(path, field="config.text.path")
    shape = bert.read_shape(folder)
    return _of_shape("bert", shape, bert.load(folder, shape), tokenizer="hub_folder", place=folder)


def _e5_small(path: str | Path | None) -> TextBackbone:
    if path is not None and Path(path).is_dir():  # of a bundle: the student may have trained layers, in float32
        return replace(_bert(path), name="e5_small")
    file = read_e5_file(e5_small.locate(path))
    return _of_shape("e5_small", e5_small.shape_of(file), e5_small.load(file), tokenizer="e5_file", place=file.path)


def _of_shape(name: str, shape: bert.BertShape, params: Params, *, tokenizer: str, place: Path) -> TextBackbone:
    return TextBackbone(
        name=name,
        dim=shape.hidden,
        params=params,
        constants=(),
        apply=functools.partial(bert.apply, shape=shape),
        tokenizer=tokenizer,
        tokenizer_path=place,
        vocabulary=shape.vocabulary,
        max_tokens=shape.max_tokens,
        tunable=text_tunable(shape),
        pool=shape.pool,
    )


def text_tunable(shape: bert.BertShape) -> Tunable:
    """How a BERT of this shape is trained, whatever its parameters."""
    return Tunable(
        layers=shape.layers,
        cut=bert.cut,
        prefix=functools.partial(bert.prefix, shape=shape),
        tail=functools.partial(bert.tail, shape=shape),
    )


def _efficientnet_lite0(path: str | Path | None) -> VisionBackbone:
    return VisionBackbone(
        name="efficientnet_lite0",
        frames=efficientnet_lite.GRID**2,
        dim=efficientnet_lite.DIM,
        pooled=efficientnet_lite.DIM,
        params=efficientnet_lite.load(path),
        apply=efficientnet_lite.apply,
        preprocess=Preprocess(
            image_size=efficientnet_lite.IMAGE_SIZE,
            shorter_side=efficientnet_lite.IMAGE_SIZE,
            filter="bicubic",
            mean=(127.0, 127.0, 127.0),
            scale=(128.0, 128.0, 128.0),
        ),
        batch_size=efficientnet_lite.fast_batch_size(),
    )


def _clip_vit(path: str | Path | None, *, image_size: int = 0) -> VisionBackbone:
    folder = hub_folder.locate(path, field="config.vision.path")
    shape = clip_vit.read_shape(folder)
    preprocess = read_preprocess(folder, image_size=shape.image_size)
    if image_size:
        if image_size % shape.patch:
            raise UserError(f"config.vision.image_size={image_size} is no multiple of the model's patch, {shape.patch}")
        shape, preprocess = shape._replace(image_size=image_size), preprocess.at(image_size)
    return vit_backbone(shape, preprocess, params=clip_vit.load(folder, shape))


def vit_backbone(shape: clip_vit.VitShape, preprocess: Preprocess, *, params: dict[str, Any]) -> VisionBackbone:
    """The image tower of a CLIP or SigLIP of this shape, with its parameters or {} in their place."""
    return VisionBackbone(
        name="clip_vit",
        frames=shape.grid**2,
        dim=shape.hidden,
        pooled=shape.pooled,
        params=params,
        apply=functools.partial(clip_vit.apply, shape=shape),
        preprocess=preprocess,
        batch_size=8 if jax.default_backend() == "cpu" else 256,
        tunable=VisionTunable(
            layers=shape.layers,
            cut=functools.partial(clip_vit.cut, shape=shape),
            prefix=functools.partial(clip_vit.prefix, shape=shape),
            tail=functools.partial(clip_vit.tail, shape=shape),
        ),
    )


def _e5_fingerprint(path: str | Path | None) -> str:
    return hub_folder.fingerprint(Path(path)) if path and Path(path).is_dir() else _of_file(e5_small.WEIGHTS)(path)


def _of_file(weights: PackageFile | None) -> Callable[[str | Path | None], str]:
    return lambda path: weights.sha256 if path is None and weights is not None else weights_hash(path or "")


def _of_folder(field: str) -> Callable[[str | Path | None], str]:
    return lambda path: hub_folder.fingerprint(hub_folder.locate(path, field=field))


_TEXT = {
    "use_multilingual": _Entry(_use_multilingual, _of_file(use_multilingual.WEIGHTS)),
    "bert": _Entry(_bert, _of_folder("config.text.path")),
    "e5_small": _Entry(_e5_small, _e5_fingerprint),
}
_VISION = {
    "efficientnet_lite0": _Entry(_efficientnet_lite0, _of_file(efficientnet_lite.WEIGHTS)),
    "clip_vit": _Entry(_clip_vit, _of_folder("config.vision.path")),
}
