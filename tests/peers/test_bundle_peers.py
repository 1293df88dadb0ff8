"""A bundle with stock towers in transformers and sentence-transformers, and any text tower in fastembed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import GOLDEN, TEXTS, write_finished_run
from support.tiny_models import write_tiny_bert, write_tiny_text

import cl2cm_jax
from cl2cm_jax.export.bundle import read_trained, write_bundle
from cl2cm_jax.trained.bundle import Parts

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

SENTENCES = ["a red car", "", "Zwei Hunde schlafen am Straßenrand, 犬!", "sea and sand " * 60]
TUNED = {"student__text__trainable": "all", "student__vision__trainable": "layers 1-1"}


def bundle_of(folder: Path, model: Path, *, family: str = "bert", **changes: Any) -> Path:
    text = {"text__backbone": family, "text__path": str(model)}
    fields = text | {"student__dim": 12, "vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}
    run = write_finished_run(folder / "run", **fields | changes)
    write_bundle(read_trained(run), folder / "bundle")
    return folder / "bundle"


TEMPLATES = {"modernbert": "[CLS] $A [SEP]", "qwen3": "$A [SEP]"}


@pytest.fixture(scope="module", params=["frozen", "tuned", "siglip at another size", *TEMPLATES])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, family = tmp_path_factory.mktemp("tiny"), request.param
    if family in TEMPLATES:
        model = write_tiny_text(folder / "model", family, template=TEMPLATES[family])
        return bundle_of(folder, model, family=family, text__max_tokens=8, student__text__trainable="all")
    other = {"vision__path": str(GOLDEN / "siglip"), "vision__image_size": 32}
    changes = {"frozen": {}, "tuned": TUNED}.get(request.param, other)
    return bundle_of(folder, write_tiny_bert(folder / "bert"), text__max_tokens=8, **changes)


def test_sentence_transformers_gives_the_same_vectors(tiny: Path) -> None:
    peer = pytest.importorskip("sentence_transformers").SentenceTransformer(str(tiny), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS), cl2cm_jax.from_pretrained(tiny).encode_text(TEXTS), atol=1e-5)


def test_transformers_loads_every_tensor_and_tokenises_alike(tiny: Path) -> None:
    model, info = transformers.AutoModel.from_pretrained(tiny, output_loading_info=True)
    assert not any(info.values()), info
    tokens = transformers.AutoTokenizer.from_pretrained(tiny)(TEXTS, truncation=True, padding=True, return_tensors="pt")
    parts = Parts(tiny)
    with torch.no_grad():
        states = model.eval()(**tokens).last_hidden_state.numpy()
    mask = tokens["attention_mask"].numpy().astype(bool)
    ours = parts.text.apply(parts.text.params, tokens["input_ids"].numpy().astype(np.int32), mask)
    np.testing.assert_allclose(ours.words, states * mask[..., None], atol=1e-5)


def test_transformers_sees_the_same_pictures(tiny: Path) -> None:
    parts = Parts(tiny)
    assert parts.vision is not None
    siglip = (tiny / "vision" / "config.json").read_text().find("siglip_vision_model") >= 0
    name = "SiglipVisionModel" if siglip else "CLIPVisionModelWithProjection"
    model, info = getattr(transformers, name).from_pretrained(tiny, subfolder="vision", output_loading_info=True)
    assert not any(info.values()), info
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    prepare = transformers.AutoImageProcessor.from_pretrained(tiny, subfolder="vision", backend="pil")
    with torch.no_grad():
        output = model.eval()(**prepare([picture], return_tensors="pt"))
    theirs = (output.pooler_output if siglip else output.image_embeds).numpy()
    head = parts.student["vision"]
    centred = theirs - theirs.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
    vector = (normed * head["norm"]["scale"] + head["norm"]["bias"]) @ head["project"]["kernel"] + head["project"][
        "bias"
    ]
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    np.testing.assert_allclose(cl2cm_jax.from_pretrained(tiny).encode_image([picture]), vector, atol=1e-5)


def test_a_real_model_loads_in_sentence_transformers(minilm: Path, tmp_path: Path) -> None:
    folder = bundle_of(tmp_path, minilm, student__dim=64, text__max_tokens=64)
    peer = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder), device="cpu")
    ours = cl2cm_jax.from_pretrained(folder).encode_text(SENTENCES)
    np.testing.assert_allclose(peer.encode(SENTENCES), ours, atol=1e-5)


def test_fastembed_reads_the_text_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fastembed = pytest.importorskip(
        "fastembed", reason="fastembed needs huggingface_hub below 2: an environment of its own"
    )
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed (docs/export.md)")
    from fastembed.common.model_description import (  # pyright: ignore[reportMissingImports]
        ModelSource,
        PoolingType,
    )

    from cl2cm_jax.export.conversions import add_onnx

    monkeypatch.setattr("cl2cm_jax.export.quality.read_test_split", lambda *_: None)
    fields = {"text__backbone": "bert", "text__path": str(write_tiny_bert(tmp_path / "bert")), "text__max_tokens": 8}
    images = {"vision__backbone": "clip_vit", "vision__path": str(GOLDEN / "clip")}
    trained = read_trained(write_finished_run(tmp_path / "run", student__dim=12, **fields, **images))
    write_bundle(trained, tmp_path / "bundle", additions=[add_onnx(trained)])
    fastembed.TextEmbedding.add_custom_model(
        model="cl2cm",
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf="org/name"),
        dim=12,
        model_file="onnx/text.onnx",
    )
    peer = fastembed.TextEmbedding("cl2cm", specific_model_path=str(tmp_path / "bundle"))
    found = np.stack(list(peer.embed(TEXTS)))
    np.testing.assert_allclose(found, cl2cm_jax.from_pretrained(tmp_path / "bundle").encode_text(TEXTS), atol=1e-5)
