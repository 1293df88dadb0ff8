"""A set with one changed picture and one changed caption: the encoders run over these alone."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.finished_runs import GOLDEN
from support.tiny_models import write_tiny_bert

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

from ml_collections import ConfigDict

from cl2cm_jax.config import defaults
from cl2cm_jax.features import cache, encoders
from cl2cm_jax.features.cache import Corpora

COUNT, LANGUAGES = 12, ("en", "de")
WORDS = ("red", "dog", "house", "car")


def write_captions(folder: Path, *, changed: bool) -> None:
    """Two captions for each picture; the changed one has one word more."""
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "language", "caption", "split"])
        for number in range(COUNT):
            split = ("train", "train", "validation", "test")[number % 4]
            for language in LANGUAGES:
                text = f"{WORDS[number % 4]} {WORDS[number // 4]} {language}"
                more = " dog" if changed and (number, language) == (0, "de") else ""
                writer.writerow([f"{number}.png", language, text + more, split])


@pytest.fixture
def config(tmp_path: Path) -> ConfigDict:
    (tmp_path / "pictures").mkdir()
    for number in range(COUNT):
        Image.new("RGB", (40, 40), (number * 20, 0, 99)).save(tmp_path / "pictures" / f"{number}.png")
    write_captions(tmp_path, changed=False)
    c = defaults()
    c.data.name, c.data.dir, c.data.targets = "captions", str(tmp_path / "data"), ("de",)
    c.data.captions, c.data.images = str(tmp_path / "captions.csv"), str(tmp_path / "pictures")
    c.text.backbone, c.text.path, c.text.max_tokens = "bert", str(write_tiny_bert(tmp_path / "bert")), 8
    c.vision.backbone, c.vision.path, c.vision.pool = "clip_vit", str(GOLDEN / "clip"), "backbone"
    return c


class Work:
    """Numbers of what the encoders are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.pictures = self.captions = 0
        each, fill = encoders.ImageEncoder.each, encoders.TextEncoder._fill

        def counted(encoder: encoders.ImageEncoder, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            def counting() -> Iterator[np.ndarray]:
                for image in images:
                    self.pictures += 1
                    yield image

            return each(encoder, counting())

        def filled(encoder: encoders.TextEncoder, out: object, rows: np.ndarray, tokens: object) -> None:
            self.captions += len(rows)
            fill(encoder, out, rows, tokens)  # type: ignore[arg-type]

        monkeypatch.setattr(encoders.ImageEncoder, "each", counted)
        monkeypatch.setattr(encoders.TextEncoder, "_fill", filled)

    def taken(self) -> tuple[int, int]:
        """Pictures and captions since the last call."""
        found, self.pictures, self.captions = (self.pictures, self.captions), 0, 0
        return found


def assert_close(found: Corpora, expected: Corpora) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.caption_text == other.caption_text and list(one.image_ids) == list(other.image_ids)
        np.testing.assert_allclose(one.vision, other.vision, atol=1e-6)
        np.testing.assert_allclose(one.sentences, other.sentences, atol=1e-6)
        np.testing.assert_array_equal(one.words.offsets, other.words.offsets)
        np.testing.assert_allclose(one.words.values, other.words.values, atol=1e-3)  # float16


def test_only_what_changed_is_computed(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "spread", lambda rows, spread=encoders.spread: spread(1))
    work = Work(monkeypatch)
    cache.all_corpora(config)
    assert work.taken() == (COUNT, COUNT * len(LANGUAGES))
    write_captions(tmp_path, changed=True)
    batch = encoders.spread(encoders.TEXT_BATCH).rows
    changed = cache.all_corpora(config)
    pictures, captions = work.taken()
    assert pictures == 0 and 0 < captions <= batch, "the batch of the changed caption"
    old, new = sorted((tmp_path / "data" / "features").glob("[0-9a-f]*"), key=lambda folder: folder.stat().st_mtime)
    shared = {path.relative_to(new) for path in new.rglob("*.npy") if path.samefile(old / path.relative_to(new))}
    own = {path.relative_to(new) for path in new.rglob("*.npy")} - shared
    assert {str(path) for path in own} == {
        f"train/{name}.npy" for name in ("sentences", "words", "words_offsets", "words_real")
    }
    Image.new("RGB", (40, 40), "white").save(tmp_path / "pictures" / "2.png")
    repainted = cache.all_corpora(config)
    assert work.taken() == (1, 0)
    config.data.dir = str(tmp_path / "elsewhere")
    assert_close(repainted, cache.all_corpora(config))
    assert work.taken() == (COUNT, COUNT * len(LANGUAGES)), "another folder has no earlier features"
    assert changed.train.caption_text == repainted.train.caption_text


def test_features_of_other_encoders_or_damaged_ones_are_not_taken(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch)
    cache.all_corpora(config)
    (folder,) = (tmp_path / "data" / "features").glob("[0-9a-f]*")
    work.taken()
    config.text.max_tokens = 6
    cache.all_corpora(config)
    assert work.taken() == (COUNT, COUNT * len(LANGUAGES))
    config.text.max_tokens = 8
    write_captions(tmp_path, changed=True)
    sentences = folder / "train" / "sentences.npy"
    sentences.write_bytes(sentences.read_bytes()[:-1] + b"\0")
    os.utime(folder, (2e9, 2e9))
    cache.all_corpora(config)
    assert work.taken() == (COUNT, COUNT * len(LANGUAGES))
