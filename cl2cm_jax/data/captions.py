"""The caption table: what readers and data sets yield, and what checks, splits, storage and features work on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from cl2cm_jax.data.readers.problems import Problem
from cl2cm_jax.errors import UserError

SPLITS = ("train", "validation", "test")
ORIGINS = ("human", "machine", "human_noised")
HEADLINE = "headline"  # the group of the images that count; other groups are evaluated separately
_VALIDATION_SHARE = _TEST_SHARE = 0.1


class ShardOffset(NamedTuple):
    """Where a picture is stored in a tar shard."""

    shard: str
    offset: int
    size: int


class Caption(NamedTuple):
    """A row of the table: one caption of one image or clip. The other columns are the same in all rows of an image."""

    image: str  # id, often the path within the picture folder
    language: str  # such as "en"
    caption: str
    split: str = ""  # one of SPLITS, "" if there is no such column
    origin: str = "human"  # one of ORIGINS
    concept: str = ""  # images of one concept belong to one split; "": each image is its own concept
    group: str = HEADLINE  # such as "flags"
    picture: str | ShardOffset = ""  # path of a file or of a folder of frames; "" if the image has features
    line: int = 0  # of the caption file, counted from 1; 0 if it comes from elsewhere


@dataclass(frozen=True)
class CaptionTable:
    """Captions in the order of their images, and the problems of those that were left out."""

    rows: list[Caption]
    problems: list[Problem] = field(default_factory=list)


def by_image(rows: Iterable[Caption]) -> dict[str, list[Caption]]:
    """The rows of each image, images in the order of their first row."""
    images: dict[str, list[Caption]] = {}
    for row in rows:
        images.setdefault(row.image, []).append(row)
    return images


def by_split(rows: Iterable[Caption]) -> dict[str, dict[str, list[Caption]]]:
    """The rows of each split by image; without a split column, 80 / 10 / 10 of the images, at least one.

    Images are drawn in the order of a hash of their ids, so the split depends on nothing else.

    Raises:
      UserError: a row has another split, or none where others have one.
    """
    rows = list(rows)
    if any(row.split for row in rows):
        splits: dict[str, dict[str, list[Caption]]] = {split: {} for split in SPLITS}
        for row in rows:
            if row.split not in splits:
                raise UserError(f"image {row.image!r} has split={row.split!r}; use one of {', '.join(SPLITS)}")
            splits[row.split].setdefault(row.image, []).append(row)
        return splits
    images = sorted(by_image(rows).items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    validation = max(1, round(_VALIDATION_SHARE * len(images)))
    test = max(1, round(_TEST_SHARE * len(images)))
    return {
        "train": dict(images[validation + test :]),
        "validation": dict(images[:validation]),
        "test": dict(images[validation : validation + test]),
    }
