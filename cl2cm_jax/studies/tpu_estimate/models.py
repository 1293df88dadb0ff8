"""Backbone sizes and parameter shapes; neither weights nor data are needed.

Sizes come from the model folder that the configuration names, or from a documented default if it does not exist; the
command line can override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from cl2cm_jax.config import cut_layer, has_vision_backbone, vision_first
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbone import TextBackbone, TextOutput, Tunable, VisionBackbone
from cl2cm_jax.models.configured import text_spec, vision_spec
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.networks import FeatureShape
from cl2cm_jax.models.trained_layers import check_text_layers, in_two_parts

# Published features differ (docs/data.md): ResNet-152's images, and the longest clip that a tower looks at.
PRECOMPUTED = {"dim": 2048, "frames": 64}


class Models(NamedTuple):
    """Shapes of the models that the training step is built from.

    Attributes:
      features: sizes of the backbones' outputs.
      tunable, tail: the text backbone's trained layers and the shapes of their parameters; None where none is trained.
      vision, vision_params: the vision backbone cut at the first trained layer, and the shapes of its parameters; None
        where none is trained.
      notes: where the sizes come from.
    """

    features: FeatureShape
    tunable: Tunable[TextOutput] | None
    tail: Params | None
    vision: VisionBackbone | None
    vision_params: Params | None
    notes: tuple[str, ...]


def models(config: ConfigDict, *, text: Mapping[str, int], vision: Mapping[str, int]) -> Models:
    """Shapes of the configured backbones.

    Args:
      config: the configuration.
      text: sizes that replace the text backbone's own.
      vision: sizes that replace the vision backbone's own, or "dim" and "frames" of precomputed features.

    Raises:
      UserError: the backbone has no such size, or not the layers that the configuration trains.
    """
    backbone_text, tunable, tail, text_note = _text(config, text)
    frames, dim, backbone, params, vision_note = _vision(config, vision)
    sentence, words = backbone_text.sentence_size, backbone_text.dim
    features = FeatureShape(sentence, dim, config.text.max_tokens, frames, words if words != sentence else 0)
    return Models(features, tunable, tail, backbone, params, (text_note, vision_note))


def _text(
    config: ConfigDict, given: Mapping[str, int]
) -> tuple[TextBackbone, Tunable[TextOutput] | None, Params | None, str]:
    """(the backbone, how layers are trained, shapes of the trained ones, note)."""
    spec = text_spec(config.text.backbone)
    _check_names(given, spec.sizes, flag="--text")
    backbone, note = spec.abstract(config.text.path or None, given)
    if backbone.max_tokens is not None and config.text.max_tokens > backbone.max_tokens:
        raise UserError(
            f"--text: the backbone's positions hold {backbone.max_tokens} tokens, fewer than "
            f"config.text.max_tokens={config.text.max_tokens}; give more positions"
        )
    first, tunable = cut_layer(config), check_text_layers(config, backbone)
    if first is None or tunable is None:
        return backbone, None, None, f"text: {note}"
    above = jax.eval_shape(lambda params: tunable.cut(params, first)[1], backbone.params)
    return backbone, tunable, above, f"text: {note}"


def _vision(config: ConfigDict, given: Mapping[str, int]) -> tuple[int, int, VisionBackbone | None, Params | None, str]:
    """(frames, d, backbone cut in two, shapes of its parameters, note)."""
    v = config.vision
    if not has_vision_backbone(config):
        _check_names(given, tuple(PRECOMPUTED), flag="--vision")
        sizes = PRECOMPUTED | ({"frames": 1} if config.student.vision_tower == "linear" else {}) | dict(given)
        note = "vision: precomputed features, {frames} x {dim} (assumed; --vision=dim=...,frames=...)".format(**sizes)
        return sizes["frames"], sizes["dim"], None, None, note
    spec = vision_spec(v.backbone)
    _check_names(given, spec.sizes, flag="--vision")
    backbone, note = spec.abstract(v.path or None, given, image_size=v.image_size)
    tokens = v.pool == "tokens" or not backbone.pooled
    frames, dim = (backbone.frames, backbone.dim) if tokens else (1, backbone.pooled)
    if vision_first(config) is None:
        return frames * config.data.frames, dim, None, None, f"vision: {note}"
    return frames, dim, *_cut(config, backbone), f"vision: {note}"


def _cut(config: ConfigDict, backbone: VisionBackbone) -> tuple[VisionBackbone, Params]:
    """The backbone cut in two and the shapes of both parts; it is cut while it is traced, as there are no arrays."""
    parts: list[VisionBackbone] = []

    def cut(params: Params) -> Params:
        parts.append(in_two_parts(config, replace(backbone, params=params)))
        return parts[-1].params

    shapes = jax.eval_shape(cut, backbone.params)
    return replace(parts[-1], params={}), shapes


def _check_names(given: Mapping[str, int], names: tuple[str, ...], *, flag: str) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        known = f"it has {', '.join(names)}" if names else "this backbone has one size"
        raise UserError(f"{flag}: {unknown[0]!r} is not a size of the configured backbone; {known}")
