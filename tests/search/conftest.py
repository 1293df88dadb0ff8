from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from cl2cm_jax.search.encoder import Encoder
from cl2cm_jax.search.gallery import GALLERY_FILE, Gallery, save_gallery

COLOURS = {"red": 0, "rot": 0, "赤": 0, "green": 1, "grün": 1, "blue": 2, "blau": 2}


class ColourEncoder:
    """Knows three colours by name and by sight, and counts the pictures that it was given."""

    def __init__(self, weights: str = "step 10", *, frames: int = 1) -> None:
        self.seen = 0
        self.encoder = Encoder(text=self.text, images=self.images, weights=weights, frames=frames)

    def text(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[COLOURS[text.split()[0]] for text in texts]]

    def images(self, clips: Iterable[Iterable[np.ndarray]]) -> np.ndarray:
        means = []
        for clip in clips:
            frames = [frame.reshape(-1, 3).mean(axis=0) for frame in clip]
            self.seen += bool(frames)
            means.append(np.mean(frames, axis=0) if frames else np.ones(3))
        return (np.stack(means) / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


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
