"""Backbones by name, and the identity backbone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones import (
    Preprocess,
    fingerprint,
    text_backbone,
    vision_backbone,
)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UserError, match='config.vision.backbone="eficientnet".*"efficientnet_lite0"'):
        vision_backbone("eficientnet")
    with pytest.raises(UserError, match='config.text.backbone="use".*use_multilingual'):
        text_backbone("use")


@pytest.mark.parametrize(("shape", "frames"), [((5, 8), 1), ((5, 3, 8), 3)])
def test_precomputed_features_pass_through(tmp_path, shape, frames):
    np.save(tmp_path / "f.npy", np.ones(shape, np.float16))
    backbone = vision_backbone("precomputed", tmp_path / "f.npy")
    assert (backbone.frames, backbone.dim) == (frames, 8)
    assert len(fingerprint("vision", "precomputed", tmp_path / "f.npy")) == 64
    output = backbone.apply(backbone.params, jnp.full((2, frames, 8), 3, jnp.float16))
    assert output.features.dtype == jnp.float32 and output.mask.all() and (output.features == 3).all()


def test_precomputed_features_must_be_a_float_array(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(3))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    for name in ("ids.npy", "cut.npy", "none.npy"):
        with pytest.raises(UserError, match=name):
            vision_backbone("precomputed", tmp_path / name)
    with pytest.raises(UserError, match="config.data.features"):
        vision_backbone("precomputed")


def test_preprocess_scales_eight_bit_values():
    prepare = Preprocess(
        image_size=1, shorter_side=1, filter="bicubic", mean=(127.0, 100.0, 0.0), scale=(128.0, 27.0, 2.0)
    )
    scaled = prepare(np.array([[[[255, 127, 0]]]], np.uint8))
    np.testing.assert_allclose(scaled, [[[[1.0, 1.0, 0.0]]]])
    assert scaled.dtype == np.float32
