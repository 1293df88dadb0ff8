"""`backbone="transformers"`: architectures that the code does not know, compared with their own libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.any_models import TEXT_MODELS, VISION_MODELS, write_text_model, write_vision_model
from support.finished_runs import TEXTS, write_finished_run

import cl2cm_jax
from cl2cm_jax.errors import UserError
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.export.conversions import add_onnx, add_stablehlo
from cl2cm_jax.features.encoders import ImageEncoder, TextEncoder
from cl2cm_jax.models.configured import fingerprint, text_backbone, vision_backbone
from cl2cm_jax.trained.student import load_encoder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentence_transformers = pytest.importorskip("sentence_transformers")

pytestmark = pytest.mark.slow

SENTENCES = ["red car", "", "red", "ein rotes Auto und car", "car " * 60]


def with_modules(folder: Path, **options: Any) -> Path:
    """The folder as one of sentence-transformers: pooling, a dense module, normalised."""
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

    first = modules.Transformer(str(folder), max_seq_length=12)
    pooling = modules.Pooling(first.get_embedding_dimension(), **options)
    dense = modules.Dense(first.get_embedding_dimension(), 6)
    place = folder.with_name("modules")
    made = sentence_transformers.SentenceTransformer(modules=[first, pooling, dense, modules.Normalize()], device="cpu")
    made.save(str(place))
    return place


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_equals_sentence_transformers(name: str, tmp_path: Path) -> None:
    write_text_model(name, tmp_path / "model")
    peer = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    backbone = text_backbone("transformers", tmp_path / "model")
    texts = [text for text in SENTENCES if text or name != "GPT2"]  # which has no token of an empty text
    assert np.isfinite(TextEncoder(backbone, max_tokens=12)([""]).sentences).all()
    ours = TextEncoder(backbone, max_tokens=12)(texts)
    peer.max_seq_length = 12
    np.testing.assert_allclose(ours.sentences, peer.encode(texts, normalize_embeddings=True), atol=1e-5)
    states = peer.encode(texts, output_value="token_embeddings")
    begin, end = TEXT_MODELS[name][1].startswith("["), TEXT_MODELS[name][1].endswith("]")
    assert backbone.marks == (begin, end)
    words = [one.numpy()[begin : len(one) - end] for one in states]
    np.testing.assert_allclose(ours.words.values, np.concatenate(words), atol=1e-3, rtol=1e-3)  # kept as float16
    assert text_backbone("transformers", tmp_path / "model").tokenizer(max_tokens=9).words("red car") == ["red", "car"]


@pytest.mark.parametrize("pool", ["mean", "cls", "lasttoken"])
def test_modules_equal_sentence_transformers(pool: str, tmp_path: Path) -> None:
    write_text_model("MPNet", tmp_path / "model")
    folder = with_modules(tmp_path / "model", pooling_mode=pool)
    peer = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    backbone = text_backbone("transformers", folder)
    assert (backbone.dim, backbone.sentence_size, backbone.max_tokens) == (peer[0].get_embedding_dimension(), 6, 12)
    ours = TextEncoder(backbone, max_tokens=12)(SENTENCES)
    np.testing.assert_allclose(ours.sentences, peer.encode(SENTENCES), atol=1e-5)
    assert ours.words.values.shape[1] == backbone.dim


@pytest.mark.parametrize("name", VISION_MODELS)
def test_vision_equals_transformers(name: str, tmp_path: Path) -> None:
    model = write_vision_model(name, tmp_path / "model")
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (*size, 3), np.uint8) for size in ((40, 60), (33, 31), (90, 45))]
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model", backend="pil")
    with torch.no_grad():
        theirs = model(**prepare([Image.fromarray(picture) for picture in pictures], return_tensors="pt"))
    states = theirs.last_hidden_state
    states = states.flatten(2).transpose(1, 2) if states.ndim == 4 else states
    backbone = vision_backbone("transformers", tmp_path / "model")
    assert (backbone.frames, backbone.dim) == tuple(states.shape[1:])
    np.testing.assert_allclose(ImageEncoder(backbone, pool="tokens")(pictures), states.numpy(), atol=1e-5)
    pooled = theirs.pooler_output.flatten(1).numpy()
    np.testing.assert_allclose(ImageEncoder(backbone, pool="backbone")(pictures)[:, 0], pooled, atol=1e-5)


def test_two_towers_give_the_projected_vector(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    towers = {"text_config": sizes, "vision_config": sizes | {"image_size": 16, "patch_size": 8}}
    model = transformers.CLIPModel(transformers.CLIPConfig(**towers, projection_dim=5)).eval()
    model.save_pretrained(tmp_path)
    side = {"height": 16, "width": 16}
    transformers.CLIPImageProcessorPil(size=side, crop_size=side).save_pretrained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    ours = {name: ImageEncoder(vision_backbone(name, tmp_path), pool="backbone")([picture]) for name in BOTH}
    assert ours["transformers"].shape == (1, 1, 5)
    np.testing.assert_allclose(ours["transformers"], ours["clip_vit"], atol=1e-5)


BOTH = ("transformers", "clip_vit")


def test_a_run_searches_and_its_bundle_gives_the_same_vectors(tmp_path: Path) -> None:
    write_text_model("T5Encoder", tmp_path / "text")
    write_vision_model("Swin", tmp_path / "vision")
    (tmp_path / "text" / "LICENSE").write_text("of the text model")
    fields = {"text__backbone": "transformers", "text__path": str(tmp_path / "text"), "text__max_tokens": 8}
    fields |= {"vision__backbone": "transformers", "vision__path": str(tmp_path / "vision")}
    run = write_finished_run(tmp_path / "run", student__dim=12, **fields)
    trained = read_trained(run)
    for flag in (add_onnx, add_stablehlo):
        with pytest.raises(UserError, match="config.text.backbone='transformers' is run by PyTorch"):
            flag(trained)
    write_bundle(trained, tmp_path / "bundle")
    expected, card = load_encoder(run).text(TEXTS), (tmp_path / "bundle" / "README.md").read_text()
    assert "torch transformers sentence-transformers" in card and "PyTorch are not needed" not in card
    assert (tmp_path / "bundle" / "licences" / "text" / "LICENSE").read_text() == "of the text model"
    for name in ("text", "vision"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    opened = cl2cm_jax.from_pretrained(tmp_path / "bundle")
    np.testing.assert_allclose(opened.encode_text(TEXTS), expected, atol=1e-6)
    assert opened.encode_image([Image.new("RGB", (40, 30), "red")]).shape == (1, 12)


def damaged_pooler(folder: Path) -> None:
    """Without the weights of the pooler, as in a folder of a classifier."""
    transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)


def test_missing_weights_are_never_random(tmp_path: Path) -> None:
    write_vision_model("ViT", tmp_path / "model")
    damaged_pooler(tmp_path / "model")
    backbone = vision_backbone("transformers", tmp_path / "model")
    output = backbone.apply(backbone.params, np.ones((1, 32, 32, 3), np.float32))
    np.testing.assert_allclose(output.pooled, output.features[:, 0])  # the class token
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="missing or of another shape"):
        vision_backbone("transformers", tmp_path / "model")
    write_text_model("MPNet", tmp_path / "text")
    config = json.loads((tmp_path / "text" / "config.json").read_text())
    (tmp_path / "text" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match="missing or of another shape"):
        text_backbone("transformers", tmp_path / "text")


def test_the_fingerprint_follows_every_file_that_is_read(tmp_path: Path) -> None:
    write_text_model("MPNet", tmp_path / "model")
    folder = with_modules(tmp_path / "model", pooling_mode="mean")
    seen = {fingerprint("text", "transformers", folder)}
    for name in ("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "tokenizer.json"):
        (folder / name).write_text((folder / name).read_text() + " ")
        seen.add(fingerprint("text", "transformers", folder))
    (folder / "README.md").write_text("another")
    assert len(seen | {fingerprint("text", "transformers", folder)}) == 5


def test_folders_that_would_run_code_are_refused(tmp_path: Path) -> None:
    write_text_model("MPNet", tmp_path / "model")
    folder = with_modules(tmp_path / "model", pooling_mode="mean")
    dense = folder / "2_Dense" / "model.safetensors"
    dense.rename(dense.with_name("pytorch_model.bin"))
    with pytest.raises(UserError, match="2_Dense/pytorch_model.bin is a pickle"):
        text_backbone("transformers", folder)
    modules = json.loads((folder / "modules.json").read_text())
    for changed, message in (
        ({"type": "os.system"}, "has the module 'os.system'"),
        ({"type": "modeling.Mine"}, "has the module 'modeling.Mine'"),
        ({"path": "../elsewhere"}, "not a folder in it"),
        ({"path": "/etc"}, "not a folder in it"),
    ):
        (folder / "modules.json").write_text(json.dumps([modules[0], modules[1] | changed]))
        with pytest.raises(UserError, match=message):
            text_backbone("transformers", folder)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(
        UserError, match="model_type='mine' needs code of its own folder .auto_map., which is never run"
    ):
        text_backbone("transformers", tmp_path / "model")


def two_towers(folder: Path, name: str, vision: dict[str, Any]) -> None:
    """Writes a model with two towers, without tokenizer and image processor."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2}
    towers = {"text_config": sizes | {"vocab_size": 50}, "vision_config": sizes | vision}
    getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**towers)).save_pretrained(folder)


