"""A small corpus and a small folder of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl2cm_jax.data.corpus import Corpus, Ragged


@pytest.fixture
def corpus() -> Corpus:
    """10 images; two English, one German and one French caption each, but image 3 lacks French and image 9 English."""
    rows = [(i, language) for i in range(10) for language in (0, 0, 1, 2)]
    rows = [row for row in rows if row not in ((3, 2), (9, 0))]
    image, language = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    count = len(rows)
    random = np.random.default_rng(0)
    lengths = 1 + np.arange(count) % 4
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(
        name="train",
        languages=("en", "de", "fr"),
        image_ids=np.array([f"image{i}" for i in range(10)]),
        groups=np.array(["headline"] * 8 + ["flags"] * 2),
        paths=[""] * 10,
        vision=random.normal(size=(10, 2, 3)).astype(np.float32),
        vision_mask=np.ones((10, 2), bool),
        caption_text=[f"caption {row}" for row in range(count)],
        caption_image=image,
        caption_language=language,
        caption_origin=np.array(["human"] * count),
        sentences=np.arange(count, dtype=np.float32)[:, None] + np.zeros((1, 5), np.float32),
        words=Ragged(
            values=np.repeat(np.arange(count), lengths)[:, None].astype(np.float16) + np.zeros((1, 5), np.float16),
            offsets=offsets,
            is_word=np.ones(offsets[-1], bool),
        ),
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a.png to j.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, name in enumerate("abcdefghij"):
        Image.new("RGB", (8, 6), (20 * index, 0, 0)).save(folder / f"{name}.png")
    return folder
