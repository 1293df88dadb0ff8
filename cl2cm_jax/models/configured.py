"""The backbones that a configuration names, with their weights."""

from __future__ import annotations

from ml_collections import ConfigDict

from cl2cm_jax.models.backbones import TextBackbone, VisionBackbone, text_backbone, vision_backbone


def configured_text(config: ConfigDict) -> TextBackbone:
    """Loads the configured text backbone with its weights."""
    return text_backbone(config.text.backbone, config.text.path or None)


def configured_vision(config: ConfigDict) -> VisionBackbone | None:
    """Loads the configured vision backbone with its weights; None where the set brings features."""
    v = config.vision
    return None if v.backbone == "precomputed" else vision_backbone(v.backbone, v.path or None, image_size=v.image_size)