def test_models_of_other_inputs_are_named(tmp_path: Path) -> None:
    write_vision_model("ViT", tmp_path / "vit")
    write_text_model("MPNet", tmp_path / "mpnet")
    two_towers(tmp_path / "clip", "CLIP", {"image_size": 16, "patch_size": 8})
    two_towers(tmp_path / "naflex", "Siglip2", {"num_patches": 4, "patch_size": 8})
    transformers.CLIPImageProcessorPil().save_pretrained(tmp_path / "clip")
    for file in (tmp_path / "mpnet").glob("tokenizer*.json"):
        shutil.copy(file, tmp_path / "clip")
    for load, name, message in (
        (text_backbone, "vit", "model_type='vit' is of a model of pictures, not of texts; .* config.text.path"),
        (vision_backbone, "mpnet", "model_type='mpnet' is of a model of texts, not of pictures; .* config.vision.path"),
        (text_backbone, "clip", "no pooling of the states of its tokens; config.text.backbone='clip_text' reads it"),
        (vision_backbone, "naflex", "model_type='siglip2' is NaFlex, .*; use a SigLIP 2 of a fixed resolution"),
    ):
        with pytest.raises(UserError, match=message):
            load("transformers", tmp_path / name)
    for part, load in (("mpnet", text_backbone), ("vit", vision_backbone)):
        place = tmp_path / part / "config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | {"model_type": "mine"}))
        with pytest.raises(UserError, match="'mine' is unknown to transformers 5.*; install a newer one, or use"):
            load("transformers", tmp_path / part)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    write_text_model("MPNet", tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    known = len(content["model"]["vocab"])
    added = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"].append({"id": 50, "content": "<image>"} | added)  # as Gemma 3 has: of no embedding
    file.write_text(json.dumps(content))
    assert text_backbone("transformers", tmp_path).dim == 16
    content["model"]["vocab"] |= {f"w{number}": number for number in range(known, 60)}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < known]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"gives ids up to \d+, but the model has 50 word pieces; are they a pair\?"):
        text_backbone("transformers", tmp_path)


def test_a_text_that_is_longer_than_the_model_takes_is_an_error_of_one_line(tmp_path: Path) -> None:
    write_text_model("MPNet", tmp_path)  # whose positions begin behind the padding, so that two are lost
    for name, change in (("config", {"max_position_embeddings": 22}), ("tokenizer_config", {"model_max_length": None})):
        content = json.loads((tmp_path / f"{name}.json").read_text())
        (tmp_path / f"{name}.json").write_text(json.dumps(content | change))
    model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="fails on a batch .index out of range.*use shorter texts") as error:
        TextEncoder(text_backbone("transformers", tmp_path), max_tokens=22)(["car " * 60])
    assert "\n" not in str(error.value)
