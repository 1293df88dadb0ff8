"""One record of a data set: an image with its captions, the same for every builder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "validation", "test")
HEADLINE = "headline"  # the group of the pictures that count; others are evaluated apart


@dataclass(frozen=True)
class Caption:
    """A caption and where it comes from."""

    language: str  # e.g. "en"
    text: str
    origin: str  # "human", "machine" or "human_noised"


@dataclass(frozen=True)
class Record:
    """An image or a clip (or its features) and its captions in all languages."""

    image: bytes | None  # an encoded image file, animated or not; None where there are features or files of frames
    feature: np.ndarray | None  # (frames, d) float32, or None where there is an image
    image_id: str
    group: str  # HEADLINE, or the name of a group that is evaluated apart, e.g. "flags"
    concept: str  # images of one concept are all in one split
    path: str  # of the image file or the folder of frames, "" where there is none
    captions: tuple[Caption, ...]
    frames: tuple[bytes, ...] = ()  # encoded image files, if the clip was a folder of frames

    @property
    def files(self) -> tuple[bytes, ...]:
        """The encoded files of the image or clip; none where there are features."""
        return self.frames or (() if self.image is None else (self.image,))
