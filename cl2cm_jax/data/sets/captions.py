"""The `captions` set: a user's own pictures or clips, or features of them, or webdataset shards, and captions.

The image id is the picture's path within the images folder (paths that lead out of it are refused), the id of its
features, or the key of its sample; a clip is an animated file or a folder of frames.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from cl2cm_jax.data.caption_sets import CaptionSet, fingerprint
from cl2cm_jax.data.captions import CaptionTable
from cl2cm_jax.data.media.clips import frame_files
from cl2cm_jax.data.media.images import ImageError
from cl2cm_jax.data.readers.caption_file import read_caption_file, without_repeats
from cl2cm_jax.data.readers.feature_file import read_feature_file
from cl2cm_jax.data.readers.picture_checks import Mapper
from cl2cm_jax.data.readers.picture_names import with_files
from cl2cm_jax.data.readers.shards import shard_files
from cl2cm_jax.data.readers.usable_images import from_features, from_folder, from_shards
from cl2cm_jax.errors import UserError


def dataset(data: ConfigDict) -> CaptionSet:
    """The set of `config.data`.

    Raises:
      UserError: an input is not named or not there, or the caption file as a whole cannot be read.
    """
    _check(data)
    shards = shard_files(data.shards) if data.shards else []

    @functools.cache  # parsed once, for the fingerprint and for the build
    def captions() -> CaptionTable:
        table = read_caption_file(data.captions, image_is_path=bool(data.images)) if data.captions else CaptionTable([])
        rows = with_files(table.rows, data.images) if data.images else table.rows
        return table if rows == table.rows else without_repeats(rows, table.problems, path=data.captions)

    @functools.cache
    def features():  # noqa: ANN202
        return read_feature_file(data.features, data.feature_ids)

    def read(folder: Path, mapper: Mapper) -> CaptionTable:
        del folder
        if data.features:
            return from_features(captions(), data.captions, features(), ids=data.feature_ids, path=data.features)
        if shards:
            options = {"source": data.source, "frames": data.frames, "mapper": mapper}
            return from_shards(captions(), data.captions, shards, **options)
        return from_folder(captions(), data.captions, data.images, frames=data.frames, mapper=mapper)

    files = [path for path in (data.captions, data.features, data.feature_ids) if path] + shards
    if data.images:
        files += _pictures(data.images, {row.image for row in captions().rows}, data.frames)
    settings = [os.path.abspath(data.images) if data.images else "", data.on_error]
    settings += [str(data.frames)] if data.frames > 1 else []
    settings += [data.source] if shards else []
    return CaptionSet(
        name="captions",
        read=read,
        inputs=fingerprint(files, settings=tuple(settings)),
        pictures=data.images or _common_folder(shards),
        description="A user's own pictures and captions.",
        on_error=data.on_error,
        frames=data.frames,
        feature_shape=(lambda: features().shape) if data.features else None,
        feature=(lambda split, image: features().row(image)) if data.features else None,
        origin=data.captions or f"the shards beside {shards[0]}",
        draws_splits=True,
    )


def _check(data: ConfigDict) -> None:
    if sum(map(bool, (data.images, data.features, data.shards))) != 1:
        raise UserError(
            f"config.data.images={data.images!r}, config.data.features={data.features!r} and "
            f"config.data.shards={data.shards!r}: name one of them, a folder of pictures, a .npy file of features or "
            "webdataset shards"
        )
    if data.features and not data.feature_ids:
        raise UserError("config.data.feature_ids='' must name the file with the image id of each feature row")
    if data.images and not Path(data.images).is_dir():
        raise UserError(f"config.data.images={data.images!r} is not a folder; name the folder with the pictures")
    if not data.captions and not data.shards:
        raise UserError("config.data.captions='' must name a CSV, TSV or JSONL file")
    for field in ("captions", "features", "feature_ids"):
        path = data[field]
        if path and not Path(path).is_file():
            hint = "check the path" if not data.shards else "check the path, or name none (--config.data.captions=)"
            raise UserError(f"config.data.{field}={path!r} is not a file; {hint}")


def _common_folder(files: Iterable[str]) -> str:
    folders = [os.path.dirname(os.path.abspath(file)) for file in files]
    return os.path.commonpath(folders) if folders else ""


def _pictures(folder: str, images: Iterable[str], frames: int) -> Iterator[str]:
    """Paths of the files and folders that a caption file names, and of the frames in these folders."""
    for image in sorted(images):
        path = os.path.join(folder, image)
        yield path
        try:
            yield from map(str, frame_files(path) if frames > 1 and os.path.isdir(path) else [])
        except ImageError:
            pass  # a folder without frames is a problem of the build
