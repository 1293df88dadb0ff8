"""The zero-shot table of a student before training, and its vectors, against both towers run by transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.drawn_set import write_drawn_set

from cl2cm_jax import config as configs
from cl2cm_jax.training.experiment import build
from cl2cm_jax.training.validation import validate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


def random_model(kind: str, seed: int, folder: Path) -> Any:
    """A random small model with the tokenizer and the preprocessing of the golden one."""
    random, golden = np.random.default_rng(seed), GOLDEN / f"dual_{kind.lower()}"
    config = getattr(transformers, f"{kind}Config").from_pretrained(golden)
    width = 4 * int(random.integers(3, 7))
    for part in (config.text_config, config.vision_config):
        part.num_hidden_layers, part.hidden_size = int(random.integers(1, 4)), width
        part.intermediate_size = int(random.integers(5, 40))
    if kind == "CLIP":
        config.projection_dim = config.text_config.projection_dim = config.vision_config.projection_dim = 12
    else:
        config.text_config.projection_size = width
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    for name in FILES:
        shutil.copy(golden / name, folder)
    return model


def recalls(similarity: Any) -> dict[str, float]:
    """Recalls of a square matrix of captions (rows) and pictures, in percent."""
    found = {}
    for direction, scores in (("text_to_vision", similarity), ("vision_to_text", similarity.T)):
        order = scores.argsort(dim=1, descending=True)
        place = (order == torch.arange(len(scores))[:, None]).int().argmax(dim=1)
        found |= {f"{direction}/R@{k}": 100 * float((place < k).float().mean()) for k in (1, 5, 10)}
    return found


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_before_training_the_table_equals_transformers(kind: str, seed: int, tmp_path: Path) -> None:
    model, drawn = random_model(kind, seed, tmp_path / "model"), write_drawn_set(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    prepare = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(tmp_path / "model")
    place, dim = str(tmp_path / "model"), 12 if kind == "CLIP" else model.config.text_config.hidden_size
    residual = {"student.dim": str(dim), "student.text_residual": "True", "student.vision_residual": "True"}
    towers = {"text.backbone": "clip_text", "vision.backbone": "clip_vit", "text.path": place, "vision.path": place}
    rest = {"text.max_tokens": "12", "contrastive.temperature": "0", "teacher.head": "none", "confidence.kind": "none"}
    run = build(configs.read(str(drawn / "config.py"), towers | residual | rest | {"weights.transfer": "0"}))
    student, corpus = run.step.init()["params"]["student"], run.validation
    pictures = [Image.open(path).convert("RGB") for path in corpus.paths]
    found = validate(run, student)
    with torch.no_grad():
        pixels = prepare(images=pictures, return_tensors="pt")["pixel_values"]
        vision = torch.nn.functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1)
    np.testing.assert_allclose(run.embedder.images(student, corpus), vision.numpy(), atol=1e-5)
    for language in ("en", "de", "fr"):
        rows = corpus.captions_of(language)
        given = tokenizer(
            [corpus.caption_text[row] for row in rows], padding="max_length", max_length=12, truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            text = torch.nn.functional.normalize(model.get_text_features(**given).pooler_output, dim=-1)
        np.testing.assert_allclose(run.embedder.text(student, corpus.text, rows), text.numpy(), atol=1e-5)
        expected = recalls(text @ vision.T)
        assert {name: found.retrieval.per_language[language][name] for name in expected} == pytest.approx(
            expected, abs=1e-5
        )
    scale = float(model.logit_scale.detach())
    np.testing.assert_allclose(-student["log_temperature"], scale, atol=1e-5)
