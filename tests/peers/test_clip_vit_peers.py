"""CLIP's and SigLIP's image towers compared with transformers (`make test-peers` installs it)."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.models.configured import vision_backbone
from cl2cm_jax.models.preprocess import read_preprocess

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_towers_equal_transformers(family: str, seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    heads, patch = int(random.integers(1, 5)), int(random.integers(2, 7))
    side = patch * int(random.integers(2, 6))
    sizes = {
        "hidden_size": heads * 2 * int(random.integers(2, 6)),
        "num_attention_heads": heads,
        "intermediate_size": int(random.integers(5, 50)),
        "num_hidden_layers": int(random.integers(1, 5)),
        "image_size": side,
        "patch_size": patch,
    }
    projected = {"projection_dim": int(random.integers(3, 20))} if family == "CLIP" else {}
    kind = f"{family}VisionModel" + ("WithProjection" if projected else "")
    model = getattr(transformers, kind)(getattr(transformers, f"{family}VisionConfig")(**sizes, **projected)).eval()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    getattr(transformers, f"{family}ImageProcessorPil")(
        size={"height": side, "width": side}, crop_size={"height": side, "width": side}, do_center_crop=False
    ).save_pretrained(tmp_path)
    backbone = vision_backbone("clip_vit", tmp_path)
    images = random.normal(size=(3, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images.transpose(0, 3, 1, 2)))
    ours = jax.jit(backbone.apply)(backbone.params, images)
    is_clip = family == "CLIP"
    np.testing.assert_allclose(ours.features, theirs.last_hidden_state.numpy()[:, is_clip:], atol=1e-5)
    pooled = theirs.image_embeds if is_clip else theirs.pooler_output
    np.testing.assert_allclose(ours.pooled, pooled.numpy(), atol=1e-5)


@pytest.mark.parametrize("side", [40, 16, 24, 88])
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_other_resolutions_equal_transformers(family: str, side: int, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, f"{family}VisionConfig")(**sizes, image_size=24, patch_size=8)
    model = getattr(transformers, f"{family}VisionModel")(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path)
    getattr(transformers, f"{family}ImageProcessorPil")(
        size={"height": 24, "width": 24}, crop_size={"height": 24, "width": 24}, do_center_crop=False
    ).save_pretrained(tmp_path)
    backbone = vision_backbone("clip_vit", tmp_path, image_size=side)
    images = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.tensor(images.transpose(0, 3, 1, 2)), interpolate_pos_encoding=True)
    ours = jax.jit(backbone.apply)(backbone.params, images)
    np.testing.assert_allclose(ours.features, theirs.last_hidden_state.numpy()[:, family == "CLIP" :], atol=1e-5)
    np.testing.assert_allclose(ours.pooled, theirs.pooler_output.numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (333, 500), (224, 224), (101, 999), (640, 427)])
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_preprocessing_equals_transformers(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    processor = getattr(transformers, f"{family}ImageProcessorPil")()
    processor.save_pretrained(tmp_path)
    prepare = read_preprocess(tmp_path, image_size=224)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    ours = prepare(scaled(picture, 224, shorter_side=prepare.shorter_side, filter=prepare.filter))
    assert (np.abs(ours - theirs) * np.float32(prepare.scale)).max() <= 1  # a grey level
