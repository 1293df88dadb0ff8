"""The pictures or vision features of a paper's set: where they are, and which of them cannot be used.

Source: NRCCR, LECCR (names and places).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cl2cm_jax.data.media.images import ImageError, decode
from cl2cm_jax.data.readers.feature_file import FeatureFile
from cl2cm_jax.data.sets.paper.features import (
    FRAME_FILES,
    FrameFolder,
    read_frame_folder,
    read_image_features,
    read_image_files,
    read_image_ids,
    read_shape,
)
from cl2cm_jax.data.sets.paper.files import FEATURES, TEXT, Search
from cl2cm_jax.errors import UserError

_FEATURE_PARTS = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


class Vision:
    """The pictures or features of one split.

    Attributes:
      where: the list that ids belong to, for messages.
    """

    where: str

    def ids(self) -> Iterable[str]:
        """All media ids; none where there is no list of them."""
        raise NotImplementedError

    def reason_against(self, media: str) -> str:
        """Why it cannot be used; "" if it is good."""
        raise NotImplementedError

    def picture(self, media: str) -> str:
        """The absolute path of its picture; "" if it has features."""
        del media
        return ""

    def row(self, media: str) -> np.ndarray:
        """Its features (frames, d)."""
        raise NotImplementedError


class Pictures(Vision):
    """A folder of pictures, `<id>.jpg` or as a list of files has them, and the ids of a split where they are listed."""

    def __init__(self, folder: Path, *, files: dict[str, str] | None = None, listed: Path | None = None):
        self._folder, self._files = folder, files
        self._listed = read_image_ids(listed) if listed else []
        self._known = frozenset(self._listed)
        self.where = str(listed or folder)

    def ids(self) -> Iterable[str]:
        return self._listed

    def reason_against(self, media: str) -> str:
        if self._known and media not in self._known:
            return f"{media!r} is not in {self.where}; the two must name the same images"
        if self._files is not None and media not in self._files:
            return f"{media!r} is not in image_ids.txt; add it or remove its captions"
        base = os.path.abspath(self._folder)
        if os.path.commonpath([base, self.picture(media)]) != base:
            return f"{media!r} is {self._path(media)}, which is outside {self._folder}"
        try:
            decode(self._path(media), enough=1)
        except ImageError as error:
            return str(error)
        return ""

    def picture(self, media: str) -> str:
        return os.path.abspath(self._path(media))

    def _path(self, media: str) -> str:
        return str(self._folder / (f"{media}.jpg" if self._files is None else self._files[media]))


class Features(Vision):
    """Features of images or of the frames of videos."""

    def __init__(self, features: FeatureFile | FrameFolder, *, where: Path):
        self._features, self.where = features, str(where)

    def ids(self) -> Iterable[str]:
        return self._features.row_of

    def reason_against(self, media: str) -> str:
        if media not in self._features.row_of:
            return f"{media!r} is not in {self.where}; the two must name the same images or videos"
        values = self._features.row(media)
        if not len(values):
            return f"video {media!r} has no frame in {self.where}; add its frames or remove its captions"
        if not np.isfinite(values).all():
            return f"{media!r} has NaN or infinite features; compute them anew"
        return ""

    def row(self, media: str) -> np.ndarray:
        return self._features.row(media)


class VisionFiles(NamedTuple):
    """The vision files of a set, found and not yet read.

    Attributes:
      paths: all of them; a folder of pictures represents its pictures.
      read: () -> the pictures or features of each split; raises a UserError where a file is malformed.
      shape: () -> (frames or None, d) of features; None for pictures.
    """

    paths: list[Path]
    read: Callable[[], Mapping[str, Vision]]
    shape: Callable[[], tuple[int | None, int]] | None = None


def find_vision(search: Search, *, target: str, images: str, features: str) -> VisionFiles:
    """Looks for pictures, or features where they are named.

    Args:
      search: remembers what is missing.
      target: language whose lists of validation and test images count (mscoco).
      images: folder of the pictures; "" is the tree's own.
      features: "" for pictures; else the name of features in FeatureData/, or a folder.
    """
    if not features:
        return _find_pictures(search, target=target, images=images)
    if not search.paper.pictures:
        return _find_frames(search, features)
    return _find_image_features(search, features, target=target)


def _find_pictures(search: Search, *, target: str, images: str) -> VisionFiles:
    if images and not Path(images).is_dir():
        raise UserError(f"config.data.images={images!r} is not a folder; name the folder with the pictures")
    paper = search.paper
    name = paper.pictures
    folder = Path(images) if images else search.file([name], [search.root])
    places = [search.root, search.root / name, search.root / FEATURES]
    table = search.file([paper.picture_names], places, is_required=False) if paper.picture_names else None
    lists = {
        split: search.file(names, [search.root / FEATURES, search.root / TEXT], is_required=False)
        for split, names in search.paper.id_lists(target).items()
    }

    def read() -> Mapping[str, Vision]:
        assert folder is not None
        files = read_image_files(table) if table else None
        return {split: Pictures(folder, files=files, listed=listed) for split, listed in lists.items()}

    found = [path for path in (folder, table, *lists.values()) if path]
    return VisionFiles(found, read)


def _find_frames(search: Search, features: str) -> VisionFiles:
    folder = Path(features) if Path(features).is_dir() else search.root / FEATURES / features
    found = [path for name in FRAME_FILES if (path := search.file([name], [folder]))]

    def read() -> Mapping[str, Vision]:
        frames = Features(read_frame_folder(folder), where=folder / "video2frames.txt")
        return dict.fromkeys(_FEATURE_PARTS, frames)

    return VisionFiles(found, read, lambda: (None, read_shape(folder / "shape.txt")[1]))


def _find_image_features(search: Search, features: str, *, target: str) -> VisionFiles:
    root, name = search.root, Path(features).name
    own = [Path(features)] if Path(features).is_dir() else [root / FEATURES / name, root / name]
    found: dict[str, tuple[Path, Path]] = {}
    for split, list_names in search.paper.id_lists(target).items():
        part = _FEATURE_PARTS[split]
        values = search.file([f"{part}-{name}-avgpool.npy"], [*own, root / FEATURES])
        ids = search.file(list_names, [*own, root / FEATURES, root / TEXT])
        if values and ids:
            found[split] = values, ids

    def shape() -> tuple[int, int]:
        shapes = {split: read_image_features(*files).shape for split, files in found.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(f"config.data.features={features!r}: the splits differ in (frames, size): {shapes}")
        return shapes["train"]

    def read() -> Mapping[str, Vision]:
        return {split: Features(read_image_features(values, ids), where=ids) for split, (values, ids) in found.items()}

    return VisionFiles([path for files in found.values() for path in files], read, shape)
