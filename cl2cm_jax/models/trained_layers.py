"""What the networks train of the backbones: their upper layers, and the frozen part below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
from ml_collections import ConfigDict

from cl2cm_jax.config import check_layers, cut_layer, vision_first
from cl2cm_jax.models.backbones import TailOptions, TextBackbone, Tunable, VisionBackbone, VisionOutput
from cl2cm_jax.models.configured import configured_text, configured_vision
from cl2cm_jax.models.functional import Params


def text_layers(config: ConfigDict) -> tuple[Tunable | None, Params | None]:
    """How the networks' own layers of the text backbone are run, and their pretrained parameters; None without any.

    Raises:
      UserError: the backbone has not the layers that the configuration names.
    """
    first = cut_layer(config)
    if first is None:
        return None, None
    backbone = configured_text(config)
    check_text_layers(config, backbone)
    assert backbone.tunable is not None  # others are refused by the configuration's checks
    return backbone.tunable, backbone.tunable.cut(backbone.params, first)[1]


def check_text_layers(config: ConfigDict, backbone: TextBackbone) -> None:
    """Refuses layers that the text backbone has not.

    Raises:
      UserError: names those that it has.
    """
    for network in ("student", "teacher"):
        if backbone.tunable is not None:
            trainable = config[network].text.trainable
            check_layers(trainable, backbone.tunable.layers, field=f"{network}.text.trainable")


def vision_layers(config: ConfigDict) -> tuple[VisionBackbone | None, Params | None]:
    """The vision backbone in two parts, without parameters, and its pretrained ones; None if it is frozen as a whole.

    Its parameters are {"frozen": those below the first trained layer, "own": the trained ones}.

    Raises:
      UserError: the backbone has not the layers that the configuration names.
    """
    if vision_first(config) is None:
        return None, None
    backbone = configured_vision(config)
    assert backbone is not None  # others are refused by the configuration's checks
    backbone = in_two_parts(config, backbone)
    return replace(backbone, params={}), backbone.params


def in_two_parts(config: ConfigDict, backbone: VisionBackbone, *, own: Params | None = None) -> VisionBackbone:
    """A vision backbone cut where the student's own layers begin; itself if the student has none.

    Args:
      config: says which layers, and how they are run.
      backbone: with its pretrained parameters.
      own: of the trained layers; the pretrained ones without it.

    Raises:
      UserError: the backbone has not the layers that the configuration names.
    """
    first, tunable = vision_first(config), backbone.tunable
    if first is None:
        return backbone
    assert tunable is not None  # others are refused by the configuration's checks
    check_layers(config.student.vision.trainable, tunable.layers, field="student.vision.trainable")
    pooled = config.vision.pool == "backbone"
    options = TailOptions(remat=config.vision.remat, scan=config.vision.scan, dtype=config.train.compute)

    def apply(params: dict[str, Any], images: jax.Array) -> VisionOutput:
        states = images
        if params["frozen"]:
            states = jax.lax.stop_gradient(tunable.prefix(params["frozen"], images, options=options))
        return tunable.tail(params["own"], states, pooled=pooled, options=options)

    frozen, pretrained = tunable.cut(backbone.params, first, pooled=pooled)
    params = {"frozen": frozen, "own": pretrained if own is None else own}
    return replace(backbone, params=params, apply=apply, tunable=None)
