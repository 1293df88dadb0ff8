"""CLIP's and SigLIP's image towers against transformers' own outputs, preprocessing included."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import ImageEncoder
from cl2cm_jax.models.backbones.vision import clip_vit
from cl2cm_jax.models.configured import fingerprint, vision_backbone

GOLDEN = Path(__file__).parents[3] / "golden"
FAMILIES = ("clip", "siglip")


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def _change(folder: Path, name: str, **entries: object) -> None:
    content = json.loads((folder / name).read_text()) | entries
    (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def test_grid_and_global_vector_equal_the_reference(folder: Path) -> None:
    backbone = vision_backbone("clip_vit", folder)
    with np.load(folder / "outputs.npz") as golden:
        output = jax.jit(backbone.apply)(backbone.params, golden["images"])
        np.testing.assert_allclose(output.features, golden["grid"], atol=1e-5)
        np.testing.assert_allclose(output.pooled, golden["pooled"], atol=1e-5)
    assert (backbone.frames, backbone.dim, backbone.pooled) == (9, 16, 12 if folder.name == "clip" else 16)
    assert output.mask.all() and output.mask.shape == (2, 9)


def test_preprocessing_equals_the_models_own(folder: Path) -> None:
    prepare = vision_backbone("clip_vit", folder).preprocess
    assert prepare is not None
    with np.load(folder / "outputs.npz") as golden:
        picture = scaled(
            golden["picture"], prepare.image_size, shorter_side=prepare.shorter_side, filter=prepare.filter
        )
        grey_levels = (prepare(picture) - golden["prepared"]) * np.float32(prepare.scale)
    assert np.abs(grey_levels).max() < 1e-3


@pytest.mark.parametrize(("pool", "shape"), [("backbone", (3, 1)), ("tokens", (3, 9))])
def test_pictures_of_any_size_become_features(folder: Path, pool: str, shape: tuple[int, int]) -> None:
    backbone = vision_backbone("clip_vit", folder)
    pictures = [np.full((height, 30, 3), height, np.uint8) for height in (5, 24, 200)]
    features = ImageEncoder(backbone, pool=pool)(pictures)
    assert features.shape[:2] == shape and np.isfinite(features).all()


def test_a_model_with_both_towers(folder: Path) -> None:
    """Its text tower is left out, and its configuration of the image tower is found."""
    arrays = load_file(folder / "model.safetensors")
    extra = {"text_model.encoder.x": np.zeros(3, np.float32), "logit_scale": np.zeros((), np.float32)}
    names = {n if n.startswith("visual") else f"vision_model.{n.removeprefix('vision_model.')}": n for n in arrays}
    save_file({new: arrays[old] for new, old in names.items()} | extra, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    both = {"model_type": folder.name, "vision_config": config, "projection_dim": 12}
    (folder / "config.json").write_text(json.dumps(both))
    expected = vision_backbone("clip_vit", GOLDEN / folder.name).params
    jax.tree.map(np.testing.assert_array_equal, vision_backbone("clip_vit", folder).params, expected)


def test_clip_without_its_projection_yields_the_class_token(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "clip", tmp_path / "clip"))
    arrays = load_file(folder / "model.safetensors")
    del arrays["visual_projection.weight"]
    save_file(arrays, folder / "model.safetensors")
    assert vision_backbone("clip_vit", folder).pooled == 16


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        (
            "config.json",
            {"model_type": "vit"},
            "model_type='vit' is not one of clip.*; config.vision.backbone='transformers' runs it",
        ),
        ("config.json", {"hidden_act": "mish"}, "hidden_act='mish' is not one of"),
        ("config.json", {"patch_size": "absent"}, "patch_size=32 is not|patch_embedding.weight has shape"),
        ("config.json", {"num_hidden_layers": 3}, "encoder.layers.2.layer_norm1.weight is missing"),
        ("config.json", {"image_size": 32}, "has (crop_)?size=|position_embedding.weight has shape"),
        ("preprocessor_config.json", {"resample": 1}, "resample=1, which is not supported"),
        ("preprocessor_config.json", {"rescale_factor": 0.5}, "rescale_factor=0.5"),
        ("preprocessor_config.json", {"size": {"height": 9, "width": 9}, "crop_size": None}, "size="),
        ("preprocessor_config.json", {"resample": [3]}, r"resample=\[3\], which is not supported; correct it"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, "rescale_factor='x'"),
        ("preprocessor_config.json", {"rescale_factor": float("nan")}, "rescale_factor=nan"),
        ("preprocessor_config.json", {"size": {"height": 24}, "do_center_crop": False}, "size={'height': 24}"),
        ("preprocessor_config.json", {"size": "24", "crop_size": 24, "do_center_crop": True}, "size='24'"),
        ("preprocessor_config.json", {"size": 23, "crop_size": 24, "do_center_crop": True}, "size=23"),
        (
            "preprocessor_config.json",
            {"size": {"shortest_edge": 49}, "crop_size": 24, "do_center_crop": True},
            r"size=\{'shortest_edge': 49\}",
        ),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5], "do_normalize": True}, r"image_mean=\[0.5, 0.5\]"),
        ("preprocessor_config.json", {"image_mean": ["x"] * 3, "do_normalize": True}, "image_mean="),
        ("preprocessor_config.json", {"image_std": [0.5, 0.5, 0], "do_normalize": True}, "image_std="),
    ],
)
def test_a_folder_that_does_not_fit(folder: Path, file: str, entries: dict, message: str) -> None:
    _change(folder, file, **entries)
    with pytest.raises(UserError, match=message):
        vision_backbone("clip_vit", folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", ["clip"]),
        ("vision_config", [1]),
        ("hidden_act", ["gelu"]),
        ("hidden_size", "16"),
        ("hidden_size", 15),
        ("hidden_size", 10**7),
        ("num_attention_heads", 0),
        ("num_attention_heads", 65),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", True),
        ("intermediate_size", 24.0),
        ("image_size", 10**6),
        ("patch_size", 0),
        ("patch_size", 25),
        ("layer_norm_eps", float("nan")),
        ("layer_norm_eps", "x"),
    ],
)
def test_an_invalid_entry_is_named_before_anything_is_built(folder: Path, name: str, value: object) -> None:
    both = {"model_type": folder.name} if name == "vision_config" else {}
    _change(folder, "config.json", **both, **{name: value})
    with pytest.raises(UserError, match=rf"config.json: {name}=.* is (no|not) .*; ") as caught:
        clip_vit.read_shape(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"), [(0, "projection_dim=0 is not a whole"), ("absent", "visual_projection.weight has shape")]
)
def test_a_projection_needs_its_size(tmp_path: Path, value: object, message: str) -> None:
    folder = Path(shutil.copytree(GOLDEN / "clip", tmp_path / "clip"))
    _change(folder, "config.json", projection_dim=value)
    with pytest.raises(UserError, match=message):
        vision_backbone("clip_vit", folder)


def test_weights_that_are_not_finite_are_named_and_those_of_the_text_tower_are_not_read(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    ids = {"vision_model.embeddings.position_ids": np.arange(9)[None], "text_model.x": np.full(2, np.nan, np.float32)}
    save_file(stored | ids, folder / "model.safetensors")
    vision_backbone("clip_vit", folder)
    name = next(name for name in stored if name.endswith("mlp.fc1.bias"))
    stored[name][2] = np.inf
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"tensor {name} holds inf among its values"):
        vision_backbone("clip_vit", folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("adapter.weight", np.zeros(3), "adapter.weight is not known to the model"),
        (
            "encoder.layers.1.self_attn.q_proj.weight",
            np.zeros((16, 8)),
            r"encoder.layers.1.self_attn.q_proj.weight has shape \(16, 8\) instead of \(16, 16\)",
        ),
        (
            "embeddings.patch_embedding.weight",
            np.zeros((16, 192)),
            r"embeddings.patch_embedding.weight has shape \(16, 192\) instead of \(16, 3, 8, 8\)",
        ),
        ("embeddings.position_embedding.weight", np.zeros(()), r"position_embedding.weight has shape \(\) instead"),
    ],
)
def test_a_tensor_too_many_or_of_a_wrong_shape_is_named(
    folder: Path, name: str, array: np.ndarray, message: str
) -> None:
    stored = load_file(folder / "model.safetensors")
    beginning = next((n for n in stored if n.endswith(name)), name).removesuffix(name)
    save_file(stored | {f"{beginning}{name}": array.astype(np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        vision_backbone("clip_vit", folder)
    assert "\n" not in str(caught.value)


def test_siglips_joined_projection_of_a_wrong_shape_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "siglip", tmp_path / "siglip"))
    stored = load_file(folder / "model.safetensors")
    name = next(n for n in stored if n.endswith("head.attention.in_proj_bias"))
    save_file(stored | {name: np.zeros(47, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"head.attention.in_proj_bias has shape \(47,\) instead of \(48,\)"):
        vision_backbone("clip_vit", folder)


def test_another_resolution_interpolates_the_positions(folder: Path) -> None:
    own, larger = (vision_backbone("clip_vit", folder, image_size=size) for size in (24, 40))
    assert (own.frames, larger.frames, own.pooled) == (9, 25, larger.pooled)
    jax.tree.map(np.testing.assert_array_equal, own.params, vision_backbone("clip_vit", folder).params)
    positions = np.asarray(larger.params["embeddings"]["positions"])
    assert positions.shape == (25 + (folder.name == "clip"), 16)
    with np.load(folder / "outputs.npz") as golden:
        encoder = ImageEncoder(larger, pool="backbone")
        features = encoder([golden["picture"]])
    assert encoder.enough == 2 * (larger.preprocess.shorter_side or larger.preprocess.image_size)
    assert np.isfinite(features).all() and larger.preprocess is not None and larger.preprocess.image_size == 40
    with pytest.raises(UserError, match="image_size=30 is not a multiple of the model's patch, 8"):
        vision_backbone("clip_vit", folder, image_size=30)
    with pytest.raises(UserError, match="image_size=30: efficientnet_lite0 has one size; use 0"):
        vision_backbone("efficientnet_lite0", image_size=30)


def test_a_size_that_no_memory_holds_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vision_backbone("clip_vit", folder, image_size=96).frames == 144
    with pytest.raises(UserError, match="image_size=104 is over 4 times the model's own size, 24; use 96 or less"):
        vision_backbone("clip_vit", folder, image_size=104)
    heads = clip_vit.read_shape(folder).heads
    monkeypatch.setattr(clip_vit, "MAX_ATTENTION", 4 * 8 * heads * 9**2)
    assert vision_backbone("clip_vit", folder).frames == 9
    with pytest.raises(
        UserError, match=r"32 x 32 pixels in patches of 8 needs .* bytes, over the limit of .*; use a smaller"
    ):
        vision_backbone("clip_vit", folder, image_size=32)


def test_a_missing_folder_names_the_field(folder: Path) -> None:
    with pytest.raises(UserError, match="config.vision.path='' is empty"):
        vision_backbone("clip_vit", "")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="preprocessor_config.json cannot be read"):
        vision_backbone("clip_vit", folder)
    assert len(fingerprint("vision", "clip_vit", folder)) == 64


def test_the_tower_is_compiled_once_while_the_first_pictures_are_read(folder: Path) -> None:
    encoder, compiled = ImageEncoder(vision_backbone("clip_vit", folder), pool="backbone"), threading.Event()
    lower = encoder._forward.lower
    seen = []

    def lowered(*arguments: object) -> object:
        seen.append(arguments)
        compiled.set()
        return lower(*arguments)

    encoder._forward = SimpleNamespace(lower=lowered)  # pyright: ignore[reportAttributeAccessIssue]

    def pictures() -> Iterator[np.ndarray]:
        assert compiled.wait(60)  # before any picture is there
        yield np.zeros((30, 40, 3), np.uint8)

    first, again = encoder(pictures()), encoder(pictures())
    np.testing.assert_array_equal(first, again)
    assert len(seen) == 1
    own = ImageEncoder(vision_backbone("clip_vit", folder), pool="backbone")
    params = vision_backbone("clip_vit", folder).params
    np.testing.assert_array_equal(own([np.zeros((30, 40, 3), np.uint8)], params=params), first)


def test_an_error_in_compiling_is_raised_where_the_tower_is_used(folder: Path, capfd: pytest.CaptureFixture) -> None:
    encoder = ImageEncoder(vision_backbone("clip_vit", folder), pool="backbone")
    encoder._params = {}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyError):
        encoder([np.zeros((30, 40, 3), np.uint8)])
    assert "Traceback" not in capfd.readouterr().err


def test_a_config_that_leaves_out_its_defaults_is_read(tmp_path: Path) -> None:
    """As google/siglip-base-patch16-224 is published: {"vision_config": {"model_type": "siglip_vision_model"}}."""
    for family, tokens in (("siglip", 0), ("clip", 1)):
        part = {"model_type": f"{family}_vision_model"}
        content = {"model_type": family, "text_config": {}, "vision_config": part}
        (tmp_path / "config.json").write_text(json.dumps(content))
        save_file({"logit_scale": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
        shape = clip_vit.read_shape(tmp_path)
        patch = 16 if family == "siglip" else 32
        assert shape[:7] == (family, 224, patch, 768, 12, 12, 3072), tokens
        (tmp_path / "config.json").write_text(json.dumps(part))  # of the image tower alone
        assert clip_vit.read_shape(tmp_path) == shape
