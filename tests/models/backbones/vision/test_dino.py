"""DINOv2's and DINOv3's image towers against transformers' own outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import ImageEncoder
from cl2cm_jax.models.backbone import TailOptions
from cl2cm_jax.models.backbones.vision.dino import Dino
from cl2cm_jax.models.configured import vision_backbone

GOLDEN = Path(__file__).parents[3] / "golden"
NAMES = ("dinov2", "dinov2_registers", "dinov3")


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def _change(folder: Path, name: str, **entries: object) -> None:
    content = json.loads((folder / name).read_text()) | entries
    (folder / name).write_text(json.dumps(content))


def test_grid_and_global_vector_equal_the_reference(folder: Path) -> None:
    backbone = vision_backbone("dino", folder)
    with np.load(folder / "outputs.npz") as golden:
        output = jax.jit(backbone.apply)(backbone.params, golden["images"])
        np.testing.assert_allclose(output.features, golden["grid"], atol=1e-5)
        np.testing.assert_allclose(output.pooled, golden["pooled"], atol=1e-5)
    assert (backbone.frames, backbone.dim, backbone.pooled) == (9, 16, 16)
    assert backbone.preprocess.image_size == 24
    assert backbone.preprocess.shorter_side == (None if folder.name == "dinov3" else 28)


@pytest.mark.parametrize("first", [-1, 0, 1])
def test_cut_at_any_layer_the_model_is_the_same(folder: Path, first: int) -> None:
    backbone, options = vision_backbone("dino", folder), TailOptions(scan=False, remat=True)
    tunable = backbone.tunable
    assert tunable is not None and tunable.layers == 2
    images = np.load(folder / "outputs.npz")["images"]
    below, above = tunable.cut(backbone.params, first, pooled=True)
    states = images if first < 0 else tunable.prefix(below, images, options=options)
    whole = backbone.apply(backbone.params, images)
    for pooled in (True, False):
        output = tunable.tail(above, states, pooled=pooled, options=options)
        np.testing.assert_allclose(output.features, whole.features, atol=1e-5)
        assert (output.pooled is not None) == pooled
    joined = tunable.join(backbone.params, above, first)
    jax.tree.map(np.testing.assert_array_equal, joined, backbone.params)


def test_what_is_written_is_read_back(folder: Path, tmp_path: Path) -> None:
    backbone = vision_backbone("dino", folder)
    backbone.write(tmp_path / "written")
    again = vision_backbone("dino", tmp_path / "written")
    jax.tree.map(np.testing.assert_array_equal, again.params, backbone.params)
    assert again.preprocess == backbone.preprocess and again.hub_class == backbone.hub_class


@pytest.mark.parametrize(("pool", "shape"), [("backbone", (2, 1, 16)), ("tokens", (2, 25, 16))])
def test_pictures_of_any_size_become_features(folder: Path, pool: str, shape: tuple[int, ...]) -> None:
    backbone = vision_backbone("dino", folder, image_size=40)
    pictures = [np.full((height, 30, 3), height, np.uint8) for height in (9, 200)]
    features = ImageEncoder(backbone, pool=pool)(pictures)
    assert features.shape == shape and np.isfinite(features).all()


def test_a_head_for_a_task_is_left_out(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "dinov2", tmp_path / "dinov2"))
    arrays = {f"dinov2.{name}": array for name, array in load_file(folder / "model.safetensors").items()}
    save_file(arrays | {"classifier.weight": np.zeros((3, 32), np.float32)}, folder / "model.safetensors")
    expected = vision_backbone("dino", GOLDEN / "dinov2").params
    jax.tree.map(np.testing.assert_array_equal, vision_backbone("dino", folder).params, expected)


@pytest.mark.parametrize(
    ("name", "file", "entries", "message"),
    [
        ("dinov2", "config.json", {"model_type": "clip"}, "model_type='clip' is not one of dinov2, dinov2_with_regist"),
        (
            "dinov3",
            "config.json",
            {"model_type": "dinov3_convnext"},
            "is a convolutional DINOv3, which is not supported",
        ),
        ("dinov2", "config.json", {"hidden_act": "mish"}, "hidden_act='mish' is not one of"),
        ("dinov2", "config.json", {"num_hidden_layers": 3}, "encoder.layer.2.norm1.weight is missing"),
        ("dinov2", "config.json", {"mlp_ratio": "x"}, "mlp_ratio='x' is not a number above 0"),
        ("dinov2", "config.json", {"use_swiglu_ffn": 1}, "use_swiglu_ffn=1 is neither true nor false"),
        ("dinov2", "config.json", {"use_swiglu_ffn": False}, "weights_in.weight is not known to the model"),
        ("dinov2_registers", "config.json", {"num_register_tokens": 3}, "register_tokens has shape"),
        ("dinov3", "config.json", {"key_bias": True}, "layer.0.attention.k_proj.bias is missing"),
        ("dinov3", "config.json", {"num_attention_heads": 8}, "makes heads of 2, which the rotary positions of rows"),
        ("dinov3", "config.json", {"rope_theta": -1}, "rope_theta=-1 is not a number above 0"),
        ("dinov3", "config.json", {"use_gated_mlp": True}, "layer.0.mlp.gate_proj.weight is missing"),
        (
            "dinov2",
            "preprocessor_config.json",
            {"crop_size": 20, "size": 20},
            "20 is not a multiple of the model's pat",
        ),
        ("dinov2", "preprocessor_config.json", {"resample": 1}, "resample=1, which is not supported"),
        ("dinov2", "preprocessor_config.json", {"crop_size": {"height": 24, "width": 32}}, "has crop_size="),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    name: str, file: str, entries: dict, message: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / name))
    _change(folder, file, **entries)
    with pytest.raises(UserError, match=message) as caught:
        vision_backbone("dino", folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2500


@pytest.mark.parametrize(("size", "message"), [(20, "image_size=20 is not a multiple of"), (4000, "use at most 560")])
def test_sizes_that_do_not_fit_are_refused(size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        vision_backbone("dino", GOLDEN / "dinov3", image_size=size)
    assert isinstance(vision_backbone("dino", GOLDEN / "dinov3", image_size=48), Dino)
