"""Folders of dual encoders, of transformers and of OpenCLIP, against the reference's own outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cl2cm_jax.data.media.images import scaled
from cl2cm_jax.errors import UserError
from cl2cm_jax.features.encoders import TextEncoder
from cl2cm_jax.models.backbone import TailOptions
from cl2cm_jax.models.backbones.text import clip_text
from cl2cm_jax.models.backbones.vision import clip_vit
from cl2cm_jax.models.configured import fingerprint, hashes, text_backbone, text_spec, vision_backbone
from cl2cm_jax.models.dual_encoders.folder import Scores, read_scores

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDERS = ("dual_clip", "dual_siglip", "open_clip", "open_clip_xlm")
TEXTS = ["A cat, and a DOG!", "", "zwei   hunde", "dog " * 30]
LENGTH = 12
MODEL, TEXT, IMAGE, BOTH = ("model_cfg",), ("model_cfg", "text_cfg"), ("model_cfg", "vision_cfg"), ("text_config",)


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def copy(name: str, to: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, to / name))


def change(folder: Path, *path: str, **entries: object) -> None:
    """Changes entries of the object at a path in the configuration; "absent" removes one."""
    file = folder / ("open_clip_config.json" if (folder / "open_clip_config.json").exists() else "config.json")
    content = json.loads(file.read_text())
    place = content
    for name in path:
        place = place.setdefault(name, {})
    place.update(entries)
    for name in [name for name, value in entries.items() if value == "absent"]:
        del place[name]
    file.write_text(json.dumps(content))


def test_texts_and_images_equal_the_reference_and_what_is_written_too(folder: Path, tmp_path: Path) -> None:
    text, vision = text_backbone("clip_text", folder), vision_backbone("clip_vit", folder)
    with np.load(folder / "outputs.npz") as found:
        golden = dict(found)
    batch = text.tokenizer(max_tokens=LENGTH)(TEXTS)
    ids, mask = (x[:, : batch.ids.shape[1]] for x in (golden["ids"], golden["mask"]))
    np.testing.assert_array_equal(batch.mask, mask)
    np.testing.assert_array_equal(batch.ids * mask, ids * mask)
    output = jax.jit(text.apply)(text.params, batch.ids, batch.mask)
    np.testing.assert_allclose(output.sentence, golden["sentence"], atol=1e-5)
    if "states" in golden:
        states = golden["states"][:, : mask.shape[1]] * mask[..., None]
        np.testing.assert_allclose(output.words, states, atol=1e-5)
    before, behind = text.marks
    assert output.mask.sum(1).tolist() == (mask.sum(1) - before - behind).tolist() and not output.mask[:, :before].any()
    assert (text.dim, text.sentence_size) == (output.words.shape[2], output.sentence.shape[1])
    pooled = jax.jit(vision.apply)(vision.params, golden["images"]).pooled
    np.testing.assert_allclose(pooled, golden["pooled"], atol=1e-5)

    text.write(tmp_path / "text", max_tokens=LENGTH)
    vision.write(tmp_path / "vision")
    again, seen = text_backbone("clip_text", tmp_path / "text"), vision_backbone("clip_vit", tmp_path / "vision")
    jax.tree.map(np.testing.assert_array_equal, again.params, text.params)
    jax.tree.map(np.testing.assert_array_equal, seen.params, vision.params)
    np.testing.assert_array_equal(again.tokenizer(max_tokens=LENGTH)(TEXTS).ids, batch.ids)
    assert again.shape == text.shape if isinstance(text, clip_text.ClipText) else again.sentence_size == 10  # pyright: ignore
    for prepare in (vision.preprocess, seen.preprocess):
        resized = scaled(
            golden["picture"], 24, shorter_side=prepare.shorter_side, filter=prepare.filter, even=prepare.even
        )
        np.testing.assert_allclose(prepare(resized), golden["prepared"], atol=1e-5)


@pytest.mark.parametrize("name", ["dual_clip", "dual_siglip", "open_clip_xlm"])
def test_a_tower_cut_at_any_layer_is_the_whole_one(name: str) -> None:
    text = text_backbone("clip_text", GOLDEN / name)
    tunable = text.tunable
    assert tunable is not None and tunable.layers == 2
    with np.load(GOLDEN / name / "outputs.npz") as golden:
        ids, mask = golden["ids"], golden["mask"]

    @jax.jit
    def run(params: dict) -> list:
        whole = tunable.tail(params, ids[..., None], mask, options=TailOptions(remat=True, scan=False))
        half = tunable.tail(params, ids[..., None], mask, options=TailOptions(dtype="bfloat16"))
        found = [whole, half]
        for first in (0, 1):
            below, above = tunable.cut(params, first)
            found.append(tunable.tail(above, tunable.prefix(below, ids, mask), mask))
        return found

    whole, half, *others = run(text.params)
    assert half.sentence.dtype == np.float32 and 0 < np.abs(half.sentence - whole.sentence).max() < 0.1
    for first, found in enumerate(others):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, whole)
        joined = tunable.join(text.params, jax.tree.map(lambda x: 2 * x, tunable.cut(text.params, first)[1]), first)
        factor = jax.tree.map(lambda new, old: np.unique(np.asarray(new / old)).tolist(), joined, text.params)
        assert factor["embeddings"]["word"]["embedding"] == [1] and set(
            map(tuple, jax.tree.leaves(factor["pool"], is_leaf=lambda x: isinstance(x, list)))
        ) == {(2,)}
        assert factor["layers"]["query"]["kernel"] == [1, 2][bool(first) ^ 1 :]


def test_siglip_computes_its_padding_and_keeps_it_in_the_states() -> None:
    text = text_backbone("clip_text", GOLDEN / "dual_siglip")
    assert (text.fixed_tokens, text.marks, text.max_tokens) == (12, (0, 1), 12)
    with pytest.raises(
        UserError, match=r"config\.text\.max_tokens=8: .* at 12 tokens, .*; to train layers of it, use 12"
    ):
        TextEncoder(text, max_tokens=8, first=0)
    texts = ["a cat", "", "a dog, cat"]
    features = TextEncoder(text, max_tokens=12, first=1)(texts)
    assert features.states is not None
    assert np.diff(features.states.offsets).tolist() == [12] * 3
    words = text.tokenizer(max_tokens=12)(texts).mask.sum(1) - 1
    inputs = features.states.states(np.arange(3), max_tokens=12)
    assert inputs["tokens"].all() and inputs["mask"].sum(1).tolist() == words.tolist()
    assert text.tunable is not None
    output = jax.jit(text.tunable.tail)(text.tunable.cut(text.params, 1)[1], inputs["states"], inputs["tokens"])
    np.testing.assert_allclose(output.sentence, features.sentences, atol=0.02)  # states are stored in half precision
    short = TextEncoder(text, max_tokens=8)(texts)  # frozen, any limit will do
    np.testing.assert_allclose(short.sentences[:2], features.sentences[:2], atol=1e-5)
    assert np.diff(short.words.offsets).tolist() == np.minimum(words, 7).tolist()


def test_clip_reads_the_first_end_or_with_its_first_configurations_the_highest_id(tmp_path: Path) -> None:
    folder = copy("dual_clip", tmp_path)
    text = text_backbone("clip_text", folder)
    assert isinstance(text, clip_text.ClipText)
    end = text.shape.eos
    change(folder, "text_config", eos_token_id=2)
    highest = text_backbone("clip_text", folder)
    change(folder, model_type="metaclip_2")
    assert clip_text.read_shape(folder)[8:11] == ("eos", 2, 0)  # MetaCLIP 2 ends with 2, and means it
    ids = np.array([[end - 1, 5, end, 6, end, 7], [9, 8, 7, 6, 5, 4]], np.int32)
    mask = np.ones(ids.shape, bool)

    def cut(ends: list[int]) -> np.ndarray:
        rows = np.arange(6) < np.array(ends)[:, None]
        tail, params = text.tunable, text.params
        assert tail is not None
        below, above = tail.cut(params, 0)
        return np.asarray(tail.tail(above, tail.prefix(below, ids, rows), rows).sentence)

    np.testing.assert_allclose(text.apply(text.params, ids, mask).sentence, cut([3, 1]), atol=1e-5)
    np.testing.assert_allclose(highest.apply(highest.params, ids, mask).sentence, cut([3, 1]), atol=1e-5)
    rows = text.tokenizer(max_tokens=LENGTH)(["a<|endoftext|>cat", "a"])
    assert rows.mask.sum(1).tolist() == [3, 3] and rows.ids[0].tolist() == rows.ids[1].tolist()
    change(folder, model_type="clip")
    change(folder, "text_config", eos_token_id=end - 2)
    with pytest.raises(UserError, match=rf"without config.json's eos_token_id={end - 2}; are they a pair\?"):
        text_backbone("clip_text", folder).tokenizer(max_tokens=LENGTH)


def test_early_configurations_leave_out_what_is_usual_and_repeat_a_tower(tmp_path: Path) -> None:
    folder = copy("dual_siglip", tmp_path)
    change(folder, text_config={"model_type": "siglip_text_model"}, vision_config={"model_type": "siglip_vision_model"})
    shape, image = clip_text.read_shape(folder), clip_vit.read_shape(folder)
    assert shape[:9] == (32000, 768, 12, 12, 3072, 64, 1e-6, "gelu_pytorch_tanh", "last")
    assert (shape.padding, shape.projection, shape.bias) == (0, 768, True)  # the padding is that of the tokenizer
    assert image[1:9] == (224, 16, 768, 12, 12, 3072, 1e-6, "gelu_pytorch_tanh")
    change(folder, text_config_dict={"hidden_size": 96, "num_attention_heads": 4}, text_config={"hidden_size": 7})
    assert clip_text.read_shape(folder)[1:4] == (96, 12, 4)


def test_scores_are_read_of_a_folder_with_both_towers(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(next(folder.glob("*.safetensors")))
    bias = float(tensors["logit_bias"][0]) if folder.name == "dual_siglip" else None
    assert read_scores(folder) == Scores(float(tensors["logit_scale"].reshape(())), bias)
    text_backbone("clip_text", folder).write(tmp_path / "text", max_tokens=LENGTH)
    assert read_scores(tmp_path / "text") is None


def test_a_folder_is_known_by_its_tokenizer_too(tmp_path: Path) -> None:
    folder = copy("dual_siglip", tmp_path)
    first, files = fingerprint("text", "clip_text", folder), text_spec("clip_text").hashes(folder)
    assert {"tokenizer.json", "tokenizer_config.json"} < files.keys() and callable(hashes)
    (folder / "spiece.model").write_bytes(b"1")
    assert fingerprint("text", "clip_text", folder) != first


@pytest.mark.parametrize(
    ("name", "path", "entries", "side", "message"),
    [
        ("dual_clip", (), {"model_type": "bert"}, "text", r"='bert' .*; config\.text\.backbone='bert' reads it"),
        ("dual_clip", (), {"model_type": "clip_vision_model"}, "text", "of a folder without its text tower; save"),
        ("dual_clip", (), {"model_type": "clip_text_model"}, "vision", "of a folder without its vision tower; save"),
        ("dual_siglip", (), {"model_type": "siglip2"}, "vision", "'siglip2' is NaFlex, .*; use a SigLIP 2 of"),
        ("dual_clip", BOTH, {"num_attention_heads": 3}, "text", "not divisible by num_attention_heads=3"),
        ("dual_clip", BOTH, {"hidden_act": "silu2"}, "text", "hidden_act='silu2' is not one of"),
        ("dual_clip", BOTH, {"eos_token_id": [1]}, "text", r"eos_token_id=\[1\] is not a whole number"),
        ("dual_clip", (), {"text_config": 3}, "text", "text_config=3 is not a JSON object"),
        ("dual_clip", BOTH, {"num_hidden_layers": 3}, "text", "layers.2.layer_norm1.weight is missing"),
        ("open_clip", MODEL, {"multimodal_cfg": {}}, "text", "CoCa is not supported"),
        ("open_clip", MODEL, {"audio_cfg": {}}, "text", r"model_cfg.audio_cfg=\{\} is not supported"),
        ("open_clip", IMAGE, {"layers": [3, 4, 6, 3]}, "vision", r"layers=\[3, 4, 6, 3\] is a ModifiedResNet"),
        ("open_clip", IMAGE, {"timm_model_name": "eva02_b"}, "vision", "'eva02_b' is an EVA network"),
        ("open_clip", IMAGE, {"timm_model_name": "swin"}, "vision", "'swin' is a network of timm"),
        ("open_clip", IMAGE, {"no_ln_pre": True}, "vision", "vision_cfg.no_ln_pre=True is not supported"),
        ("open_clip", IMAGE, {"ls_init_value": 1e-4}, "vision", "vision_cfg.ls_init_value=0.0001 is not"),
        ("open_clip", IMAGE, {"pool_type": "avg"}, "vision", "pool_type='avg' is not one of tok"),
        ("open_clip", IMAGE, {"width": 17}, "vision", "hidden_size=17 is not divisible"),
        ("open_clip", IMAGE, {"image_size": [24, 32]}, "vision", r"image_size=\[24, 32\] is not a whole"),
        ("open_clip", TEXT, {"embed_cls": True}, "text", "text_cfg.embed_cls=True is not supported"),
        ("open_clip", TEXT, {"no_causal_mask": True}, "text", "no_causal_mask=True, pool_type='argmax' and"),
        ("open_clip", TEXT, {"act_kwargs": {"approximate": "tanh"}}, "text", "does not go with quick_gelu"),
        ("open_clip", TEXT, {"mlp_ratio": "x"}, "text", "mlp_ratio='x' is not a number above 0"),
        ("open_clip", MODEL, {"quick_gelu": 1}, "text", "quick_gelu=1 is neither true nor false"),
        ("open_clip", MODEL, {"text_cfg": [1]}, "text", r"text_cfg=\[1\] is not a JSON object"),
        ("open_clip", ("preprocess_cfg",), {"resize_mode": "longest"}, "vision", "resize_mode='longest' is not one of"),
        ("open_clip", ("preprocess_cfg",), {"mean": [1, 2]}, "vision", r"config.json has image_mean=\[1, 2\]"),
        ("open_clip_xlm", TEXT, {"hf_pooler_type": "max_pooler"}, "text", "hf_pooler_type='max_pooler'"),
        ("open_clip_xlm", TEXT, {"hf_proj_type": None}, "text", "hf_proj_type=null with embed_dim=10"),
        ("open_clip_xlm", TEXT, {"hf_proj_type": "linear"}, "text", "proj.weight is missing"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(
    name: str, path: tuple[str, ...], entries: dict, side: str, message: str, tmp_path: Path
) -> None:
    folder = copy(name, tmp_path)
    change(folder, *path, **entries)
    with pytest.raises(UserError, match=message) as caught:
        text_backbone("clip_text", folder) if side == "text" else vision_backbone("clip_vit", folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_network_inside_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    folder = copy("open_clip_xlm", tmp_path)
    (folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(
        UserError, match="hf_model_name='tiny-xlm-roberta' is not supported; xlm-roberta-base, .* are, and"
    ):
        text_backbone("clip_text", folder)
    change(folder, "model_cfg", "text_cfg", hf_model_name=str(tmp_path))
    assert text_backbone("clip_text", folder).sentence_size == 10


def test_tensors_are_named_as_the_file_names_them(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(name for name in tensors if "text" in name or name.startswith("transformer.resblocks"))
    more = f"{name}.adapter"
    save_file(tensors | {more: np.zeros(3, np.float32)}, file)
    with pytest.raises(UserError, match=f"{more} is not known to the model"):
        text_backbone("clip_text", folder)
    save_file({key: np.zeros((2, 2), np.float32) if key == name else array for key, array in tensors.items()}, file)
    with pytest.raises(UserError, match=rf"{name} has shape \(2, 2\) instead of"):
        text_backbone("clip_text", folder)
