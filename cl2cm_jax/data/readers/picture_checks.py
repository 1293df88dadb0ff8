"""Whether the pictures, clips or features that captions name can be used, before a set is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cl2cm_jax.data.media.clips import decode_clip, taken_files
from cl2cm_jax.data.media.images import SUFFIXES, ImageError, decode
from cl2cm_jax.data.readers.caption_file import Row
from cl2cm_jax.data.readers.feature_file import FeatureFile
from cl2cm_jax.data.readers.problems import Problem


class Mapper(Protocol):
    """Applies a function to items, both JSON, and returns the results in the order of the items."""

    def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]: ...


def in_threads(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The `Mapper` of a single machine."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, items))


def reason_against(source: bytes | str, frames: int) -> tuple[str, bool]:
    """Why a picture or clip cannot be used, or what to know about it (True); ("", False) if all is well.

    Args:
      source: the bytes of a file, or the path of a file or of a folder of frames.
      frames: most frames of a clip; 1 is a picture.
    """
    is_path = isinstance(source, str)
    if frames > 1:
        try:
            for _ in decode_clip(taken_files(source, most=frames) if is_path else [source], most=frames):
                pass
        except ImageError as serious:
            return str(serious), False
        return "", False
    if is_path and os.path.isdir(source):
        return f"{source} is a folder; set config.data.frames to 2 or more to read its pictures as a clip", False
    try:
        decode(source, on_animated="refuse")
    except ImageError:
        try:
            decode(source)
        except ImageError as serious:
            return str(serious), False
        return f"{source if is_path else 'the image'} is animated; its first frame is used", True
    return "", False


def bad_pictures(
    by_image: Mapping[str, Sequence[Row]], *, captions: str, images: str, frames: int, mapper: Mapper
) -> list[tuple[str, Problem]]:
    """(image, problem) of the pictures that the captions name, and a note for each picture that no caption names.

    Args:
      by_image: the captions of each picture.
      captions: path of the caption file.
      images: folder of the pictures.
      frames: as in `reason_against`.
      mapper: where the pictures are decoded.
    """
    reasons = mapper(partial(_reason_against_file, images=images, frames=frames), list(by_image))
    problems = [
        (image, Problem(captions, rows[0].line, "image", reason, is_note=is_note))
        for (image, rows), (reason, is_note) in zip(by_image.items(), reasons, strict=True)
        if reason
    ]
    notes = [
        (image, Problem(images, None, "image", f"{image!r} has no caption and is not used", is_note=True))
        for image in _pictures_below(images)
        if image not in by_image and not (frames > 1 and os.path.dirname(image) in by_image)
    ]
    return problems + notes


def _reason_against_file(image: str, *, images: str, frames: int) -> tuple[str, bool]:
    if os.path.isabs(image) or image in (".", "..") or image.startswith("../"):
        return f"is {image!r}, which is not within config.data.images; copy the picture into it", False
    return reason_against(os.path.join(images, image), frames)


def bad_features(
    by_image: Mapping[str, Sequence[Row]], features: FeatureFile, *, captions: str, feature_ids: str, path: str
) -> list[tuple[str, Problem]]:
    """(image, problem) of features that are missing or not finite, and a note for each that no caption names."""
    problems = []
    for image, rows in by_image.items():
        if image not in features.row_of:
            reason = f"{image!r} is not in {feature_ids}; add it or remove its rows"
        elif not np.isfinite(features.row(image)).all():
            reason = f"{image!r} has NaN or infinite values in {path} (as float32); compute them anew"
        else:
            continue
        problems.append((image, Problem(captions, rows[0].line, "image", reason)))
    notes = [
        (image, Problem(feature_ids, row + 1, "id", f"{image!r} has no caption and is not used", is_note=True))
        for image, row in features.row_of.items()
        if image not in by_image
    ]
    return problems + notes


def _pictures_below(folder: str) -> list[str]:
    """Paths within `folder` of all files with an ending of a picture."""
    files = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sorted(file.relative_to(folder).as_posix() for file in files if file.suffix.lower() in SUFFIXES)
