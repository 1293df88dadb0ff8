"""The preprocessing of model folders, pixel by pixel against the image processors of transformers, without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.errors import UserError
from cl2cm_jax.models.preprocess import PREPROCESSOR, PROCESSOR, preprocessor, read_preprocess

SIZES = [(300, 200), (333, 500), (96, 96), (51, 199), (64, 43), (97, 98)]  # height and width
SQUARE = {"height": 96, "width": 96}
KINDS: dict[str, dict[str, Any]] = {
    "CLIP": {"size": {"shortest_edge": 96}, "crop_size": SQUARE},
    "Siglip": {"size": SQUARE},
    "ViT": {"size": SQUARE},
    "Bit": {"size": {"shortest_edge": 110}, "crop_size": SQUARE},
    "DeiT": {"size": SQUARE, "crop_size": SQUARE, "image_mean": [0.1, 0.2, 0.3]},
}


def written(folder: Path, content: dict[str, Any], name: str = PREPROCESSOR) -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "saved", ["alone", "in a processor", "by transformers 4", "without defaults", "of its model", "by us"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_transformers(kind: str, saved: str, tmp_path: Path) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**KINDS[kind])
    content = json.loads(processor.to_json_string())
    if saved == "in a processor":
        written(tmp_path, {"image_processor": content, "processor_class": "CLIPProcessor"}, PROCESSOR)
        written(tmp_path, {"image_processor_type": "not read"})
    elif saved == "by transformers 4":
        own = {"feature_extractor_type": f"{kind}FeatureExtractor", "device": None, "use_fast": False}
        written(tmp_path, {name: content[name] for name in content if name != "image_processor_type"} | own)
    elif saved == "without defaults":
        written(tmp_path, {"image_processor_type": f"{kind}ImageProcessorFast"} | KINDS[kind])
    elif saved == "by us":
        written(tmp_path, content)
        written(tmp_path, preprocessor(read_preprocess(tmp_path, image_size=96)))
    elif saved == "of its model":
        written(tmp_path, KINDS[kind])
        written(tmp_path, {"model_type": {"Bit": "dinov2"}.get(kind, kind.lower())}, "config.json")
    else:
        written(tmp_path, content)
    ours, random = read_preprocess(tmp_path, image_size=96), np.random.default_rng(0)
    for size in SIZES:
        picture = random.integers(0, 256, (*size, 3), np.uint8)
        theirs = processor(picture, return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        found = ours(scaled(picture, 96, shorter_side=ours.shorter_side, filter=ours.filter))
        np.testing.assert_allclose(found, theirs.transpose(1, 2, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"do_pad": True}, "has do_pad=True, which is not supported"),
        ({"do_resize": False}, "has do_resize=False"),
        ({"do_rescale": False}, "has do_rescale=False"),
        ({"do_flip_channel_order": True}, "has do_flip_channel_order=True"),
        ({"crop_pct": 0.9}, "has crop_pct=0.9"),
        ({"rescale_offset": True}, "has rescale_offset=True"),
        ({"size": {"shortest_edge": 96}, "do_center_crop": False}, "has size={'shortest_edge': 96}"),
        ({"size": {"shortest_edge": 96, "longest_edge": 128}}, "has size="),
        ({"size": {"height": 110, "width": 110}}, "has size={'height': 110"),
        ({"crop_size": {"height": 90, "width": 96}}, "has crop_size="),
        (
            {"image_processor_type": "ConvNextImageProcessor"},
            "'ConvNextImageProcessor', which prepares pictures in a way",
        ),
        (
            {"image_processor_type": "Siglip2ImageProcessor"},
            "'Siglip2ImageProcessor', which prepares pictures in a way.*; use a SigLIP 2 of a fixed resolution",
        ),
        ({"image_processor_type": "MineImageProcessor"}, "'MineImageProcessor', which is unknown to transformers"),
        ({"image_processor_type": ["a"]}, "which is unknown to transformers"),
        ({"image_processor_type": None}, "which is unknown to transformers"),
    ],
)
def test_what_is_not_done_is_refused_by_name(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    usual = {"image_processor_type": "CLIPImageProcessor"} | KINDS["CLIP"]
    with pytest.raises(UserError, match=message) as error:
        read_preprocess(written(tmp_path, usual | content), image_size=96)
    assert str(error.value).startswith(f"model folder {tmp_path}: {PREPROCESSOR} has ")
    assert "\n" not in str(error.value)


def test_dinov3_is_read_though_transformers_has_it_for_torchvision_alone(tmp_path: Path) -> None:
    kind = {"image_processor_type": "DINOv3ViTImageProcessorFast"}
    found = read_preprocess(written(tmp_path, kind), image_size=224)
    assert (found.filter, found.shorter_side) == ("bilinear", None)
    np.testing.assert_allclose(found.mean, [255 * value for value in (0.485, 0.456, 0.406)])
    np.testing.assert_allclose(found.scale, [255 * value for value in (0.229, 0.224, 0.225)])
