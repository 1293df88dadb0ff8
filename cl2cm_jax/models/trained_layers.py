"""The layers of the backbones that the networks train, and the frozen part below them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import jax
from ml_collections import ConfigDict

from cl2cm_jax.config import check_layers, cut_layer, lora_rank, vision_first
from cl2cm_jax.models.backbone import TailOptions, TextBackbone, TextOutput, Tunable, VisionBackbone, VisionOutput
from cl2cm_jax.models.configured import check_trained_backbones, configured_text, configured_vision
from cl2cm_jax.models.functional import Params
from cl2cm_jax.models.layers.lora import check_rank


def text_layers(config: ConfigDict) -> tuple[Tunable[TextOutput] | None, Params | None]:
    """How the trained layers of the text backbone are run, and their pretrained parameters; None without any.

    Raises:
      UserError: the backbone does not have the layers that the configuration names.
    """
    first = cut_layer(config)
    if first is None:
        return None, None
    backbone = configured_text(config)
    tunable = check_text_layers(config, backbone)
    assert tunable is not None
    layers = tunable.cut(backbone.params, first)[1]
    _check_adapters(config, "text", layers)
    return tunable, layers


def check_text_layers(config: ConfigDict, backbone: TextBackbone) -> Tunable[TextOutput] | None:
    """How the text backbone is trained; refuses to train layers that it does not have.

    Raises:
      UserError: names those that it has.
    """
    check_trained_backbones(config)
    if backbone.tunable is not None:
        for network in ("student", "teacher"):
            field = f"{network}.text.trainable"
            check_layers(config[network].text.trainable, backbone.tunable.layers, field=field)
    return backbone.tunable


def _check_adapters(config: ConfigDict, kind: Literal["text", "vision"], layers: Params) -> None:
    """Refuses adapters of the student that are no smaller than the layers; raises UserError."""
    field, trainable = f"student.{kind}.trainable", config.student[kind].trainable
    check_rank(layers, lora_rank(trainable, field=field), field=field, value=trainable)


def vision_layers(config: ConfigDict) -> tuple[VisionBackbone | None, Params | None]:
    """The vision backbone cut at the first trained layer, without parameters, and its pretrained parameters.

    The parameters are {"frozen": those below the first trained layer, "own": the trained ones}. None if no layer is
    trained.

    Raises:
      UserError: the backbone does not have the layers that the configuration names.
    """
    if vision_first(config) is None:
        return None, None
    check_trained_backbones(config)
    backbone = configured_vision(config)
    assert backbone is not None
    backbone = in_two_parts(config, backbone)
    _check_adapters(config, "vision", backbone.params["own"])
    return replace(backbone, params={}), backbone.params


def in_two_parts(config: ConfigDict, backbone: VisionBackbone, *, own: Params | None = None) -> VisionBackbone:
    """A vision backbone cut at the student's first trained layer; unchanged if no layer is trained.

    Args:
      config: says which layers, and how they are run.
      backbone: with its pretrained parameters.
      own: of the trained layers; None: the pretrained ones.

    Raises:
      UserError: the backbone does not have the layers that the configuration names.
    """
    first = vision_first(config)
    if first is None:
        return backbone
    check_trained_backbones(config)
    tunable = backbone.tunable
    assert tunable is not None
    check_layers(config.student.vision.trainable, tunable.layers, field="student.vision.trainable")
    pooled = config.vision.pool == "backbone"
    options = TailOptions(remat=config.vision.remat, scan=config.vision.scan, dtype=config.train.compute)

    def apply(params: Params, images: jax.Array) -> VisionOutput:
        states = images
        if params["frozen"]:
            states = jax.lax.stop_gradient(tunable.prefix(params["frozen"], images, options=options))
        return tunable.tail(params["own"], states, pooled=pooled, options=options)

    frozen, pretrained = tunable.cut(backbone.params, first, pooled=pooled)
    params = {"frozen": frozen, "own": pretrained if own is None else own}
    return replace(backbone, params=params, apply=apply, portable_apply=None, tunable=None)
