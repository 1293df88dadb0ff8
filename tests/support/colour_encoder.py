"""A model without training for tests of search and service: it embeds pictures and names of three colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cl2cm_jax.trained.encoder import Encoder
from cl2cm_jax.trained.model import TrainedModel

COLOURS = {"red": 0, "rot": 0, "赤": 0, "green": 1, "grün": 1, "blue": 2, "blau": 2, "أزرق": 2}


class ColourEncoder:
    """Counts the pictures that it encodes."""

    def __init__(self, weights: str = "step 10", *, frames: int = 1) -> None:
        self.seen = 0
        self.encoder = Encoder(text=self.text, images=self.images, weights=weights, frames=frames)

    def model(self, name: str, *languages: str) -> TrainedModel:
        return TrainedModel(self.encoder, name=name, languages=languages, dim=3)

    def text(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[COLOURS.get(text.split()[0], 0) for text in texts]]

    def images(self, clips: Iterable[Iterable[np.ndarray]]) -> np.ndarray:
        means = []
        for clip in clips:
            frames = [frame.reshape(-1, 3).mean(axis=0) for frame in clip]
            self.seen += bool(frames)
            means.append(np.mean(frames, axis=0) if frames else np.ones(3))
        return (np.stack(means) / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def paint(path: Path, colour: str, *, side: int = 9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)
    return path
