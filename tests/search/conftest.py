from __future__ import annotations

import numpy as np
import pytest
from colour_encoder import ColourEncoder

from cl2cm_jax.evaluation.gallery import GALLERY_FILE, Gallery, save_gallery


@pytest.fixture
def colours() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def gallery() -> Gallery:
    vectors = np.array([[0.6, 0.8, 0], [0, 1, 0], [1, 0, 0], [0, 0.6, 0.8]], np.float32)
    return Gallery(vectors, ("olive", "leaf", "犬", "sea"), ("an olive", "a [leaf]", "a red dog", "the sea"),
                   ("olive.png", "leaf.png", "", "sea.png"), "step 10")  # fmt: skip


@pytest.fixture
def workdir(tmp_path, gallery):
    save_gallery(tmp_path / "run" / GALLERY_FILE, gallery)
    return tmp_path / "run"
