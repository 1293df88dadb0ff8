"""Data sets for tests: opened by name, built, and read back image by image."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cl2cm_jax.config import defaults
from cl2cm_jax.data import sets
from cl2cm_jax.data.captions import SPLITS, by_image
from cl2cm_jax.data.captions import Caption as Row

if TYPE_CHECKING:
    from cl2cm_jax.data.stored_sets import StoredSet


class Caption(NamedTuple):
    """The columns of a row that differ between the captions of an image."""

    language: str
    text: str
    origin: str


class Record(NamedTuple):
    """An image of a built set."""

    image_id: str
    group: str
    concept: str
    path: str
    captions: tuple[Caption, ...]
    files: tuple[bytes, ...]
    feature: np.ndarray | None


def open_set(name: str, data_dir: str | Path, **fields: Any) -> StoredSet:
    """The set of `config.data` with these fields, which need not be built."""
    data = defaults().data
    data.name, data.dir = name, str(data_dir)
    data.update({field: str(value) if isinstance(value, Path) else value for field, value in fields.items()})
    return sets.stored_set(data)


def build_set(name: str, data_dir: str | Path, **fields: Any) -> StoredSet:
    """As `open_set`, built."""
    from cl2cm_jax.data.stored_sets import prepare

    stored = open_set(name, data_dir, **fields)
    prepare(stored)
    return stored


def captions_of(rows: Iterable[Row]) -> tuple[Caption, ...]:
    """The captions of the rows of one image."""
    return tuple(Caption(row.language, row.caption, row.origin) for row in rows)


def read_records(stored: StoredSet, split: str) -> list[Record]:
    """The images of a split with their captions and pictures."""
    from cl2cm_jax.data.stored_sets import read_captions, read_pictures

    images = by_image(read_captions(stored, split)[0]).values()
    return [
        Record(
            image_id=rows[0].image,
            group=rows[0].group,
            concept=rows[0].concept,
            path=str(rows[0].picture),
            captions=captions_of(rows),
            files=picture.files(),
            feature=picture.feature,
        )
        for rows, picture in zip(images, read_pictures(stored, split), strict=True)
    ]


def all_records(stored: StoredSet) -> dict[str, list[Record]]:
    """The images of every split."""
    return {split: read_records(stored, split) for split in SPLITS}
