"""Backbones by name, and what they expect of a picture."""

from __future__ import annotations

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.configured import text_backbone, vision_backbone
from cl2cm_jax.models.preprocess import Preprocess


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match="config.vision.backbone='eficientnet'.*'efficientnet_lite0'"):
        vision_backbone("eficientnet")
    with pytest.raises(UserError, match="config.text.backbone='use'.*use_multilingual"):
        text_backbone("use")
    with pytest.raises(UserError, match="config.text.backbone='gemma3'.*; 'transformers' runs a folder of any other"):
        text_backbone("gemma3")


def test_preprocess_scales_eight_bit_values():
    prepare = Preprocess(
        image_size=1, shorter_side=1, filter="bicubic", mean=(127.0, 100.0, 0.0), scale=(128.0, 27.0, 2.0)
    )
    scaled = prepare(np.array([[[[255, 127, 0]]]], np.uint8))
    np.testing.assert_allclose(scaled, [[[[1.0, 1.0, 0.0]]]])
    assert scaled.dtype == np.float32
